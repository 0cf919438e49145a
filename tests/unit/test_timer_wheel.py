"""The timer wheel on a clock of the test's own: no item early, none late by more than a tick, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aionet.limiting.timer_wheel import TimerWheel

TICK = 0.25


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time stands still between steps and goes where the next timer is."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def go_to(self, moment: float) -> None:
        while self._scheduled and self._scheduled[0].when() <= moment:
            self.now = max(self.now, self._scheduled[0].when())
            self.give_turn()
            while self._ready:
                self.give_turn()
        self.now = moment

    def give_turn(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.close()


def make(clock: Clock, on_due: Callable[[str], float | None]) -> TimerWheel[str]:
    async def main() -> TimerWheel[str]:
        return TimerWheel(TICK, on_due)

    return clock.run_until_complete(main())


@given(delays=st.lists(st.floats(0, 20), max_size=30), steps=st.lists(st.floats(0.01, 3), min_size=1))
def test_each_comes_once_and_in_time(delays: list[float], steps: list[float]) -> None:
    clock = Clock()
    try:
        came: dict[str, float] = {}

        def on_due(item: str) -> None:
            assert item not in came
            came[item] = clock.now

        wheel = make(clock, on_due)
        due = {}
        for number, delay in enumerate(delays):
            wheel.add(str(number), delay)
            due[str(number)] = clock.now + delay
            clock.go_to(clock.now + steps[number % len(steps)])
        clock.go_to(clock.now + 30)
        assert came.keys() == due.keys()
        for item, moment in came.items():
            assert -1e-9 <= moment - due[item] <= TICK + 1e-9
        assert len(wheel) == 0
    finally:
        clock.close()


def test_an_item_may_come_again(clock: Clock) -> None:
    came = []

    def on_due(item: str) -> float | None:
        came.append(clock.now - 1000)
        return 1.0 if len(came) < 4 else None

    make(clock, on_due).add("x", 1.0)
    clock.go_to(1100)
    assert came == [1.25, 2.5, 3.75, 5.0]  # each up to a tick late


def test_what_is_forgotten_does_not_come(clock: Clock) -> None:
    came: list[str] = []
    wheel = make(clock, came.append)
    for item in "abc":
        wheel.add(item, 1.0)
    wheel.discard("b")
    wheel.discard("nobody")
    clock.go_to(1100)
    assert sorted(came) == ["a", "c"]


def test_items_may_forget_each_other_while_they_come(clock: Clock) -> None:
    came = []

    def on_due(item: str) -> None:
        came.append(item)
        wheel.discard({"a": "b", "b": "a"}[item])

    wheel = make(clock, on_due)
    wheel.add("a", 1.0)
    wheel.add("b", 1.0)
    clock.go_to(1100)
    assert len(came) == 1
    assert len(wheel) == 0


def test_one_that_raises_does_not_stop_the_others(clock: Clock) -> None:
    came, told = [], []
    clock.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    def on_due(item: str) -> None:
        came.append(item)
        if item == "bad":
            raise ZeroDivisionError

    wheel = make(clock, on_due)
    wheel.add("bad", 1.0)
    wheel.add("good", 1.0)
    wheel.add("later", 2.0)
    clock.go_to(1100)
    assert sorted(came) == ["bad", "good", "later"]
    assert [type(error) for error in told] == [ZeroDivisionError]


def test_a_closed_wheel_leaves_no_timer(clock: Clock) -> None:
    wheel = make(clock, lambda item: pytest.fail(f"{item} came"))
    wheel.add("x", 1.0)
    wheel.close()
    assert len(wheel) == 0
    clock.go_to(1100)


def test_ten_thousand_items_share_a_timer(clock: Clock) -> None:
    came: set[str] = set()
    wheel = make(clock, came.add)
    for number in range(10_000):
        wheel.add(str(number), 1.0)
    assert sum(not timer.cancelled() for timer in clock._scheduled) == 1
    clock.go_to(1002)
    assert len(came) == 10_000
