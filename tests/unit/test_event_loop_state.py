"""What the wires of one loop share."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from aionet.wires.budget import BUDGET
from aionet.wires.event_loop import EventLoopState, running_state


@pytest.mark.asyncio
async def test_one_per_loop():
    state = running_state()
    assert running_state() is state
    assert state.loop is asyncio.get_running_loop()
    assert 0 < state.budget <= BUDGET


def test_none_where_no_loop_runs():
    with pytest.raises(RuntimeError):
        running_state()


def test_another_for_another_loop_and_none_kept_after_it():
    async def find():
        return running_state()

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    states = [loop.run_until_complete(find()) for loop in (first, second)]
    assert states[0] is not states[1]
    assert [state.loop for state in states] == [first, second]
    states.clear()
    first.close()
    second.close()
    gone = weakref.ref(first)
    del first, second
    gc.collect()
    assert gone() is None, "the state keeps its loop alive"


@pytest.mark.asyncio
async def test_yielding_gives_others_a_turn_and_refills_the_budget():
    state = EventLoopState(asyncio.get_running_loop())
    state.budget = 0
    ran = []
    asyncio.get_running_loop().call_soon(ran.append, None)
    await state.yield_turn()
    assert ran
    assert state.budget == BUDGET
