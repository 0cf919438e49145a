"""The limit on what all connections hold: reads that were not yet written, and buffered ones, count."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest
from helpers import until

import aionet
from aionet import CloseCause
from aionet.limiting.pending_bytes import PendingBytes

from .conftest import Stage
from .test_deadlines import Ends

pytestmark = pytest.mark.asyncio

KIB = 1024
CLIENTS = 40
LIMIT = 256 * KIB


async def serving(stage: Stage, handler: Any, **limits: Any) -> tuple[Any, Any, Ends]:
    ends = Ends()
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(**limits), on_close=ends)
    options = aionet.TcpOptions(send_buffer=4096)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), options=options)
    await stage.serve(spawner, server)
    return spawner, server, ends


class Hands:
    """What handlers have read and not yet written."""

    def __init__(self) -> None:
        self.bytes = self.most = 0

    def take(self, count: int) -> None:
        self.bytes += count
        self.most = max(self.most, self.bytes)


async def test_reads_of_one_turn_take_no_more_than_is_free(stage: Stage) -> None:
    """All clients are ready at once, and none takes its echo."""
    hands, go = Hands(), asyncio.Event()

    async def echo(sock: Any) -> None:
        await go.wait()
        while data := await sock.read():
            hands.take(len(data))
            try:
                await sock.write(data * 10)  # more than finds room in the kernel
            finally:
                hands.take(-len(data))

    _, server, ends = await serving(stage, echo, max_pending_bytes=LIMIT)
    clients = [stage.client(server) for _ in range(CLIENTS)]
    for client in clients:
        client.send_now(bytes(64 * KIB))
    go.set()
    await until(lambda: len(ends.reasons) >= 3)
    assert set(ends.causes) == {CloseCause.PENDING_BYTES}
    assert hands.most <= LIMIT


async def test_readers_wait_for_what_others_have_in_hand(stage: Stage) -> None:
    """Nobody is cut while handlers work; all are served in the end."""
    hands, served = Hands(), []

    async def work(sock: Any) -> None:
        while data := await sock.read():
            hands.take(len(data))
            await asyncio.sleep(0.001)
            hands.take(-len(data))
            served.append(len(data))
            await sock.write(b"y")

    _, server, ends = await serving(stage, work, max_pending_bytes=LIMIT)
    clients = [stage.client(server) for _ in range(CLIENTS)]
    for client in clients:
        client.send_now(bytes(64 * KIB))
    await until(lambda: sum(served) == CLIENTS * 64 * KIB)
    assert not ends.reasons
    assert hands.most <= LIMIT


async def test_a_handler_that_keeps_what_it_has_read_does_not_starve_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aionet.limiting.pending_bytes._PATIENCE", 0.05)
    over = asyncio.Event()

    async def keep(sock: Any) -> None:
        data = await sock.read()
        if len(data) < 64:
            await sock.write(data)
        else:
            await over.wait()

    _, server, ends = await serving(stage, keep, max_pending_bytes=LIMIT)
    greedy = [stage.client(server) for _ in range(8)]
    for client in greedy:
        client.send_now(bytes(64 * KIB))
    honest = stage.client(server)
    honest.send_now(b"ping")
    assert await honest.receive_exactly(4) == b"ping"
    assert set(ends.causes) <= {CloseCause.PENDING_BYTES, CloseCause.COMPLETED}
    over.set()


@pytest.mark.parametrize("how", ["read_line", "read_exactly", "peek", "a lot"])
async def test_buffered_reads_that_wait_count(stage: Stage, how: str) -> None:
    reading = []

    async def read(sock: Any) -> None:
        reading.append(sock)
        await {
            "read_line": lambda: sock.read_line(100 * KIB),
            "read_exactly": lambda: sock.read_exactly(100 * KIB),
            "peek": lambda: sock.peek(100 * KIB, at_least=100 * KIB),
            "a lot": lambda: sock.read_exactly(1000 * KIB),
        }[how]()

    spawner, server, ends = await serving(stage, read, max_pending_bytes=LIMIT)
    clients = [stage.client(server) for _ in range(CLIENTS)]
    for client in clients:
        client.send_now(bytes(60 * KIB))
    await until(lambda: len(ends.reasons) >= CLIENTS - LIMIT // (60 * KIB))
    assert set(ends.causes) == {CloseCause.PENDING_BYTES}
    assert sum(reason.bytes_read for reason in ends.reasons) <= CLIENTS * 60 * KIB
    await until(lambda: spawner._enforcer._pending.held <= LIMIT)
    for client in clients:
        client.reset()
    await until(lambda: not spawner.connections)
    assert spawner._enforcer._pending.held == 0


async def test_what_was_read_out_of_the_buffer_counts_no_longer(stage: Stage) -> None:
    """One connection may carry any amount, buffered or not."""

    async def echo(sock: Any) -> None:
        while line := await sock.read_line():
            await sock.write(line)
            await sock.write(await sock.read(50 * KIB))

    spawner, server, ends = await serving(stage, echo, max_pending_bytes=LIMIT)
    client = stage.client(server)
    message = bytes(50 * KIB - 1) + b"\n"
    for _ in range(20):
        client.send_now(message + b"more")
        assert await client.receive_exactly(len(message) + 4) == message + b"more"
    assert not ends.reasons
    client.half_close()
    await until(lambda: ends.reasons)
    assert spawner._enforcer._pending.held == 0
    gc.collect()


async def test_small_reads_do_not_stand_in_the_line_behind_large_ones(stage: Stage) -> None:
    async def keep_what_is_large(sock: Any) -> None:
        while data := await sock.read():
            if len(data) > KIB:
                await asyncio.Event().wait()
            await sock.write(data)

    _, server, ends = await serving(stage, keep_what_is_large, max_pending_bytes=LIMIT)
    honest = stage.client(server)
    honest.send_now(b"small")
    assert await honest.receive() == b"small"
    for _ in range(CLIENTS):
        stage.client(server).send_now(bytes(64 * KIB))
    for _ in range(3):
        await asyncio.sleep(0.05)  # of the second after which memory is taken from handlers
        honest.send_now(b"again")
        assert await honest.receive() == b"again"
    assert ends.causes == []


async def test_many_whose_buffers_are_shrunk_together() -> None:
    """Each says that it holds less, which is no reason to shrink the next one within."""
    cut: list[Any] = []

    class Wire:
        in_hand = 0
        allowance = None
        shrunk = False

        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def shrink(self) -> None:
            if not self.shrunk:
                self.shrunk = True
                pending.note(self._connection, 4 * KIB - 1)

    class Connection:
        def __init__(self) -> None:
            self.socket = self
            self._wire = Wire(self)

    def cut_it(connection: Any) -> None:
        cut.append(connection)
        pending.discard(connection)

    count = sys.getrecursionlimit()
    limit = count * 8 * KIB  # with what is around each
    pending = PendingBytes(limit, cut_it)
    one_more, *connections = [Connection() for _ in range(1 + count)]
    for connection in [one_more, *connections]:
        pending.add(connection)  # type: ignore[arg-type]
    for connection in connections:
        pending.note(connection, 4 * KIB)  # type: ignore[arg-type]
    assert pending.held == limit
    pending.note(one_more, 1)  # type: ignore[arg-type]
    assert pending.held <= limit
    assert len(cut) == 1
    pending.close()
