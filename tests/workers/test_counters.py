"""Sums over workers that come and go."""

from __future__ import annotations

from aionet.workers.counters import Counters


def test_what_ended_workers_counted_stays():
    counters = Counters()
    counters.tell(1, {"accepted": 5, "active": 2, "completed": 3})
    counters.tell(2, {"accepted": 7, "active": 1, "completed": 6})
    assert counters.total() == {"accepted": 12, "active": 3, "completed": 9}
    counters.end(1)
    assert counters.total() == {"accepted": 12, "active": 1, "completed": 9, "lost": 2}
    assert counters.of_each() == {2: {"accepted": 7, "active": 1, "completed": 6}}
    counters.end(3)  # it had never said anything
    assert counters.total()["accepted"] == 12
