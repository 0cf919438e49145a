"""Twenty thousand short lives of connections, many of them violent: nothing is left, memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import until

import aionet

CYCLES = 20_000
WARM_UP = 4_000
AT_A_TIME = 20
WAYS = ("close", "close", "half-close", "reset", "cancel", "raw reset", "no word")
MOST_GROWTH = 4 << 20  # bytes of resident memory; 16,000 leaked connections would take five times as much

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


async def echo(sock: Any) -> None:
    async for data in sock:
        await sock.write(data)


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Client:
    """One of our clients, which ends its connections in every way there is."""

    def __init__(self, address: Any, seed: int, ends: Counter[str]) -> None:
        self._address = address
        self._rng = random.Random(seed)
        self._ends = ends

    async def cycles(self, count: int) -> None:
        for _ in range(count):
            way = self._rng.choice(WAYS)
            self._ends[way] += 1
            if way == "raw reset":
                await self._raw_reset()
            elif way == "cancel":
                await self._cancelled()
            else:
                await self._one(way)

    async def _one(self, way: str) -> None:
        async with await self._connected() as sock:
            if way == "no word":
                return
            data = self._rng.randbytes(self._rng.choice((1, 100, 5_000, 150_000)))
            writing = asyncio.create_task(sock.write(data))
            if way == "reset":
                await sock.read()
                writing.cancel()
                await asyncio.wait([writing])
                sock.abort()
                return
            assert await sock.read_exactly(len(data)) == data
            assert await writing == len(data)
            if way == "half-close":
                await sock.send_eof()
                assert await sock.read() == b""

    async def _cancelled(self) -> None:
        task = asyncio.create_task(self._one("half-close"))
        if self._rng.random() < 0.5:
            await asyncio.sleep(self._rng.random() * 0.003)
        else:
            for _ in range(self._rng.randrange(8)):
                await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            self._ends["really cancelled"] += 1
        except aionet.DeliveryError:  # a write had begun when it was cancelled, and could not be finished
            self._ends["torn, and told"] += 1

    async def _raw_reset(self) -> None:
        with socket.socket() as sock:
            sock.connect(("127.0.0.1", self._address.port))
            sock.sendall(b"x" * self._rng.choice((1, 10_000)))
            for _ in range(self._rng.randrange(5)):
                await asyncio.sleep(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    async def _connected(self) -> aionet.AsyncTcpSocket:
        return await aionet.AsyncTcpSocket().connect_to(self._address)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.asyncio
async def test_20_000_connections_leave_nothing() -> None:
    ends: Counter[str] = Counter()
    spawner = aionet.ConnectionSpawner(echo)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = asyncio.create_task(spawner.serve(server))
    clients = [Client(server.address, seed, ends) for seed in range(AT_A_TIME)]
    await asyncio.gather(*(client.cycles(WARM_UP // AT_A_TIME) for client in clients))
    await until(lambda: not spawner.connections)
    descriptors_before, memory_before = open_descriptors(), resident()

    await asyncio.gather(*(client.cycles((CYCLES - WARM_UP) // AT_A_TIME) for client in clients))
    await until(lambda: not spawner.connections)
    growth = resident() - memory_before
    print(f"{spawner.stats}\n{dict(ends)}\nresident memory grew by {growth / 1024:.0f} KiB")
    assert open_descriptors() == descriptors_before
    assert asyncio.all_tasks() == {asyncio.current_task(), serving} | acceptors()
    assert growth < MOST_GROWTH
    assert spawner.stats.failed == 0
    assert ends["really cancelled"] > 500
    report = await spawner.drain(1)
    await serving
    assert (report.finished, report.cancelled, report.aborted) == (0, 0, 0)


def acceptors() -> set[asyncio.Task[Any]]:
    """The tasks in which a spawner accepts: one for each server."""
    found = {task for task in asyncio.all_tasks() if "_accept_from" in repr(task.get_coro())}
    assert len(found) == 1
    return found
