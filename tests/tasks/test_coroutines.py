"""The shapes that a coroutine may have: deep ones, generators, managers, and what people wrote themselves."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import types

import pytest
from helpers import give_turns, until

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


async def test_an_async_generator_that_reads(stage, wait):
    async def messages():
        await stage.prologue()
        yield await wait()
        while data := await stage.sock.read(1):
            yield data
            await asyncio.sleep(0)

    async def handler():
        return [message async for message in messages()]

    task = await stage.begin(handler())
    wait.end()
    await give_turns(20)
    stage.peer.send_now(b"abc")
    stage.peer.half_close()
    assert await task == [b"end", b"a", b"b", b"c"]


async def test_an_async_generator_that_is_cancelled_and_closed(stage, wait):
    seen = []

    async def messages():
        try:
            yield 1
            await wait()
            yield 2
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def handler():
        await stage.prologue()
        async with contextlib.aclosing(messages()) as generator:
            async for _ in generator:
                pass

    task = await stage.begin(handler())
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert seen == ["cancelled", "closed"]


async def test_an_async_generator_that_is_dropped_is_closed_by_a_task(stage, wait):
    seen = []

    async def messages():
        try:
            yield await wait()
            yield None
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def handler():
        await stage.prologue()
        async for message in messages():
            return message

    task = await stage.begin(handler())
    wait.end()
    assert await task == b"end"
    await until(lambda: seen)
    await give_turns()


async def test_async_generators_take_values_and_exceptions(stage, wait):
    async def echo():
        received = None
        while True:
            try:
                received = yield received, await stage.sock.read_exactly(1)
            except KeyError:
                received = "an exception"

    async def handler():
        await stage.prologue()
        await wait()
        async with contextlib.aclosing(echo()) as generator:
            stage.peer.send_now(b"1")
            first = await generator.asend(None)
            asyncio.get_running_loop().call_soon(stage.peer.send_now, b"2")
            second = await generator.asend("a value")
            asyncio.get_running_loop().call_soon(stage.peer.send_now, b"3")
            return first, second, await generator.athrow(KeyError())

    task = await stage.begin(handler())
    wait.end()
    assert await task == ((None, b"1"), ("a value", b"2"), ("an exception", b"3"))


async def test_async_context_managers(stage, wait):
    seen = []

    @contextlib.asynccontextmanager
    async def manager():
        seen.append(await stage.sock.read_exactly(1))
        try:
            yield
        except ValueError:
            seen.append(await stage.sock.read_exactly(1))
        finally:
            await asyncio.sleep(0)
            seen.append(await stage.sock.read_exactly(1))

    async def last():
        seen.append(await stage.sock.read_exactly(1))

    async def handler():
        await stage.prologue()
        await wait()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(last)
            await stack.enter_async_context(manager())
            raise ValueError

    task = await stage.begin(handler())
    wait.end()
    for count in range(4):
        await until(lambda: len(seen) == count)  # noqa: B023
        await give_turns()
        stage.peer.send_now(b"%d" % count)
    await task
    assert seen == [b"0", b"1", b"2", b"3"]


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


@pytest.mark.parametrize("wrong", [None, "text", lambda: None, iter(())], ids=["None", "str", "function", "iterator"])
async def test_what_is_no_coroutine_is_refused(make_task, wrong):
    with pytest.raises(TypeError, match="coroutine"):
        make_task(wrong)
