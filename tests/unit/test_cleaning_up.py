"""Work that is seen through ends, however often its caller is cancelled."""

from __future__ import annotations

import asyncio

import pytest
from helpers import give_turns

from aionet.cleaning_up import see_through

pytestmark = pytest.mark.asyncio


async def test_it_ends_although_it_is_cancelled_again_and_again():
    go_on, ended = asyncio.Event(), []

    async def work():
        await go_on.wait()
        ended.append(True)

    async def clean_up():
        await see_through(work())

    cleaning = asyncio.create_task(clean_up())
    for _ in range(5):
        await give_turns(2)
        cleaning.cancel()
    await give_turns()
    assert not cleaning.done()
    go_on.set()
    await cleaning
    assert ended == [True]


async def test_what_it_raises_is_raised():
    async def work():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await see_through(work())
