"""The memory of TLS buffers is given back, and not more often than it pays."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import pytest
from helpers import until

from aionet.wires.tls import memory
from aionet.wires.tls.memory import MOST_KEPT, LargeBuffers, give_back, large_buffers_of

from .scenes import connected

MIB = 1 << 20


def private_bytes() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="this system does not tell")
def test_a_buffer_gives_back_its_memory_and_works_as_before() -> None:
    buffer = ssl.MemoryBIO()
    for _ in range(2):
        buffer.write(bytes(64 * MIB))
        assert len(buffer.read()) == 64 * MIB
        before = private_bytes()
        give_back(buffer)
        assert before - private_bytes() > 32 * MIB
        assert (buffer.read(), buffer.pending, buffer.eof) == (b"", 0, False)
    buffer.write(b"kept")
    give_back(buffer)
    assert buffer.read() == b"kept"
    buffer.write_eof()
    give_back(buffer)
    assert buffer.eof


@pytest.mark.asyncio
async def test_a_connection_at_rest_gives_back_what_a_large_message_needed() -> None:
    data = os.urandom(65536)
    async with connected() as (ours, peer):
        buffers = large_buffers_of(ours._wire._state)
        assert buffers is not None
        for _ in range(2):
            received, _ = await asyncio.gather(ours.read_exactly(len(data)), peer.send(data))
            assert received == data
            await ours.write(data)
            assert await peer.receive_exactly(len(data)) == data
            assert buffers.kept > len(data)
            await until(lambda: buffers.kept == 0)


class FakeWire:
    """Counts how often it shrinks."""

    def __init__(self, *, empty: bool = True) -> None:
        self.moved = self.shrunk = 0
        self.empty = empty

    def shrink(self) -> bool:
        self.shrunk += self.empty
        return self.empty


class FakeLoop:
    """Its time passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timer: Any = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Any) -> object:
        self.timer = (self.now + delay, callback)
        return self.timer

    def pass_time(self, seconds: float) -> int:
        """Run what is due; return the number of steps."""
        self.now += seconds
        steps = 0
        while self.timer is not None and self.timer[0] <= self.now:
            callback, self.timer = self.timer[1], None
            callback()
            steps += 1
        return steps


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def buffers(loop: FakeLoop) -> LargeBuffers:
    some_loop: Any = loop
    return LargeBuffers(some_loop)


def test_a_busy_connection_keeps_its_buffers(loop: FakeLoop, buffers: LargeBuffers) -> None:
    busy, idle, stuck = FakeWire(), FakeWire(), FakeWire(empty=False)
    for wire in (busy, idle, stuck):
        buffers.note(wire, 100_000)
    for _ in range(10):
        busy.moved += 1
        loop.pass_time(memory.PERIOD)
    assert (busy.shrunk, idle.shrunk) == (0, 1)
    assert buffers.kept == 200_000
    stuck.empty = True
    loop.pass_time(2 * memory.PERIOD)
    assert (busy.shrunk, stuck.shrunk, buffers.kept) == (1, 1, 0)
    assert loop.timer is None


def test_what_many_busy_connections_keep_is_bounded(buffers: LargeBuffers) -> None:
    size = 100_000
    wires = [FakeWire() for _ in range(500)]
    for wire in wires:
        buffers.note(wire, size)
        assert buffers.kept <= MOST_KEPT
    assert [wire.shrunk for wire in wires[: -(MOST_KEPT // size)]] == [1] * (500 - MOST_KEPT // size)
    assert not wires[-1].shrunk


def test_a_buffer_that_grows_twice_counts_once(buffers: LargeBuffers) -> None:
    wire = FakeWire()
    buffers.note(wire, 10_000)
    buffers.note(wire, 50_000)
    assert buffers.kept == 50_000


def test_a_connection_that_is_gone_is_not_held(buffers: LargeBuffers) -> None:
    wire = FakeWire()
    buffers.note(wire, 10_000)
    del wire
    assert buffers.kept == 0


def test_many_connections_are_looked_at_in_small_steps(loop: FakeLoop, buffers: LargeBuffers) -> None:
    wires = [FakeWire() for _ in range(200)]
    for wire in wires:
        buffers.note(wire, 100)
    assert loop.pass_time(memory.PERIOD) > 4
    assert all(wire.shrunk for wire in wires)
