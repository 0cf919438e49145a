"""Sums over workers that come and go."""

from __future__ import annotations

from aionet.workers.counters import Counters


def test_what_ended_workers_counted_stays():
    counters = Counters()
    counters.tell(1, {"accepted": 5, "active": 2, "completed": 3}, {})
    counters.tell(2, {"accepted": 7, "active": 1, "completed": 6}, {})
    assert counters.total() == {"accepted": 12, "active": 3, "completed": 9}
    counters.end(1)
    assert counters.total() == {"accepted": 12, "active": 1, "completed": 9, "lost": 2}
    assert counters.of_each() == {2: {"accepted": 7, "active": 1, "completed": 6}}
    counters.end(3)  # it had never said anything
    assert counters.total()["accepted"] == 12


def test_gauges_go_with_their_worker():
    counters = Counters()
    counters.tell(1, {"seconds": 0.5}, {"lag": 0.25})
    counters.tell(2, {"seconds": 0.25}, {"lag": 0.5})
    assert counters.gauges_of_each() == {1: {"lag": 0.25}, 2: {"lag": 0.5}}
    counters.end(2)
    assert counters.gauges_of_each() == {1: {"lag": 0.25}}
    assert counters.total() == {"seconds": 0.75, "lost": 0}
