"""Every connection ends for one reason, and the reason is the true one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import Any

import pytest
from helpers import until
from peers import RawListener

import aionet
from aionet import CloseCause

from .conftest import Stage
from .test_deadlines import Ends

pytestmark = pytest.mark.asyncio


async def obey(sock: Any) -> None:
    """A handler that does what its client says."""
    while line := await sock.read_line():
        if line == b"crash\n":
            raise ZeroDivisionError
        if line == b"cancel\n":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        if line == b"return\n":
            return
        if line == b"reset\n":
            sock.abort()
            return
        if line == b"finish\n":
            await sock.aclose()
            sock.abort()  # what is closed already
            return
        if line == b"block\n":
            with contextlib.suppress(ZeroDivisionError):
                async with sock:
                    raise ZeroDivisionError
            return
        if line == b"close\n":
            sock.abort()
        await sock.write(line)


async def serving(stage: Stage, kind: str = "tcp", handler: Any = obey) -> tuple[Any, Any, Ends]:
    ends = Ends()
    spawner = aionet.ConnectionSpawner(handler, on_close=ends)
    server = stage.server(kind)
    await stage.serve(spawner, server)
    return spawner, server, ends


@pytest.mark.parametrize(
    ("order", "cause", "by", "outcome"),
    [
        ("return", CloseCause.COMPLETED, "handler", "completed"),
        ("crash", CloseCause.FAILED, "handler", "failed"),
        ("cancel", CloseCause.CANCELLED, "handler", "cancelled"),
        ("close", CloseCause.CLOSED, "server", "disconnected"),
        ("reset", CloseCause.RESET, "handler", "disconnected"),
        ("block", CloseCause.RESET, "handler", "disconnected"),
        ("finish", CloseCause.COMPLETED, "handler", "completed"),
    ],
)
async def test_what_the_handler_does(
    stage: Stage, kind: str, order: str, cause: CloseCause, by: str, outcome: str
) -> None:
    spawner, server, ends = await serving(stage, kind)
    stage.client(server).send_now(order.encode() + b"\n")
    await until(lambda: ends.reasons)
    (reason,) = ends.reasons
    assert (reason.cause, reason.by, reason.phase, reason.errno) == (cause, by, "serving", None)
    assert reason.bytes_read == len(order) + 1
    assert getattr(spawner.stats, outcome) == spawner.stats.accepted == 1
    assert spawner.stats.causes == {cause: 1}


async def test_the_peer_ends_in_good_order(stage: Stage, kind: str) -> None:
    spawner, server, ends = await serving(stage, kind)
    client = stage.client(server)
    client.send_now(b"hello\n")
    assert await client.receive() == b"hello\n"
    client.half_close()
    assert await client.receive() == b""
    await until(lambda: ends.reasons)
    (reason,) = ends.reasons
    assert (reason.cause, reason.by, reason.errno) == (CloseCause.PEER_ENDED, "peer", None)
    assert (reason.bytes_read, reason.bytes_written) == (6, 6)
    assert reason.unacknowledged == 0
    assert spawner.stats.completed == 1


async def test_the_peer_resets(stage: Stage) -> None:
    spawner, server, ends = await serving(stage)
    client = stage.client(server)
    client.send_now(b"hello\n")
    assert await client.receive() == b"hello\n"
    client.reset()
    await until(lambda: ends.reasons)
    (reason,) = ends.reasons
    assert (reason.cause, reason.by, reason.errno) == (CloseCause.PEER_LOST, "peer", errno.ECONNRESET)
    assert spawner.stats.disconnected == 1
    assert str(reason).startswith("lost in serving after 0.")
    assert str(reason).endswith(" s, 6 bytes in, 6 bytes out")


async def test_a_loss_that_the_handler_has_dealt_with(stage: Stage) -> None:
    async def forgive(sock: Any) -> None:
        with contextlib.suppress(aionet.ConnectionLostError):
            await sock.read()

    _, server, ends = await serving(stage, handler=forgive)
    stage.client(server).reset()
    await until(lambda: ends.reasons)
    (reason,) = ends.reasons
    assert (reason.cause, reason.by, reason.errno) == (CloseCause.PEER_LOST, "peer", errno.ECONNRESET)


@pytest.mark.parametrize(
    ("who", "cause"), [("client", CloseCause.PEER_LOST), ("target", CloseCause.RESET), ("nobody", None)]
)
async def test_what_ends_in_a_relay(stage: Stage, who: str, cause: CloseCause | None) -> None:
    with RawListener() as target:

        async def pass_on(sock: Any) -> None:
            await aionet.relay(sock, await aionet.AsyncTcpSocket().connect_to(target.address))

        _, server, ends = await serving(stage, handler=pass_on)
        client = stage.client(server)
        client.send_now(b"hello")
        with await target.accept() as beyond:
            assert await beyond.receive() == b"hello"
            if who == "nobody":
                client.half_close()
                beyond.half_close()
            else:
                (client if who == "client" else beyond).reset()
            await until(lambda: ends.reasons)
    assert ends.causes == [cause or CloseCause.PEER_ENDED]


async def test_the_peer_ends_in_the_middle_of_a_line(stage: Stage, kind: str) -> None:
    spawner, server, ends = await serving(stage, kind)
    client = stage.client(server)
    client.send_now(b"hel")
    client.half_close()
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.PEER_LOST]
    assert spawner.stats.disconnected == 1


async def test_how_long_it_was_idle(stage: Stage) -> None:
    _, server, ends = await serving(stage)
    client = stage.client(server)
    client.send_now(b"hello\n")
    assert await client.receive() == b"hello\n"
    await asyncio.sleep(0.3)
    client.half_close()
    await until(lambda: ends.reasons)
    reason = ends.reasons[0]
    assert reason.idle is not None
    assert 0.2 <= reason.idle <= reason.age


async def test_a_cancellation_before_the_handler_began(stage: Stage, kind: str) -> None:
    ends = Ends()
    spawner = aionet.ConnectionSpawner(obey, on_close=ends)
    server = stage.server(kind)
    stage.client(server)
    serve = await stage.serve(spawner, server)
    await until(lambda: spawner.connections)
    serve.cancel()
    await asyncio.gather(serve, return_exceptions=True)
    assert len(ends.reasons) == 1
    assert ends.causes[0] in (CloseCause.DRAINED, CloseCause.CANCELLED)


async def test_an_on_close_that_crashes_is_told_and_harms_nobody(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(connection: Any, reason: Any) -> None:
        raise ZeroDivisionError

    spawner = aionet.ConnectionSpawner(obey, on_close=crash)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    for _ in range(3):
        stage.client(server).send_now(b"return\n")
    await until(lambda: spawner.stats.completed == 3)
    assert [record.getMessage().split(" for ")[0] for record in caplog.records] == ["on_close"] * 3


async def test_bytes_are_counted_whatever_moves_them(stage: Stage, kind: str, tmp_path: Any) -> None:
    big = 3_000_000
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))

    async def everything(sock: Any) -> None:
        await sock.read_exactly(10)
        await sock.read_into(bytearray(5))
        assert sock.bytes_read >= 15
        await sock.write(bytes(100))
        await sock.write_vectored([bytes(10), bytes(20)])
        with path.open("rb") as file:
            await sock.send_file(file)
        await sock.write(bytes(big))
        await sock.write(bytes(7))
        assert sock.bytes_written == 100 + 30 + 1000 + big + 7

    _, server, ends = await serving(stage, kind, everything)
    client = stage.client(server)
    client.send_now(bytes(15))
    assert len(await client.receive_to_end()) == 1137 + big
    await until(lambda: ends.reasons)
    reason = ends.reasons[0]
    assert reason.cause is CloseCause.COMPLETED
    assert (reason.bytes_read, reason.bytes_written) == (15, 1137 + big)


async def test_what_was_not_acknowledged_when_the_server_reset_it(stage: Stage) -> None:
    async def flood(sock: Any) -> None:
        await sock.write(bytes(50_000_000))

    ends = Ends()
    limits = aionet.ConnectionLimits(write_stall_timeout=0.15)
    spawner = aionet.ConnectionSpawner(flood, limits=limits, on_close=ends)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    stage.client(server)
    await until(lambda: ends.reasons)
    (reason,) = ends.reasons
    assert reason.cause is CloseCause.WRITE_STALLED
    assert reason.unacknowledged is not None
    assert reason.unacknowledged > 1_000_000


async def test_what_was_not_acknowledged_when_a_drain_aborted_it(stage: Stage) -> None:
    async def insist(sock: Any) -> None:
        try:
            await sock.write(bytes(50_000_000))
        except asyncio.CancelledError:
            await sock.write(b"more")

    spawner, server, ends = await serving(stage, handler=insist)
    stage.client(server)
    await until(lambda: spawner.connections and spawner.connections[0].socket.bytes_written)
    report = await spawner.drain(0, hard=0.05)
    assert report.aborted == 1
    await until(lambda: ends.reasons)
    (reason,) = ends.reasons
    assert reason.cause is CloseCause.ABORTED
    assert reason.unacknowledged is not None
    assert reason.unacknowledged > 1_000_000
