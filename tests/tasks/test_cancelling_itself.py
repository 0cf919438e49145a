"""A task that cancels itself, while it runs: the cancellation comes true at its next wait, or at its end."""

from __future__ import annotations

import asyncio
import sys

import pytest
from helpers import give_turns

pytestmark = pytest.mark.asyncio


def cancel_itself(message=None):
    task = asyncio.current_task()
    assert task is not None
    assert task.cancel(message)


async def test_its_next_wait_raises(stage, wait):
    seen = []

    async def handler():
        await stage.prologue()
        cancel_itself("myself")
        seen.append(asyncio.current_task().cancelling())
        try:
            await wait()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    task = await stage.begin(handler())
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert task.cancelled()
    assert seen == [1, ("myself",)]
    assert caught.value.args == ("myself",)


async def test_what_it_awaits_next_is_cancelled(stage, wait):
    async def handler():
        await stage.prologue()
        cancel_itself()
        await wait()

    task = await stage.begin(handler())
    await asyncio.wait([task])
    assert task.cancelled()
    assert wait.awaited is None or wait.awaited.cancelled()


async def test_a_task_that_it_awaits_next_is_told(stage):
    seen = []

    async def inner():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    async def handler():
        await stage.prologue()
        child = stage.make_task(inner())
        await asyncio.sleep(0)
        cancel_itself("both of us")
        await child

    task = await stage.begin(handler())
    await asyncio.wait([task])
    assert task.cancelled()
    assert seen == [("both of us",)]


class Stubborn(asyncio.Future):
    """Refuses to be cancelled."""

    def cancel(self, msg=None):
        return False


async def test_what_refuses_to_be_cancelled_is_waited_for_first(stage):
    future = Stubborn()
    seen = []

    async def handler():
        await stage.prologue()
        cancel_itself("myself")
        try:
            await future
        except asyncio.CancelledError as error:
            seen.append((future.done(), error.args))
        return await stage.sock.read()

    task = await stage.begin(handler())
    await give_turns()
    assert seen == []
    future.set_result(None)
    await give_turns()
    assert seen == [(True, ("myself",))]
    stage.peer.send_now(b"next")
    assert await task == b"next"


async def test_a_bare_yield_raises(stage):
    seen = []

    async def handler():
        await stage.prologue()
        cancel_itself("myself")
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            seen.append(error.args)
        return await stage.sock.read()

    task = await stage.begin(handler())
    await give_turns()
    assert seen == [("myself",)]
    stage.peer.send_now(b"next")
    assert await task == b"next"


async def test_returning_ends_it_cancelled(stage):
    async def handler():
        await stage.prologue()
        cancel_itself("myself")
        return "result"

    task = await stage.begin(handler())
    assert task.cancelled()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("myself",)


async def test_raising_ends_it_with_the_exception(stage):
    async def handler():
        await stage.prologue()
        cancel_itself("myself")
        raise ValueError("oops")

    task = await stage.begin(handler())
    assert not task.cancelled()
    assert str(task.exception()) == "oops"


async def test_returning_after_a_wait_that_raised_is_a_result(stage, wait):
    async def handler():
        await stage.prologue()
        cancel_itself()
        try:
            await wait()
        except asyncio.CancelledError:
            return "result"

    task = await stage.begin(handler())
    assert await task == "result"
    assert task.cancelling() == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_it_raises_once_and_further_waits_are_as_ever(stage, wait, times):
    raised = []

    async def handler():
        await stage.prologue()
        for _ in range(times):
            cancel_itself()
        try:
            await wait()
        except asyncio.CancelledError:
            raised.append(asyncio.current_task().cancelling())
        first = await wait()
        await asyncio.sleep(0)
        return first, await stage.sock.read_exactly(4)

    task = await stage.begin(handler())
    assert raised == [times]
    wait.end()
    await give_turns()
    stage.peer.send_now(b"more")
    assert await task == (b"end", b"more")


async def test_again_and_again(stage, wait):
    async def handler():
        await stage.prologue()
        for number in range(3):
            cancel_itself(number)
            with pytest.raises(asyncio.CancelledError) as caught:
                await wait()
            assert caught.value.args == (number,)
            await asyncio.sleep(0)
        return await wait()

    task = await stage.begin(handler())
    await give_turns()
    wait.end()
    assert await task == b"end"
    assert task.cancelling() == 3


async def test_data_that_are_ready_are_not_lost(stage):
    read = []

    async def handler():
        await stage.prologue()
        stage.peer.send_now(b"kept")
        read.append(await stage.sock.read(1))
        cancel_itself()
        while True:
            read.append(await stage.sock.read(1))

    task = await stage.begin(handler())
    await asyncio.wait([task])
    assert task.cancelled()
    stage.peer.half_close()
    while data := await stage.sock.read():
        read.append(data)
    assert b"".join(read) == b"kept"


async def test_while_it_handles_a_cancellation_by_others(stage, wait):
    seen = []

    async def handler():
        await stage.prologue()
        try:
            await wait()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            cancel_itself("again")
        try:
            await stage.sock.read()
        except asyncio.CancelledError as error:
            seen.append(error.args)
        return asyncio.current_task().cancelling()

    task = await stage.begin(handler())
    task.cancel("from outside")
    assert await task == 2
    assert seen == [("from outside",), ("again",)]


async def test_taken_back_before_the_next_wait(stage, wait):
    raised = []

    async def handler():
        await stage.prologue()
        cancel_itself()
        assert asyncio.current_task().uncancel() == 0
        try:
            return await wait()
        except asyncio.CancelledError:
            raised.append(None)
            return b"end"

    task = await stage.begin(handler())
    await give_turns()
    if not task.done():
        wait.end()
    assert await task == b"end"
    assert len(raised) == (0 if sys.version_info >= (3, 13) else 1)


async def test_in_a_callback_of_the_same_turn_it_is_like_any_other(stage, wait):
    async def handler():
        await stage.prologue()
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel, "soon")
        await wait()

    task = await stage.begin(handler())
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("soon",)


async def test_within_a_shield_only_the_outside_is_cancelled(stage):
    async def handler():
        await stage.prologue()
        reading = asyncio.create_task(stage.sock.read())
        cancel_itself()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.shield(reading)
        assert not reading.done()
        return await reading

    task = await stage.begin(handler())
    await give_turns()
    stage.peer.send_now(b"read")
    assert await task == b"read"


async def test_a_task_that_it_awaits_next_may_swallow_the_cancellation(stage):
    async def inner():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "swallowed"

    async def handler():
        child = stage.make_task(inner())
        await stage.prologue()
        await stage.sock.read()
        cancel_itself()
        return await child, await stage.sock.read(), asyncio.current_task().cancelling()

    task = await stage.begin(handler())
    for data in (b"first", b"next"):
        stage.peer.send_now(data)
        await give_turns()
    assert await task == ("swallowed", b"next", 1)
