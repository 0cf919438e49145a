"""One batch of events, in which one task changes what the others of the batch are about."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest
import pytest_asyncio
from helpers import give_turns, until
from peers import RawPeer

import aionet
from aionet.errors import SocketClosedError

from .support import lines

pytestmark = pytest.mark.asyncio

COUNT = 8


@pytest_asyncio.fixture
async def batch():
    async with lines(COUNT) as made:
        yield made


def make_all_ready(batch, data=b"x"):
    """No turn of the loop from the first to the last: one batch."""
    for line in batch:
        line.peer.send_now(data)


class Waiting:
    """A task for each line of a batch, that reads; the first to be woken does `what` to the others."""

    def __init__(self, batch, make_task, what):
        self.batch = batch
        self.what = what
        self.first = None
        self.tasks = [make_task(self.handler(line)) for line in batch]

    async def handler(self, line):
        data = await line.sock.read()
        if self.first is None:
            self.first = line
            await self.what(self.others)
        return data

    @property
    def others(self):
        return [line for line in self.batch if line is not self.first]

    async def outcomes(self):
        """Of the first, and those of the others."""
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        first = results.pop(self.batch.index(self.first))
        return first, results


async def abort(others, waiting):
    for line in others:
        line.sock.abort()


async def aclose(others, waiting):
    await asyncio.gather(*(line.sock.aclose() for line in others))


async def close_one_by_one(others, waiting):
    for line in others:
        await line.sock.aclose()


async def shut_down_raw(others, waiting):
    for line in others:
        line.sock.raw_socket.shutdown(socket.SHUT_RDWR)
        line.sock.abort()


@pytest.mark.parametrize("how", [abort, aclose, close_one_by_one, shut_down_raw])
async def test_the_first_of_a_batch_closes_the_others(batch, make_task, how):
    waiting = Waiting(batch, make_task, lambda others: how(others, waiting))
    await give_turns()
    make_all_ready(batch)
    first, others = await waiting.outcomes()
    assert first == b"x"
    for outcome in others:
        assert outcome == b"x" or isinstance(outcome, SocketClosedError)
    assert sum(isinstance(outcome, SocketClosedError) for outcome in others) >= (how is abort) * len(others)


async def test_the_first_of_a_batch_cancels_the_others_and_no_byte_is_lost(batch, make_task):
    async def cancel(others):
        for task in waiting.tasks:
            if task is not asyncio.current_task():
                task.cancel()

    waiting = Waiting(batch, make_task, cancel)
    await give_turns()
    make_all_ready(batch)
    first, others = await waiting.outcomes()
    assert first == b"x"
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in others)
    for line in waiting.others:
        assert await line.sock.read() == b"x"


async def test_the_first_of_a_batch_cancels_and_aborts_the_others(batch, make_task):
    async def cancel_and_abort(others):
        for task in waiting.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for line in others:
            line.sock.abort()
        gc.collect()

    waiting = Waiting(batch, make_task, cancel_and_abort)
    await give_turns()
    make_all_ready(batch)
    first, others = await waiting.outcomes()
    assert first == b"x"
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in others)


async def test_sockets_that_are_forgotten_in_the_batch_they_are_ready_in(batch, make_task):
    async with lines(COUNT) as idle:
        for line in idle:  # from now on the reactor knows them, and nobody waits
            line.peer.send_now(b"1")
            assert await line.sock.read() == b"1"
            reading = make_task(line.sock.read())
            await give_turns(2)
            reading.cancel()
            await asyncio.wait([reading])
        peers = [line.peer for line in idle]
        del line, reading
        gc.collect()

        async def forget(others):
            with pytest.warns(ResourceWarning, match="unclosed"):
                idle.clear()

        waiting = Waiting(batch, make_task, forget)
        await give_turns()
        for peer in peers:
            peer.send_now(b"2")
        make_all_ready(batch)
        first, others = await waiting.outcomes()
        assert [first, *others] == [b"x"] * COUNT
        for peer in peers:
            peer.stop()


async def test_tasks_that_are_forgotten_in_the_batch_they_are_ready_in(batch, make_task, loop_complaints):
    """What waits for a ready socket is held by it; it goes on even if nobody else knows of it."""
    seen = []

    async def handler(line):
        seen.append(await line.sock.read())
        gc.collect()

    tasks = [make_task(handler(line)) for line in batch]
    await give_turns()
    del tasks
    gc.collect()
    make_all_ready(batch)
    await until(lambda: len(seen) == COUNT)
    assert seen == [b"x"] * COUNT


async def test_a_batch_larger_than_one_look_at_the_kernel_takes(make_task):
    async with lines(300) as many:
        tasks = [make_task(line.sock.read()) for line in many]
        await give_turns()
        make_all_ready(many)
        assert await asyncio.gather(*tasks) == [b"x"] * 300


@pytest.mark.parametrize("end", ["return", "abort-others", "cancel-others", "raise"])
async def test_handlers_of_a_spawner_in_one_batch(end, caplog):
    served = []

    async def handler(sock):
        served.append(await sock.read())
        others = [each for each in spawner.connections if each.socket is not sock]
        if len(served) == 1:
            for each in others:
                if end == "abort-others":
                    each.socket.abort()
                elif end == "cancel-others":
                    each.task.cancel()
        if end == "raise":
            raise ValueError("a handler's")

    spawner = aionet.ConnectionSpawner(handler)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = asyncio.create_task(spawner.serve(server))
    peers = [RawPeer(socket.create_connection(("127.0.0.1", server.address.port))) for _ in range(COUNT)]
    await until(lambda: len(spawner.connections) == COUNT)
    await give_turns()
    for peer in peers:
        peer.send_now(b"x")
    await until(lambda: not spawner.connections)
    stats = spawner.stats
    rest = {
        "return": "completed",
        "abort-others": "disconnected",
        "cancel-others": "cancelled",
        "raise": "failed",
    }
    assert stats.accepted == COUNT
    assert getattr(stats, rest[end]) >= COUNT - 1
    assert stats.completed + stats.disconnected + stats.cancelled + stats.failed == COUNT
    for peer in peers:
        peer.stop()
    server.close()
    await serving
