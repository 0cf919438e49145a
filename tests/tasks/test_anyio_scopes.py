"""anyio's cancel scopes and task groups around what a task waits for."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio.lowlevel import checkpoint
from helpers import give_turns, until

pytestmark = pytest.mark.asyncio

SHORT, LONG = 0.01, 10.0


async def test_a_scope_that_is_cancelled_from_outside(stage, wait):
    scopes = []

    async def handler():
        await stage.prologue()
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await wait()
        return scope.cancelled_caught, asyncio.current_task().cancelling(), await wait()

    task = await stage.begin(handler())
    scopes[0].cancel()
    await give_turns()
    wait.end()
    assert await task == (True, 0, b"end")


async def test_a_scope_that_its_own_task_cancels(stage, wait):
    async def handler():
        await stage.prologue()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wait()
            raise AssertionError("unreachable")
        return scope.cancelled_caught, asyncio.current_task().cancelling(), await wait()

    task = await stage.begin(handler())
    await give_turns()
    wait.end()
    assert await task == (True, 0, b"end")


async def test_a_scope_that_is_cancelled_and_left_without_a_wait(stage, wait):
    async def handler():
        await stage.prologue()
        with anyio.CancelScope() as scope:
            scope.cancel()
        return scope.cancelled_caught, asyncio.current_task().cancelling(), await wait()

    task = await stage.begin(handler())
    wait.end()
    assert await task == (False, 0, b"end")


async def test_within_a_cancelled_scope_every_wait_raises(stage, wait):
    raised = []

    async def handler():
        await stage.prologue()
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(3):
                try:
                    await wait()
                except asyncio.CancelledError:
                    raised.append(asyncio.current_task())
        return await wait()

    task = await stage.begin(handler())
    await give_turns(20)
    wait.end()
    assert await task == b"end"
    assert raised == [task] * 3


async def test_move_on_after_a_while(stage, wait):
    moved_on = []

    async def handler():
        await stage.prologue()
        with anyio.move_on_after(SHORT) as scope:
            await wait()
        moved_on.append(scope.cancelled_caught)
        return asyncio.current_task().cancelling(), await wait()

    task = await stage.begin(handler())
    await until(lambda: moved_on)
    await give_turns()
    wait.end()
    assert await task == (0, b"end")
    assert moved_on == [True]


async def test_move_on_after_what_comes_in_time(stage, wait):
    async def handler():
        await stage.prologue()
        with anyio.move_on_after(LONG) as scope:
            data = await wait()
            await checkpoint()
            return data, await stage.sock.read(), scope.cancelled_caught

    task = await stage.begin(handler())
    wait.end()
    await give_turns(20)
    stage.peer.send_now(b"more")
    assert await task == (b"end", b"more", False)


async def test_fail_after_a_while(stage, wait):
    failed = []

    async def handler():
        await stage.prologue()
        try:
            with anyio.fail_after(SHORT):
                await wait()
        except TimeoutError:
            failed.append(asyncio.current_task().cancelling())
        return await wait()

    task = await stage.begin(handler())
    await until(lambda: failed)
    await give_turns()
    wait.end()
    assert await task == b"end"
    assert failed == [0]


async def test_the_inner_of_two_scopes_is_cancelled_alone(stage, wait):
    async def handler():
        await stage.prologue()
        with anyio.CancelScope() as outer:
            with anyio.move_on_after(0) as inner:
                await wait()
            return inner.cancelled_caught, await wait(), outer.cancelled_caught

    task = await stage.begin(handler())
    await give_turns(20)
    wait.end()
    assert await task == (True, b"end", False)


async def test_a_shielded_scope_reads_in_a_cancelled_one(stage, wait):
    scopes, cleaned = [], []

    async def handler():
        await stage.prologue()
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            try:
                await wait()
            finally:
                with anyio.CancelScope(shield=True):
                    cleaned.append(await stage.sock.read())
                    await checkpoint()
                    cleaned.append(await stage.sock.read())
        return scope.cancelled_caught

    task = await stage.begin(handler())
    scopes[0].cancel()
    for data in (b"a", b"b"):
        await give_turns()
        stage.peer.send_now(data)
        await until(lambda: cleaned[-1:] == [data])  # noqa: B023
    assert await task is True
    assert cleaned == [b"a", b"b"]


async def test_a_task_that_is_cancelled_in_a_scope_is_cancelled(stage, wait):
    async def handler():
        await stage.prologue()
        with anyio.CancelScope():
            await wait()

    task = await stage.begin(handler())
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_scope_that_is_cancelled_together_with_its_data_loses_none(stage):
    scopes = []

    async def handler():
        await stage.prologue()
        read = b""
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            while True:
                read += await stage.sock.read(1)
        stage.peer.half_close()
        while data := await stage.sock.read():
            read += data
        return read

    task = await stage.begin(handler())
    stage.peer.send_now(b"kept")
    scopes[0].cancel()
    assert await task == b"kept"


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
        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as group:
                for line in lines[1:]:
                    group.start_soon(child, line)
                group.start_soon(failing)
                await wait()
        endings.append([error.args for error in caught.value.exceptions])
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
