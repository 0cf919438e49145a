"""``--baseline``: what moved by more than the spread is named, what did not is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from records import record, three_rounds, turn

from aionet.bench.baseline import compare, comparison_text, read_record
from aionet.bench.children import BenchError


def moved(now: list[dict[str, Any]], then: list[dict[str, Any]]) -> list[str]:
    c = three_rounds("c", 1, 1, 1)
    return [change.peer for change in compare(record(*c, *now), record(*c, *then)).moved]


def test_what_moved_by_more_than_the_spread_is_named() -> None:
    assert moved(three_rounds("aionet", 0.60, 0.61, 0.62), three_rounds("aionet", 0.80, 0.81, 0.79)) == [
        "aionet"
    ]


def test_what_moved_by_less_than_either_runs_spread_is_not() -> None:
    wide, narrow = three_rounds("aionet", 0.60, 0.75, 0.90), three_rounds("aionet", 0.80, 0.81, 0.79)
    assert moved(wide, narrow) == []
    assert moved(narrow, wide) == []


def test_a_slower_machine_does_not_move_a_ratio() -> None:
    then = record(*three_rounds("c", 1, 1, 1), *three_rounds("aionet", 0.8, 0.8, 0.8))
    now = record(*three_rounds("c", 0.5, 0.4, 0.5), *three_rounds("aionet", 0.4, 0.32, 0.4))
    assert compare(now, then).moved == ()


def test_a_single_round_needs_more_to_have_moved() -> None:
    assert moved([turn("aionet", 0.74)], [turn("aionet", 0.80)]) == []
    assert moved([turn("aionet", 0.70)], [turn("aionet", 0.80)]) == ["aionet"]


def test_the_text_says_which_way_and_by_how_much() -> None:
    then = record(
        *three_rounds("c", 1, 1, 1),
        *three_rounds("aionet", 0.8, 0.8, 0.8),
        *three_rounds("trio", 0.1, 0.1, 0.1),
    )
    now = record(
        *three_rounds("c", 1, 1, 1),
        *three_rounds("aionet", 0.6, 0.6, 0.6),
        *three_rounds("trio", 0.1, 0.1, 0.1),
        python={"version": "3.13.0"},
    )
    said = comparison_text(compare(now, then)).splitlines()
    assert said == [
        "not the same python version: 3.11.2 -> 3.13.0",
        "1 of 2 moved by more than the spread",
        "  aionet  accept, 64 at a time  0.80 C -> 0.60 C  -25% (worse; spread 3%)",
    ]


def test_less_memory_is_better() -> None:
    def idle(size: int) -> dict[str, Any]:
        numbers = {"workload": "idle", "requests_per_cpu_second": None, "private_bytes_per_connection": size}
        return record(*three_rounds("aionet", 1, 1, 1, **numbers))

    assert "2,000 B -> 1,500 B  -25% (better" in comparison_text(compare(idle(1500), idle(2000)))


def test_runs_with_nothing_in_common_say_so() -> None:
    said = comparison_text(
        compare(record(turn("c", 1), turn("aionet", 1)), record(turn("c", 1), turn("trio", 1)))
    )
    assert "nothing to compare" in said


def test_a_stored_record_is_read_back(tmp_path: Path) -> None:
    stored = tmp_path / "record.json"
    stored.write_text(json.dumps(record(turn("c", 1))))
    assert read_record(stored) == record(turn("c", 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no json", "not JSON"),
        ("[]", "it has no schema"),
        ('{"schema": 7}', "its schema is 7, and 1 is what is read here"),
        ('{"schema": 1, "turns": 3}', "its turns are 3"),
        ('{"schema": 1, "turns": [{"peer": "c"}]}', "turn 0 has no workload, connections, size, round"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, text: str, expected: str) -> None:
    stored = tmp_path / "record.json"
    stored.write_text(text)
    with pytest.raises(BenchError, match=expected) as caught:
        read_record(stored)
    assert str(stored) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"absent\.json: No such file"):
        read_record(tmp_path / "absent.json")
