"""What is awaited when a task is cancelled: no byte is lost, and nobody else is hit."""

from __future__ import annotations

import asyncio

import pytest
from helpers import give_turns

from aionet import SocketClosedError

pytestmark = pytest.mark.asyncio


async def test_what_was_awaited_is_cancelled_with_it(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()

    task = await stage.begin(handler())
    task.cancel()
    await asyncio.wait([task])
    assert wait.awaited is None or wait.awaited.cancelled()


async def test_cancelled_together_with_its_data_it_leaves_them_to_the_next_read(stage):
    async def handler():
        await stage.prologue()
        await stage.sock.read()

    task = await stage.begin(handler())
    stage.peer.send_now(b"kept")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await stage.run(stage.sock.read()) == b"kept"


@pytest.mark.parametrize("turns", range(5))
async def test_however_soon_after_its_data_it_is_cancelled_no_byte_is_lost(stage, turns):
    read = []

    async def handler():
        await stage.prologue()
        while True:
            read.append(await stage.sock.read(1))

    task = await stage.begin(handler())
    stage.peer.send_now(b"kept")
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    stage.peer.half_close()
    while data := await stage.sock.read():
        read.append(data)
    assert b"".join(read) == b"kept"


async def test_cancelled_in_the_turn_that_ends_a_foreign_wait_it_raises_there(stage):
    future = asyncio.get_running_loop().create_future()
    seen = []

    async def handler():
        await stage.prologue()
        try:
            seen.append(await future)
        except asyncio.CancelledError as error:
            seen.append(error.args)
        return await stage.sock.read()

    task = await stage.begin(handler())
    future.set_result("ready")
    task.cancel("all the same")
    await give_turns()
    assert seen == [("all the same",)]
    stage.peer.send_now(b"next")
    assert await task == b"next"


async def test_a_foreign_future_that_is_cancelled_does_not_cancel_it(stage):
    future = asyncio.get_running_loop().create_future()

    async def handler():
        await stage.prologue()
        try:
            await future
        except asyncio.CancelledError:
            return task.cancelling(), await stage.sock.read()

    task = await stage.begin(handler())
    future.cancel()
    await give_turns()
    stage.peer.send_now(b"next")
    assert await task == (0, b"next")


async def test_one_task_cancels_another_that_waits(stage, lines, wait):
    async def victim():
        await lines[0].sock.read()

    async def handler():
        await stage.prologue()
        await wait()
        cancelled.cancel("by a task")
        return await stage.sock.read()

    cancelled = stage.make_task(victim())
    task = await stage.begin(handler())
    lines[0].peer.send_now(b"kept")  # ready in the same turn
    wait.end()
    await asyncio.wait([cancelled])
    stage.peer.send_now(b"next")
    assert await task == b"next"
    if cancelled.cancelled():
        assert await lines[0].sock.read() == b"kept"


async def test_one_task_closes_the_socket_that_another_reads(stage, lines, wait):
    async def victim():
        try:
            await lines[0].sock.read()
        except SocketClosedError:
            return await lines[1].sock.read()

    async def handler():
        await stage.prologue()
        await wait()
        lines[0].sock.abort()
        await give_turns()
        return await stage.sock.read()

    reading = stage.make_task(victim())
    task = await stage.begin(handler())
    wait.end()
    await give_turns()
    stage.peer.send_now(b"next")
    assert await task == b"next"
    lines[1].peer.send_now(b"another")
    assert await reading == b"another"
