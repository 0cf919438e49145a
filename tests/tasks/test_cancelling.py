"""A task that is cancelled by others."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from helpers import give_turns, until

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("message", [(), ("enough",)], ids=["without message", "with message"])
async def test_cancelling_raises_where_it_waits(stage, wait, message):
    seen = []

    async def handler():
        await stage.prologue()
        try:
            await wait()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    task = await stage.begin(handler())
    assert task.cancel(*message) is True
    assert not task.done()
    assert not task.cancelled()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert seen == [message]
    assert caught.value.args == message
    assert task.cancelled()
    assert task.done()
    with pytest.raises(asyncio.CancelledError):
        task.exception()


async def test_what_has_ended_cannot_be_cancelled(stage):
    async def handler():
        await stage.prologue()
        return "done"

    task = await stage.begin(handler())
    assert task.cancel() is False
    assert task.cancelling() == 0
    assert await task == "done"


async def test_cancelled_before_its_first_step_it_never_runs(stage):
    ran = []

    async def handler():
        ran.append(None)
        await stage.sock.read()

    task = stage.make_task(handler())
    task.cancel("too early")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert ran == []
    assert task.cancelled()
    assert caught.value.args == ("too early",)


async def test_a_cancellation_that_is_swallowed_lets_it_go_on(stage, wait):
    counts = []

    async def handler():
        await stage.prologue()
        try:
            await wait()
        except asyncio.CancelledError:
            counts.append(task.cancelling())
            counts.append(task.uncancel())
        await asyncio.sleep(0)
        return await wait(), await stage.sock.read()

    task = await stage.begin(handler())
    task.cancel()
    await give_turns()
    assert not task.done()
    wait.end()
    await give_turns()
    stage.peer.send_now(b"more")
    first, second = await task
    assert first + second in (b"endmore", b"end\nmore")
    assert counts == [1, 0]
    assert not task.cancelled()


async def test_cancelled_twice_in_one_turn_it_raises_once(stage, wait):
    raised = []

    async def handler():
        await stage.prologue()
        for _ in range(3):
            try:
                return await wait()
            except asyncio.CancelledError:
                raised.append(task.cancelling())

    task = await stage.begin(handler())
    assert task.cancel("first")
    assert task.cancel("second")
    await give_turns()
    assert raised == [2]
    wait.end()
    assert await task == b"end"


async def test_a_second_cancellation_reaches_the_cleaning_up(stage, wait):
    seen = []

    async def handler():
        await stage.prologue()
        try:
            await wait()
        finally:
            try:
                await stage.sock.read()
            except asyncio.CancelledError as error:
                seen.append(error.args)
                raise

    task = await stage.begin(handler())
    task.cancel("first")
    await give_turns()
    assert not task.done()
    assert seen == []
    task.cancel("second")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [("second",)]


async def test_cleaning_up_may_read_and_wait(stage, wait):
    cleaned = []

    async def handler():
        await stage.prologue()
        try:
            await wait()
        finally:
            cleaned.append(await stage.sock.read())
            await asyncio.sleep(0)
            cleaned.append(await stage.sock.read())

    task = await stage.begin(handler())
    task.cancel()
    for data in (b"a", b"b"):
        await give_turns()
        stage.peer.send_now(data)
        await until(lambda: cleaned[-1:] == [data])  # noqa: B023
    await asyncio.wait([task])
    assert task.cancelled()


async def test_the_counts_of_cancelling_go_up_and_down(stage, wait):
    async def handler():
        await stage.prologue()
        while True:
            try:
                return await wait()
            except asyncio.CancelledError:
                pass

    task = await stage.begin(handler())
    assert task.cancelling() == 0
    task.cancel()
    await give_turns()
    task.cancel()
    await give_turns()
    assert task.cancelling() == 2
    assert [task.uncancel() for _ in range(3)] == [1, 0, 0]
    wait.end()
    assert await task == b"end"


async def test_an_exception_in_place_of_the_cancellation_is_its_outcome(stage, wait):
    async def handler():
        await stage.prologue()
        try:
            await wait()
        except asyncio.CancelledError:
            raise ValueError("instead") from None

    task = await stage.begin(handler())
    task.cancel()
    with pytest.raises(ValueError, match="instead"):
        await task
    assert not task.cancelled()


async def test_a_result_in_place_of_the_cancellation_is_its_outcome(stage, wait):
    async def handler():
        await stage.prologue()
        try:
            await wait()
        except asyncio.CancelledError:
            return "instead"

    task = await stage.begin(handler())
    task.cancel()
    assert await task == "instead"


async def test_the_error_that_ends_it_comes_out_of_its_coroutine(stage, wait):
    """With the traceback, also where it waited while it cleaned up."""

    async def inner():
        try:
            await wait()
        finally:
            await stage.sock.read()

    async def handler():
        await stage.prologue()
        await inner()

    task = await stage.begin(handler())
    task.cancel("enough")
    await give_turns()
    stage.peer.send_now(b"data")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("enough",)
    assert {"handler", "inner"} <= {frame.name for frame in traceback.extract_tb(caught.value.__traceback__)}
