"""anyio's cancel scopes around what a task waits for."""

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
