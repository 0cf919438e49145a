"""So many connections a second of each peer, at a bounded cost of memory."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aionet.limiting import peer_rate
from aionet.limiting.peer_rate import PeerRate


class Loop:
    """Timers, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 50.0
        self.steps = 0
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, function: Callable[[], object]) -> Any:
        entry = (when, next(self._numbers), function)
        heapq.heappush(self._timers, entry)
        return SimpleNamespace(cancel=lambda: self._timers.remove(entry))

    def call_later(self, seconds: float, function: Callable[[], object]) -> Any:
        return self.call_at(self.now + seconds, function)

    def call_soon(self, function: Callable[[], object]) -> Any:
        return self.call_at(self.now, function)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            when, _, function = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            self.steps += 1
            function()
        self.now = until

    @property
    def idle(self) -> bool:
        return not self._timers


def limited(rate: float) -> tuple[PeerRate, Loop]:
    loop = Loop()
    return PeerRate(rate, loop), loop  # type: ignore[arg-type]


def begun(rate: PeerRate, peer: object, wanted: int) -> int:
    count = 0
    while count < wanted and rate.allows(peer):
        rate.take(peer)
        count += 1
    return count


@pytest.mark.parametrize(("rate", "burst"), [(0.25, 1), (1, 1), (3, 3), (7.5, 7), (1000, 1000)])
def test_a_burst_and_then_the_rate(rate: float, burst: int) -> None:
    limit, loop = limited(rate)
    assert begun(limit, "one", 5000) == burst
    assert begun(limit, "another", 5000) == burst
    loop.pass_time(1 / rate)
    assert begun(limit, "one", 5000) == 1
    loop.pass_time(1000 / rate)
    assert begun(limit, "one", 5000) == burst


@given(rate=st.floats(0.1, 1000), steps=st.lists(st.floats(0.001, 5), min_size=1, max_size=20))
def test_never_more_than_the_rate_and_one_burst(rate: float, steps: list[float]) -> None:
    limit, loop = limited(rate)
    started, came = loop.now, 0
    for step in steps:
        came += begun(limit, "peer", 10_000)
        assert came <= max(rate, 1.0) + (loop.now - started) * rate + 1e-3
        loop.pass_time(step)


@pytest.mark.parametrize("rate", [0.1, 1, 20])
def test_entries_vanish_when_their_buckets_are_full(rate: float) -> None:
    limit, loop = limited(rate)
    for peer in range(10_000):
        begun(limit, peer, 2)
    assert len(limit) == 10_000
    before = loop.steps
    loop.pass_time(2 * max(1.0, 1 / rate))
    assert len(limit) == 0
    assert loop.idle
    assert loop.steps - before >= 10_000 / peer_rate._AT_A_TIME  # in slices


def test_a_peer_that_comes_again_and_again_keeps_its_entry() -> None:
    limit, loop = limited(1)
    came = 0
    for _ in range(100):
        came += begun(limit, "often", 1)
        begun(limit, object(), 1)
        loop.pass_time(0.1)
        assert len(limit) <= 30
    assert came == 10


def test_there_is_a_bound_on_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_rate, "_MOST", 100)
    limit, _ = limited(0.001)
    for peer in range(1000):
        assert begun(limit, peer, 2) == 1
    assert len(limit) == 100
    assert not limit.allows(999)


def test_closed_it_holds_nothing() -> None:
    limit, loop = limited(0.001)
    begun(limit, "peer", 1)
    limit.close()
    assert loop.idle
    assert len(limit) == 0
