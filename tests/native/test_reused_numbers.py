"""Descriptor numbers come again; events of what had a number before do not reach who has it now."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest
from helpers import give_turns, until
from peers import RawPeer

import aionet
from aionet import engine
from aionet.errors import SocketClosedError
from aionet.wires.event_loop import running_state

from .support import lines

pytestmark = pytest.mark.asyncio

COUNT = 8


@contextlib.asynccontextmanager
async def queue_of(count):
    """A server, and the peers that stand in its queue: accepting them takes the lowest free numbers."""
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        peers = [RawPeer(socket.create_connection(("127.0.0.1", server.address.port))) for _ in range(count)]
        try:
            yield server, peers
        finally:
            for peer in peers:
                peer.stop()


@pytest.mark.parametrize("end", ["abort", "aclose", "cancel-and-abort"])
async def test_no_stray_event_of_the_batch_reaches_the_new_owner(make_task, end):
    async with lines(COUNT) as batch, queue_of(COUNT - 1) as (server, late):
        new, closed, readings, tasks = [], set(), [], []

        async def handler(mine):
            data = await mine.sock.read()
            if new:
                return data
            for task, line in zip(tasks, batch, strict=True):
                if line is mine:
                    continue
                closed.add(line.sock.fileno())
                if end == "aclose":
                    await line.sock.aclose()
                    continue
                if end == "cancel-and-abort":
                    task.cancel()
                line.sock.abort()
            for _ in range(COUNT - 1):
                new.append(await server.accept())
                readings.append(make_task(new[-1].read()))
            return data

        tasks.extend(make_task(handler(line)) for line in batch)
        await give_turns()
        for line in batch:
            line.peer.send_now(b"old")
        await until(lambda: len(new) == COUNT - 1)
        assert {sock.fileno() for sock in new} == closed, "the numbers did not come again: this tests nothing"
        await give_turns(20)
        assert not any(reading.done() for reading in readings)
        for line in batch:
            with contextlib.suppress(OSError):  # it was reset
                line.peer.send_now(b"more of the old")
        await give_turns(20)
        assert not any(reading.done() for reading in readings)
        for peer in late:
            peer.send_now(b"new")
        assert await asyncio.gather(*readings) == [b"new"] * len(new)
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in new:
            sock.abort()


async def test_a_duplicate_of_a_closed_descriptor_wakes_nobody(make_task):
    async with lines(2) as (line, witness), queue_of(1) as (server, late):
        reading = make_task(line.sock.read())
        await give_turns()
        number, duplicate = line.sock.fileno(), os.dup(line.sock.fileno())
        line.sock.abort()
        with pytest.raises(SocketClosedError):
            await reading
        async with await server.accept() as new:
            assert new.fileno() == number
            waiting = [make_task(new.read()), make_task(witness.sock.read())]
            await give_turns()
            for _ in range(20):
                line.peer.send_now(b"to a descriptor that aionet closed")
                await give_turns()
            line.peer.half_close()
            await give_turns()
            assert not any(task.done() for task in waiting)
            late[0].send_now(b"new")
            witness.peer.send_now(b"witness")
            assert await asyncio.gather(*waiting) == [b"new", b"witness"]
        os.close(duplicate)


async def test_a_duplicate_of_the_only_descriptor_does_not_keep_the_loop_busy(make_task):
    async with lines(1) as (line,):
        reading = make_task(line.sock.read())
        await give_turns()
        duplicate = os.dup(line.sock.fileno())
        line.sock.abort()
        with pytest.raises(SocketClosedError):
            await reading
        line.peer.send_now(b"x" * 1000)
        await give_turns()
        used = os.times()
        await asyncio.sleep(0.1)
        now = os.times()
        assert now.user + now.system - used.user - used.system < 0.05
        os.close(duplicate)


async def test_the_same_open_file_under_the_same_number_is_watched_anew(make_task):
    async with lines(2) as (line, witness):
        watched = make_task(witness.sock.read())
        reading = make_task(line.sock.read())
        await give_turns()
        number, duplicate = line.sock.fileno(), os.dup(line.sock.fileno())
        line.sock.abort()
        with pytest.raises(SocketClosedError):
            await reading
        os.dup2(duplicate, number)  # its registration with epoll has outlived the close
        os.close(duplicate)
        raw = socket.socket(fileno=number)
        raw.setblocking(False)
        wire = engine.stream_wire(raw, running_state())
        again = make_task(wire.receive(100))
        await give_turns()
        assert not again.done()
        line.peer.send_now(b"again")
        assert await again == b"again"
        wire.abort()
        witness.peer.send_now(b"x")
        assert await watched == b"x"


async def test_numbers_beyond_the_first_table(make_task):
    async with lines(1) as (line,):
        high = os.dup(line.sock.fileno())
        number = 3000
        os.dup2(high, number)
        os.close(high)
        raw = socket.socket(fileno=number)
        raw.setblocking(False)
        wire = engine.stream_wire(raw, running_state())
        reading = make_task(wire.receive(100))
        await give_turns()
        line.peer.send_now(b"high")
        assert await reading == b"high"
        wire.abort()
