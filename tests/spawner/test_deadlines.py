"""Deadlines: who exceeds one is cut, for the reason that is true, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from helpers import until

import aionet
from aionet import CloseCause

from .conftest import Stage

SHORT = 0.15
LONG = 3600.0
STUBBORN = 3  # cancellations that a handler swallows; a broken test is to end, too

pytestmark = pytest.mark.asyncio


class Ends:
    """Notes how connections end."""

    def __init__(self) -> None:
        self.reasons: list[aionet.CloseReason] = []

    def __call__(self, connection: aionet.Connection[Any], reason: aionet.CloseReason) -> None:
        assert connection.close_reason is reason
        self.reasons.append(reason)

    @property
    def causes(self) -> list[CloseCause]:
        return [reason.cause for reason in self.reasons]


async def echo(sock: Any) -> None:
    async for data in sock:
        await sock.write(data)


async def lines(sock: Any) -> None:
    while line := await sock.read_line():
        await sock.write(line)


async def serving(stage: Stage, handler: Any, kind: str = "tcp", **limits: Any) -> tuple[Any, Any, Ends]:
    ends = Ends()
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(**limits), on_close=ends)
    server = stage.server(kind)
    await stage.serve(spawner, server)
    return spawner, server, ends


async def test_idle(stage: Stage, kind: str) -> None:
    spawner, server, ends = await serving(stage, echo, kind, idle_timeout=SHORT)
    client = stage.client(server)
    client.send_now(b"x")
    assert await client.receive() == b"x"
    assert await client.receive() == b""  # a graceful end
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.IDLE]
    reason = ends.reasons[0]
    assert (reason.by, reason.phase, reason.bytes_read, reason.bytes_written) == ("server", "serving", 1, 1)
    assert reason.age >= SHORT
    assert spawner.stats == aionet.SpawnerStats(1, 0, 0, 0, 0, 0, cut=1)


async def test_who_moves_bytes_is_not_idle(stage: Stage) -> None:
    _, server, ends = await serving(stage, echo, idle_timeout=0.4)
    talker, silent = stage.client(server), stage.client(server)
    while not ends.reasons:
        talker.send_now(b"x")
        assert await talker.receive() == b"x"
        await asyncio.sleep(0.02)
    assert await silent.receive() == b""
    talker.send_now(b"still here")
    assert await talker.receive() == b"still here"
    assert ends.causes == [CloseCause.IDLE]


async def test_writing_counts_too(stage: Stage) -> None:
    async def ticker(sock: Any) -> None:
        for _ in range(30):
            await sock.write(b"tick")
            await asyncio.sleep(0.02)

    _, server, ends = await serving(stage, ticker, idle_timeout=0.4)
    assert await stage.client(server).receive_to_end() == b"tick" * 30
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.COMPLETED]


async def test_an_idle_handler_may_say_goodbye(stage: Stage) -> None:
    async def polite(sock: Any) -> None:
        try:
            await sock.read()
        except asyncio.CancelledError:
            await sock.write(b"too slow")
            raise

    _, server, ends = await serving(stage, polite, idle_timeout=SHORT)
    assert await stage.client(server).receive_to_end() == b"too slow"
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.IDLE]


async def test_a_line_that_trickles_in_stalls(stage: Stage, kind: str) -> None:
    """A byte now and then is no progress for a read that waits for a line."""
    _, server, ends = await serving(stage, lines, kind, read_stall_timeout=0.3, idle_timeout=LONG)
    client = stage.client(server)
    client.send_now(b"a whole line\n")
    assert await client.receive() == b"a whole line\n"
    with contextlib.suppress(ConnectionError):
        while not ends.reasons:
            client.send_now(b"x")
            await asyncio.sleep(0.01)
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.READ_STALLED]
    assert ends.reasons[0].bytes_read > 13


async def test_a_handler_that_does_not_read_does_not_stall(stage: Stage) -> None:
    over = asyncio.Event()

    async def busy(sock: Any) -> None:
        await over.wait()
        assert await sock.read() == b"x"

    _, server, ends = await serving(stage, busy, read_stall_timeout=SHORT)
    client = stage.client(server)
    client.send_now(b"x")
    await asyncio.sleep(3 * SHORT)
    assert not ends.reasons
    over.set()
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.COMPLETED]


async def test_a_peer_that_does_not_read_stalls_a_write(stage: Stage, kind: str) -> None:
    raised = []

    async def flood(sock: Any) -> None:
        try:
            await sock.write(bytes(50_000_000))
        except OSError as error:
            raised.append(error)
            raise

    spawner, server, ends = await serving(stage, flood, kind, write_stall_timeout=SHORT)
    client = stage.client(server)
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.WRITE_STALLED]
    assert [type(error) for error in raised] == [aionet.SocketClosedError]
    assert 0 < ends.reasons[0].bytes_written < 50_000_000
    with contextlib.suppress(ConnectionResetError):
        assert len(await client.receive_to_end()) < 50_000_000
    assert spawner.stats.cut == 1


async def test_a_slow_reader_does_not_stall(stage: Stage) -> None:
    size = 4_000_000

    async def send(sock: Any) -> None:
        await sock.write(bytes(size))

    _, server, ends = await serving(stage, send, write_stall_timeout=0.6)
    client = stage.client(server)
    received = 0
    while received < size:
        received += len(await client.receive(1 << 18))
        await asyncio.sleep(0.02)
    assert received == size
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.COMPLETED]


async def test_a_handler_that_takes_too_long(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def hangs(sock: Any) -> None:
        await asyncio.Event().wait()

    spawner, server, ends = await serving(stage, hangs, handler_timeout=SHORT)
    clients = [stage.client(server) for _ in range(20)]
    for client in clients:
        assert await client.end() == "reset"
    await until(lambda: len(ends.reasons) == 20)
    assert set(ends.causes) == {CloseCause.HANDLER_TIMEOUT}
    assert spawner.stats.cut == 20
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_handler_that_will_not_go_loses_its_connection(stage: Stage) -> None:
    over = asyncio.Event()

    async def stubborn(sock: Any) -> None:
        for _ in range(STUBBORN):
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    _, server, ends = await serving(stage, stubborn, handler_timeout=SHORT)
    client = stage.client(server)
    with pytest.raises(ConnectionResetError):
        await client.receive()
    assert not ends.reasons  # its task is still there
    over.set()
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.HANDLER_TIMEOUT]


async def test_a_preface_has_a_deadline_of_its_own(stage: Stage) -> None:
    served = []

    async def greet(sock: Any) -> None:
        if await sock.read_exactly(2) != b"hi":
            raise aionet.ProxyProtocolError("expected 'hi'")

    async def handler(sock: Any) -> None:
        served.append(await sock.read())

    ends = Ends()
    spawner = aionet.ConnectionSpawner(
        handler,
        preface=greet,
        limits=aionet.ConnectionLimits(handshake_timeout=SHORT),
        on_close=ends,
    )
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    good, bad, slow = (stage.client(server) for _ in range(3))
    good.send_now(b"hi")
    bad.send_now(b"ho")
    slow.send_now(b"h")
    for client in (bad, slow):
        with contextlib.suppress(ConnectionResetError):
            assert await client.receive() == b""
    await until(lambda: len(ends.reasons) == 2)
    assert set(ends.causes) == {CloseCause.HANDSHAKE_FAILED, CloseCause.HANDSHAKE_TIMEOUT}
    assert {reason.phase for reason in ends.reasons} == {"handshake"}
    good.send_now(b"hello")  # long after the deadline of the handshake, which it has kept
    await until(lambda: len(ends.reasons) == 3)
    assert served == [b"hello"]
    assert ends.causes[-1] is CloseCause.COMPLETED


async def test_deadlines_leave_nothing_behind(stage: Stage) -> None:
    spawner, server, ends = await serving(stage, echo, idle_timeout=LONG, handler_timeout=LONG)
    for _ in range(50):
        client = stage.client(server)
        client.send_now(b"x")
        assert await client.receive() == b"x"
        client.reset()
    await until(lambda: len(ends.reasons) == 50)
    assert set(ends.causes) == {CloseCause.PEER_LOST}
    deadlines = spawner._enforcer._deadlines
    assert not deadlines._seen
    assert len(deadlines._wheel) == 0


async def test_a_preface_that_waits_for_something_else_is_ended_by_the_deadline_too(stage: Stage) -> None:
    ends, ended = Ends(), asyncio.Event()

    async def look_up(sock: Any) -> None:
        try:
            await asyncio.Event().wait()  # another server, which does not answer
        finally:
            ended.set()

    spawner = aionet.ConnectionSpawner(
        echo,
        preface=look_up,
        on_close=ends,
        limits=aionet.ConnectionLimits(handshake_timeout=SHORT),
    )
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    with pytest.raises(ConnectionResetError):
        await stage.client(server).receive()
    await asyncio.wait_for(ended.wait(), 30)
    await until(lambda: not spawner.connections)
    assert ends.causes == [CloseCause.HANDSHAKE_TIMEOUT]
