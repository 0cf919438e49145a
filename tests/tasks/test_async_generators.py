"""Async generators and context managers whose bodies wait for sockets."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from helpers import give_turns, until

pytestmark = pytest.mark.asyncio


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
