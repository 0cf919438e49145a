"""The shapes that a coroutine may have: deep ones, and what people wrote themselves."""

from __future__ import annotations

import asyncio
import collections.abc
import types

import pytest
from helpers import give_turns

pytestmark = pytest.mark.asyncio


async def test_a_deep_chain_of_coroutines(stage, wait):
    async def chain(depth):
        if depth == 0:
            await stage.prologue()
            return await wait()
        return await chain(depth - 1)

    task = await stage.begin(chain(100))
    wait.end()
    assert await task == b"end"


async def test_an_exception_through_a_deep_chain(stage, wait):
    passed = []

    async def chain(depth):
        try:
            if depth == 0:
                await stage.prologue()
                await wait()
            else:
                await chain(depth - 1)
        finally:
            passed.append(depth)

    task = await stage.begin(chain(100))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert passed == list(range(101))


class Message:
    """An awaitable of the user's own."""

    def __init__(self, sock):
        self._sock = sock

    def __await__(self):
        data = yield from self._sock.read_exactly(4).__await__()
        yield  # a turn of the loop
        return data, (yield from self._sock.read_exactly(4).__await__())


async def test_an_awaitable_of_ones_own(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()
        return await Message(stage.sock)

    task = await stage.begin(handler())
    wait.end()
    for data in (b"one.", b"two."):
        await give_turns(20)
        stage.peer.send_now(data)
    assert await task == (b"one.", b"two.")


@types.coroutine
def trampolined(coroutine):
    """Run `coroutine` by hand."""
    step, argument = coroutine.send, None
    while True:
        try:
            yielded = step(argument)
        except StopIteration as stop:
            return stop.value
        try:
            step, argument = coroutine.send, (yield yielded)
        except BaseException as error:
            step, argument = coroutine.throw, error


async def test_a_coroutine_that_is_run_by_hand(stage, wait):
    async def handler():
        await stage.prologue()
        first = await trampolined(wait())
        await asyncio.sleep(0)
        return first, await trampolined(stage.sock.read_exactly(4))

    task = await stage.begin(trampolined_in_full(handler()))
    wait.end()
    await give_turns(20)
    stage.peer.send_now(b"more")
    assert await task == (b"end", b"more")


async def trampolined_in_full(coroutine):
    return await trampolined(coroutine)


async def test_a_coroutine_that_is_run_by_hand_is_cancelled(stage, wait):
    async def handler():
        await stage.prologue()
        try:
            await trampolined(wait())
        except asyncio.CancelledError as error:
            return error.args, await trampolined(stage.sock.read())

    task = await stage.begin(handler())
    task.cancel("by hand")
    await give_turns()
    stage.peer.send_now(b"more")
    assert await task == (("by hand",), b"more")


class Wrapped(collections.abc.Coroutine):
    """A coroutine that is only like one, as Cython and tracers make them: without frame and code."""

    def __init__(self, coroutine):
        self._coroutine = coroutine

    def send(self, value):
        return self._coroutine.send(value)

    def throw(self, *error):
        return self._coroutine.throw(*error)

    def close(self):
        return self._coroutine.close()

    def __await__(self):
        return self._coroutine.__await__()


async def test_a_coroutine_that_is_only_like_one(stage, wait):
    async def handler():
        await stage.prologue()
        return await wait(), await stage.sock.read_exactly(4)

    task = await stage.begin(Wrapped(handler()))
    repr(task)
    wait.end()
    await give_turns(20)
    stage.peer.send_now(b"more")
    assert await task == (b"end", b"more")
    repr(task)


async def test_a_coroutine_that_is_only_like_one_is_cancelled(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()

    task = await stage.begin(Wrapped(handler()))
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("enough",)


async def test_a_task_of_nothing_but_a_read(stage):
    task = stage.make_task(stage.sock.read(), name="reading")
    await give_turns()
    assert "reading" in repr(task)
    assert not task.done()
    stage.peer.send_now(b"data")
    assert await task == b"data"
    task = stage.make_task(stage.sock.read())
    await give_turns()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("enough",)


@pytest.mark.parametrize("wrong", [None, "text", len, iter(())], ids=lambda wrong: type(wrong).__name__)
async def test_what_is_no_coroutine_is_refused(make_task, wrong):
    with pytest.raises(TypeError, match="coroutine"):
        make_task(wrong)
