"""anyio's task groups around what a task waits for, and what anyio sees of it."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio.lowlevel import checkpoint
from helpers import give_turns, until

pytestmark = pytest.mark.asyncio


async def test_an_anyio_group_of_reading_tasks(stage, lines, wait):
    read = []

    async def child(line, *, task_status=anyio.TASK_STATUS_IGNORED):
        first = await line.sock.read(1)
        task_status.started(first)
        read.append(first + await line.sock.read(1))

    async def handler():
        await stage.prologue()
        async with anyio.create_task_group() as group:
            group.start_soon(child, lines[0])
            started = await group.start(child, lines[1])
            own = await wait()
        return started, own, await stage.sock.read()

    task = await stage.begin(handler())
    for _ in range(2):
        for line in lines[:2]:
            line.peer.send_now(b"x")
        await give_turns(20)
    wait.end()
    await give_turns(20)
    stage.peer.send_now(b"more")
    assert await task == (b"x", b"end", b"more")
    assert read == [b"xx", b"xx"]


async def test_an_anyio_group_of_which_one_child_fails(stage, lines, wait):
    endings = []

    async def failing():
        raise ValueError(await lines[0].sock.read())

    async def child(line):
        try:
            await line.sock.read()
        finally:
            endings.append("child")

    async def handler():
        await stage.prologue()
        try:
            async with anyio.create_task_group() as group:
                for line in lines[1:]:
                    group.start_soon(child, line)
                group.start_soon(failing)
                await wait()
        except ExceptionGroup as caught:
            endings.append([error.args for error in caught.exceptions])
        return asyncio.current_task().cancelling(), await wait()

    task = await stage.begin(handler())
    await give_turns()
    lines[0].peer.send_now(b"oops")
    await until(lambda: len(endings) == 3)
    await give_turns()
    wait.end()
    assert await task == (0, b"end")
    assert endings == ["child", "child", [(b"oops",)]]


async def test_an_anyio_group_that_is_cancelled(stage, lines, wait):
    async def handler():
        await stage.prologue()
        async with anyio.create_task_group() as group:
            for line in lines:
                group.start_soon(line.sock.read)
            await checkpoint()
            group.cancel_scope.cancel()
            await wait()
        return asyncio.current_task().cancelling(), await wait()

    task = await stage.begin(handler())
    await give_turns(20)
    wait.end()
    assert await task == (0, b"end")


async def test_anyio_streams_and_events_between_reads(stage, wait):
    send, receive = anyio.create_memory_object_stream[bytes](1)
    event = anyio.Event()

    async def handler():
        await stage.prologue()
        async with send, receive:
            await send.send(await wait())
            first = await receive.receive()
            await event.wait()
            return first, await stage.sock.read(), event.is_set()

    task = await stage.begin(handler())
    wait.end()
    await give_turns(20)
    event.set()
    await give_turns()
    stage.peer.send_now(b"more")
    assert await task == (b"end", b"more", True)


async def test_anyio_sees_what_waits(stage, wait):
    async def handler():
        await stage.prologue()
        return await wait(), anyio.get_current_task().name

    task = await stage.begin(handler(), name="handler of a test")
    await anyio.wait_all_tasks_blocked()
    running = {each.id: each.name for each in anyio.get_running_tasks()}
    assert running[id(task)] == "handler of a test"
    wait.end()
    assert await task == (b"end", "handler of a test")


async def test_anyio_sees_a_cancellation_that_is_pending(stage):
    infos = []

    async def handler():
        await stage.prologue()
        infos.append(anyio.get_current_task())
        await asyncio.get_running_loop().create_future()

    task = await stage.begin(handler())
    assert not infos[0].has_pending_cancellation()
    task.cancel()
    assert infos[0].has_pending_cancellation()
    await asyncio.wait([task])


async def test_anyio_sees_a_cancellation_of_the_running_task_that_is_pending(stage, wait):
    async def handler():
        await stage.prologue()
        asyncio.current_task().cancel()
        pending = anyio.get_current_task().has_pending_cancellation()
        try:
            await wait()
        except asyncio.CancelledError:
            return pending, anyio.get_current_task().has_pending_cancellation()

    assert await stage.run(handler()) == (True, False)
