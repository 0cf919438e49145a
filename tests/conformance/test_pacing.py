"""Large reads and writes of many tasks share what one turn of the loop may move; small ones do not wait."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from aionet import SocketClosedError

pytestmark = pytest.mark.asyncio

SIZE = 48 * 1024
MANY = 64
TURN = 2 << 20
"""Bytes that large operations move in one turn before they wait."""


@contextlib.asynccontextmanager
async def connected(transport, count):
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(transport.connected()) for _ in range(count)]


async def have_begun(pairs):
    """Let the tasks that write to `pairs` make their first steps; eager ones have made them."""
    if not pairs[-1].socket.bytes_written:
        await asyncio.sleep(0)


class Turns:
    """How many bytes `moved()` has grown by in each turn of the loop."""

    def __init__(self, moved):
        self._moved = moved
        self.seen = []

    async def __aenter__(self):
        self._task = asyncio.create_task(self._count())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _count(self):
        before = self._moved()
        while True:
            await asyncio.sleep(0)
            now = self._moved()
            self.seen.append(now - before)
            before = now


async def test_writes(transport):
    async def write(sock):
        for _ in range(4):
            await sock.write(bytes(SIZE))

    async with (
        connected(transport, MANY) as pairs,
        Turns(lambda: sum(pair.socket.bytes_written for pair in pairs)) as turns,
    ):
        writers = [asyncio.create_task(write(pair.socket)) for pair in pairs]
        received = await asyncio.gather(*(pair.peer.receive_exactly(4 * SIZE) for pair in pairs))
        await asyncio.gather(*writers)
        assert all(data == bytes(4 * SIZE) for data in received)
        assert max(turns.seen) <= TURN + MANY * SIZE  # all have begun in the first turn


async def test_reads(transport):
    async def read(sock):
        left = 3 * SIZE
        while left:
            left -= len(await sock.read(min(SIZE, left)))

    async with (
        connected(transport, MANY) as pairs,
        Turns(lambda: sum(pair.socket.bytes_read for pair in pairs)) as turns,
    ):
        sending = [asyncio.create_task(pair.peer.send(bytes(3 * SIZE))) for pair in pairs]
        await asyncio.wait(sending, timeout=0.2)  # the kernel may have no room for all of it
        await asyncio.gather(*sending, *(read(pair.socket) for pair in pairs))
        assert max(turns.seen) <= TURN + SIZE + MANY * 16384  # reads below 16 KiB are small ones


async def test_small_writes_do_not_wait(transport):
    async def write(sock):
        for _ in range(4):
            await sock.write(bytes(SIZE))

    async with connected(transport, MANY) as pairs:
        small, *others = pairs
        writers = [asyncio.create_task(write(pair.socket)) for pair in others]
        writer = asyncio.create_task(small.socket.write(b"small"))
        await have_begun(others)
        await asyncio.sleep(0)  # the budget that is for all operations may have been used up
        assert writer.done()
        assert not all(task.done() for task in writers)
        await asyncio.gather(*(pair.peer.receive_exactly(4 * SIZE) for pair in others))
        await asyncio.gather(*writers)


@pytest.mark.parametrize("how", ["cancel", "abort"])
async def test_a_read_that_waits_has_taken_nothing(transport, how):
    async with connected(transport, MANY) as pairs:
        pair, *others = pairs
        await pair.peer.send(bytes(SIZE))
        writers = [asyncio.create_task(other.socket.write(bytes(SIZE))) for other in others]
        reader = asyncio.create_task(pair.socket.read())
        await have_begun(others)
        assert not reader.done()
        assert pair.socket.bytes_read == 0
        if how == "cancel":
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert await pair.socket.read_exactly(SIZE) == bytes(SIZE)
        else:
            pair.socket.abort()
            with pytest.raises(SocketClosedError):
                await reader
        assert await asyncio.gather(*writers) == [SIZE] * len(writers)


async def test_a_write_that_waits_may_be_cancelled_after_its_socket_was_closed(transport):
    async with connected(transport, MANY) as pairs:
        writers = [asyncio.create_task(pair.socket.write(bytes(SIZE))) for pair in pairs]
        await have_begun(pairs)
        waiting = [(task, pair) for task, pair in zip(writers, pairs, strict=True) if not task.done()]
        assert waiting
        for task, pair in waiting:
            pair.socket.abort()
            task.cancel()
        results = await asyncio.gather(*(task for task, _ in waiting), return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
