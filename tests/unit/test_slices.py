"""Slices of work: nothing is lost, nothing overtakes, and the loop has turns in between."""

from __future__ import annotations

import asyncio

import pytest
from helpers import give_turns

from aionet.wires.budget import BUDGET, END_UNITS
from aionet.wires.slices import Slice, Slices

pytestmark = pytest.mark.asyncio

PER_SLICE = BUDGET // END_UNITS


@pytest.mark.parametrize(("seconds", "most"), [(0.0001, BUDGET), (0.003, PER_SLICE)], ids=["short", "long"])
async def test_calls_are_made_in_order_and_so_many_in_a_turn(
    monkeypatch: pytest.MonkeyPatch, seconds: float, most: int
) -> None:
    """More in a turn where the turns are short."""
    now = [5.0]
    monkeypatch.setattr("aionet.wires.slices.perf_counter", lambda: now[0])
    made: list[int] = []
    slices = Slices(asyncio.get_running_loop())
    for number in range(1000):
        slices.add(lambda number=number: made.append(number))  # type: ignore[misc]
    assert len(made) == PER_SLICE  # the first slice has no turn to wait for
    longest = 0
    while (before := len(made)) < 1000:
        now[0] += seconds
        await asyncio.sleep(0)
        assert before < len(made) <= before + most
        longest = max(longest, len(made) - before)
    assert longest == most
    assert made == list(range(1000))


async def test_a_call_that_raises_does_not_keep_the_others_from_being_made(
    loop_complaints: list[str],
) -> None:
    made: list[int] = []
    loop = asyncio.get_running_loop()
    slices = Slices(loop)
    told: list[object] = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    def call(number: int) -> None:
        if number == PER_SLICE:
            raise ZeroDivisionError
        made.append(number)

    for number in range(2 * PER_SLICE):
        slices.add(lambda number=number: call(number))  # type: ignore[misc]
    await give_turns(2 * PER_SLICE)
    assert made == [number for number in range(2 * PER_SLICE) if number != PER_SLICE]
    assert [type(error) for error in told] == [ZeroDivisionError]


async def test_calls_of_later_turns_are_not_delayed() -> None:
    made: list[int] = []
    slices = Slices(asyncio.get_running_loop())
    for number in range(3):
        slices.add(lambda number=number: made.append(number))  # type: ignore[misc]
        assert made == list(range(number + 1))
        await give_turns()


async def test_a_slice_is_over_when_its_time_or_its_budget_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr("aionet.wires.slices.perf_counter", lambda: now[0])
    slice = Slice()
    assert not slice.over
    now[0] += 1
    assert slice.over
    await slice.turn()
    assert not slice.over
    slice.take(BUDGET)
    assert slice.over
