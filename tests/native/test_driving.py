"""Which tasks the reactor drives, and what can be seen of it: only what does not change from step to step."""

from __future__ import annotations

import asyncio

import pytest
from helpers import give_turns

from .support import TASKS, lines

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "own", "uvloop"])


async def awaiting(coroutine):
    return await coroutine


async def waiters_of(task, line):
    """What the task waits on, before and after its coroutine was resumed."""
    found = []
    for data in (b"a", b"b", b"c"):
        await give_turns()
        found.append(task._fut_waiter)
        line.peer.send_now(data)
    return found


@pytest.mark.parametrize("kind", TASKS)
async def test_a_task_of_asyncios_own_class_is_driven(kind):
    """It waits on one object all the time; one that makes its steps itself waits on a new one each time."""

    async def reader(sock):
        return [await sock.read(1) for _ in range(3)]

    async with lines(1) as (line,):
        task = TASKS[kind](asyncio.get_running_loop(), reader(line.sock))
        found = await waiters_of(task, line)
        assert await task == [b"a", b"b", b"c"]
        assert (found[1] is found[2]) is (kind == "driven")


async def test_tasks_that_the_loop_makes_are_driven():
    async def reader(sock):
        return [await sock.read(1) for _ in range(3)]

    async with lines(1) as (line,):
        task = asyncio.create_task(reader(line.sock))
        found = await waiters_of(task, line)
        assert await task == [b"a", b"b", b"c"]
        assert found[1] is found[2]


async def test_what_it_waits_on_is_a_future_to_libraries():
    """anyio looks at `_fut_waiter`."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    seen = []

    def look():
        waiter = task._fut_waiter
        seen.append((isinstance(waiter, asyncio.Future), waiter.done(), waiter.cancelled()))
        return waiter

    async def reader(sock):
        await sock.read(1)
        look()
        await sock.read(1)
        await future

    async with lines(1) as (line,):
        task = loop.create_task(reader(line.sock))
        await give_turns()
        look()
        assert "wait_for=<Wait pending>" in repr(task)
        line.peer.send_now(b"a")
        await give_turns()
        line.peer.send_now(b"b")
        await give_turns()
        assert look().get_loop() is loop
        assert "wait_for=<Future pending" in repr(task)
        task.cancel()
        look()
        await asyncio.wait([task])
    waits, runs = (True, False, False), (True, True, False)
    assert seen == [waits, runs, waits, (True, True, True)]
    assert future.cancelled()


async def test_a_cancelled_wait_is_a_cancelled_future():
    async with lines(1) as (line,):
        task = asyncio.create_task(awaiting(line.sock.read()))
        await give_turns()
        task.cancel()
        assert isinstance(task._fut_waiter, asyncio.Future)
        assert task._fut_waiter.cancelled()
        await asyncio.wait([task])


async def test_the_wait_of_a_task_takes_no_other_callback():
    async def reader(sock):
        await sock.read(1)
        with pytest.raises(RuntimeError):
            asyncio.current_task()._fut_waiter.add_done_callback(print)
        return await sock.read(1)

    async with lines(1) as (line,):
        task = asyncio.create_task(reader(line.sock))
        for data in (b"a", b"b"):
            await give_turns()
            line.peer.send_now(data)
        assert await task == b"b"


async def test_a_method_of_a_task_as_a_callback_is_called():
    """It is no wake-up: what is called is what was given."""
    async with lines(1) as (line,):
        task = asyncio.create_task(asyncio.Event().wait())
        await give_turns()
        operation = line.sock.read()
        operation.send(None).add_done_callback(task.cancel)
        line.peer.send_now(b"x")
        await asyncio.wait([task])
        assert task.cancelled()
        operation.close()
