"""What else a task may wait for between its reads."""

from __future__ import annotations

import asyncio
import contextlib
import types

import pytest
from helpers import give_turns, until

pytestmark = pytest.mark.asyncio


@types.coroutine
def bare(value=None):
    """Yield `value` to whoever runs the task."""
    return (yield value)


class ForeignFuture:
    """The least that a Task can wait for."""

    _asyncio_future_blocking = False

    def __init__(self):
        self._callbacks, self._result, self.cancelled = [], None, False

    def get_loop(self):
        return asyncio.get_running_loop()

    def add_done_callback(self, callback, *, context=None):
        self._callbacks.append((callback, context))

    def cancel(self, msg=None):
        self.cancelled = True
        self._schedule()
        return True

    def set(self, result):
        self._result = result
        self._schedule()

    def _schedule(self):
        for callback, context in self._callbacks:
            asyncio.get_running_loop().call_soon(callback, self, context=context)

    def result(self):
        if self.cancelled:
            raise asyncio.CancelledError("of the foreign kind")
        return self._result

    def __await__(self):
        self._asyncio_future_blocking = True
        yield self
        return self.result()


async def test_waiting_for_all_kinds_of_things_in_turn(stage, wait):
    loop = asyncio.get_running_loop()
    queue, lock, event = asyncio.Queue(), asyncio.Lock(), asyncio.Event()

    async def handler():
        await stage.prologue()
        seen = [await wait()]
        seen.append(await queue.get())
        async with lock:
            seen.append(await stage.sock.read_exactly(4))
        await event.wait()
        seen.append(await loop.run_in_executor(None, lambda: "executor"))
        seen.append(await stage.sock.read_exactly(4))
        await asyncio.sleep(0.001)
        seen.append(await asyncio.to_thread(lambda: "thread"))
        return [*seen, await stage.sock.read_exactly(4)]

    task = await stage.begin(handler())
    await lock.acquire()
    wait.end()
    await give_turns()
    queue.put_nowait("queue")
    await give_turns()
    lock.release()
    for data in (b"one.", b"two.", b"last"):
        await give_turns()
        stage.peer.send_now(data)
        event.set()
    assert await task == [b"end", "queue", b"one.", "executor", b"two.", "thread", b"last"]


async def test_a_bare_yield_is_a_turn_of_the_loop(stage):
    async def handler():
        await stage.prologue()
        turns = []
        asyncio.get_running_loop().call_soon(turns.append, "other")
        assert await bare() is None
        turns.append("own")
        return turns, await stage.sock.read()

    task = await stage.begin(handler())
    stage.peer.send_now(b"next")
    assert await task == (["other", "own"], b"next")


async def test_a_future_that_is_only_like_one(stage):
    future = ForeignFuture()

    async def handler():
        await stage.prologue()
        return await future, await stage.sock.read()

    task = await stage.begin(handler())
    future.set("result")
    await give_turns()
    stage.peer.send_now(b"next")
    assert await task == ("result", b"next")


async def test_a_future_that_is_only_like_one_is_cancelled(stage):
    future = ForeignFuture()

    async def handler():
        await stage.prologue()
        try:
            await future
        except asyncio.CancelledError as error:
            return error.args, await stage.sock.read()

    task = await stage.begin(handler())
    task.cancel()
    assert future.cancelled
    await give_turns()
    stage.peer.send_now(b"next")
    assert await task == (("of the foreign kind",), b"next")


async def test_a_future_that_is_done_already_costs_no_turn(stage):
    future = asyncio.get_running_loop().create_future()
    future.set_result("result")

    async def handler():
        await stage.prologue()
        turns = []
        asyncio.get_running_loop().call_soon(turns.append, None)
        return await future, turns, await stage.sock.read()

    task = await stage.begin(handler())
    stage.peer.send_now(b"next")
    assert await task == ("result", [None], b"next")


def _yield_without_await():
    return bare(asyncio.get_running_loop().create_future())


async def _await_itself():
    await asyncio.current_task()


async def _future_of_another_loop():
    with contextlib.closing(asyncio.SelectorEventLoop()) as loop:
        await loop.create_future()


WRONG = {
    "a value": (lambda: bare(42), "bad yield: 42"),
    "a future not awaited": (_yield_without_await, "yield was used instead of yield from"),
    "itself": (_await_itself, "cannot await on itself"),
    "a future of another loop": (_future_of_another_loop, "attached to a different loop"),
    "a generator": (lambda: bare(iter_of_nothing()), "yield was used instead of yield from"),
}


def iter_of_nothing():
    yield


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_nobody_can_wait_for_raises_where_it_is_awaited(stage, wrong):
    await_it, message = WRONG[wrong]

    async def handler():
        await stage.prologue()
        with pytest.raises(RuntimeError, match=message):
            await await_it()
        return await stage.sock.read()

    task = await stage.begin(handler())
    await give_turns()
    stage.peer.send_now(b"next")
    await asyncio.wait([task])  # one that awaited itself cannot be awaited any more (CPython 3.11 to 3.13)
    assert task.result() == b"next"


async def test_two_tasks_alternate_on_two_sockets(stage, lines):
    told = []
    turn = {"left": asyncio.Event(), "right": asyncio.Event()}
    turn["left"].set()

    async def side(name, line, other):
        await asyncio.sleep(0)
        while data := await line.sock.read(1):
            await turn[name].wait()
            turn[name].clear()
            told.append((name, data))
            turn[other].set()

    async def handler():
        await stage.prologue()
        async with asyncio.TaskGroup() as group:
            group.create_task(side("left", lines[0], "right"))
            group.create_task(side("right", lines[1], "left"))

    task = await stage.begin(handler())
    for line in lines[:2]:
        line.peer.send_now(b"123")
        line.peer.half_close()
    await task
    assert told == [(name, data) for data in (b"1", b"2", b"3") for name in ("left", "right")]


async def test_many_messages_one_by_one(stage):
    seen = []

    async def handler():
        await stage.prologue()
        async for data in stage.sock:
            seen.append(data)
            if len(seen) % 7 == 0:
                await asyncio.sleep(0)

    task = await stage.begin(handler())
    for number in range(100):
        stage.peer.send_now(b"%d" % number)
        await until(lambda: len(seen) == number + 1)  # noqa: B023
    stage.peer.half_close()
    await task
    assert seen == [b"%d" % number for number in range(100)]


async def test_waiting_for_room_to_write_and_reading_in_turn(stage):
    big = bytes(8 << 20)

    async def handler():
        await stage.prologue()
        written = await stage.sock.write(big)
        return written, await stage.sock.read(), await stage.sock.write(b"x")

    task = await stage.begin(handler())
    assert not task.done()
    assert await stage.peer.receive_exactly(len(big)) == big
    stage.peer.send_now(b"next")
    assert await task == (len(big), b"next", 1)
