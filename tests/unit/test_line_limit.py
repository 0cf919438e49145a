"""So many lines of a kind in a second, and what was left out is counted to the last line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aionet.line_limit import LINES, SECONDS, Excess, LineLimit


def test_a_window_of_one_kind() -> None:
    limit: LineLimit[str] = LineLimit()
    written = [number for number in range(100) if limit.admits("kind", 5.0, f"line {number}".__str__)]
    assert written == list(range(LINES))
    assert limit.due == 5.0 + SECONDS
    assert limit.over(5.9) == []
    assert limit.over(6.0) == [Excess("kind", 90, "line 9")]
    assert limit.due is None
    assert limit.admits("kind", 6.0, str)  # in a window of its own


def test_kinds_do_not_hide_one_another() -> None:
    limit: LineLimit[str] = LineLimit()
    for _ in range(1000):
        limit.admits("flood", 0.0, str)
    assert limit.admits("rare", 0.5, str)
    assert limit.over(1.0) == [Excess("flood", 990, "")]
    assert limit.over(9.0) == []
    assert limit._windows == {}


@given(st.lists(st.tuples(st.floats(0, 0.3), st.sampled_from("abc")), max_size=200))
def test_no_line_is_lost_from_the_count(lines: list[tuple[float, str]]) -> None:
    limit: LineLimit[str] = LineLimit()
    now, written, counted = 0.0, dict.fromkeys("abc", 0), dict.fromkeys("abc", 0)
    for step, kind in lines:
        now += step
        for excess in limit.over(now):
            counted[excess.kind] += excess.left_out
        written[kind] += limit.admits(kind, now, str)
    for excess in limit.over(now + SECONDS):
        counted[excess.kind] += excess.left_out
    for kind in "abc":
        assert written[kind] + counted[kind] == sum(one == kind for _, one in lines)
    windows = now / SECONDS + 1
    assert all(count <= LINES * windows for count in written.values())
