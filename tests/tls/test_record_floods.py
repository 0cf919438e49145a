"""Records without data, from a peer that sends little else: what they may cost, and where they end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from peers import PATIENCE
from tls_peers import TlsOverSocket, contexts
from tls_records import Records, shaken_hands

import aionet
from aionet import CloseCause, TlsError, TlsFailure

pytestmark = pytest.mark.asyncio


class Visit:
    """A client whose records are made here, and the server that it visits."""

    def __init__(self, sock: socket.socket, tls: TlsOverSocket, records: Records, spawner: Any) -> None:
        self.sock, self.tls, self.records, self.spawner = sock, tls, records, spawner
        self.reasons: list[aionet.CloseReason] = []

    async def send(self, data: bytes, size: int = 1 << 20) -> None:
        """Send `data`, in segments of `size` bytes."""

        def send() -> None:
            for at in range(0, len(data), size):
                self.sock.sendall(data[at : at + size])

        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.to_thread(send)

    async def receive(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            received += await asyncio.to_thread(self.tls.recv, count)
        return received

    async def reason(self) -> aionet.CloseReason:
        await until(lambda: self.reasons)
        return self.reasons[0]


@contextlib.asynccontextmanager
async def visiting(
    directory: Path,
    handler: Callable[[Any], Any],
    behind: Callable[[Records], bytes] = lambda records: b"",
) -> AsyncIterator[Visit]:
    server_context, client_context = contexts()
    reasons: list[aionet.CloseReason] = []
    spawner = aionet.ConnectionSpawner(handler, on_close=lambda connection, reason: reasons.append(reason))
    server = aionet.AsyncTcpConnectionServer("127.0.0.1:0", tls=server_context)
    serving = asyncio.create_task(spawner.serve(server))
    await asyncio.sleep(0)
    with socket.create_connection(("127.0.0.1", server.address.port), PATIENCE) as sock:
        shaken = await asyncio.to_thread(shaken_hands, sock, client_context, directory / "keys", behind)
        visit = Visit(sock, *shaken, spawner)
        visit.reasons = reasons
        try:
            yield visit
        finally:
            await spawner.drain(0.0)
            await serving


async def echo(sock: Any) -> None:
    while data := await sock.read():
        await sock.write(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda records: records.key_update(),
        lambda records: records.key_update(requested=True),
        lambda records: records.key_update(padding=10_000),
    ],
    ids=["key updates", "key updates with answers", "padded key updates"],
)
async def test_a_peer_that_sends_nothing_but_key_updates_is_cut(
    tmp_path: Path, make: Callable[[Records], bytes]
) -> None:
    async with visiting(tmp_path, echo) as visit:
        await visit.send(visit.records.data(b"first"))
        assert await visit.receive(5) == b"first"
        with contextlib.suppress(OSError):  # the server may have closed before all of it is sent
            await visit.send(b"".join(make(visit.records) for _ in range(200)))
        reason = await visit.reason()
    assert (reason.cause, reason.by, reason.phase) == (CloseCause.TLS_RECORD_FLOOD, "server", "serving")
    assert (reason.cause.outcome, reason.bytes_read) == ("cut", 5)
    assert visit.spawner.stats.causes == {CloseCause.TLS_RECORD_FLOOD: 1}


async def test_a_handler_that_catches_the_error(tmp_path: Path) -> None:
    raised: list[TlsError] = []

    async def handle(sock: Any) -> None:
        try:
            await sock.read()
        except TlsError as error:
            raised.append(error)

    async with visiting(tmp_path, handle) as visit:
        await visit.send(b"".join(visit.records.key_update() for _ in range(200)))
        reason = await visit.reason()
    assert [error.failure for error in raised] == [TlsFailure.RECORD_FLOOD]
    assert reason.cause is CloseCause.TLS_RECORD_FLOOD


@pytest.mark.parametrize("size", [1, 7, 100_000], ids=["byte by byte", "in small pieces", "at once"])
async def test_key_updates_between_data_are_no_flood(tmp_path: Path, size: int) -> None:
    async with visiting(tmp_path, echo) as visit:
        sent = b""
        for number in range(3):
            sent += b"".join(visit.records.key_update(requested=at % 3 == 0) for at in range(30))
            sent += visit.records.data(b"%d" % number)
        await visit.send(sent, size)
        assert await visit.receive(3) == b"012"


async def test_a_peer_that_only_listens_may_update_its_keys(tmp_path: Path) -> None:
    async def talk(sock: Any) -> None:
        reading = asyncio.ensure_future(sock.read())
        for number in range(10):
            await heard.wait()
            heard.clear()
            await until(lambda: not is_unread(sock))
            await sock.write(b"%d" % number)
        assert await reading == b"enough"

    heard = asyncio.Event()
    async with visiting(tmp_path, talk) as visit:
        for number in range(10):
            await visit.send(b"".join(visit.records.key_update() for _ in range(20)))
            heard.set()
            assert await visit.receive(1) == b"%d" % number
        await visit.send(visit.records.data(b"enough"))
        assert (await visit.reason()).cause is CloseCause.COMPLETED


def is_unread(sock: Any) -> bool:
    return any(fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0"))


async def test_others_have_turns_between_key_updates(tmp_path: Path) -> None:
    """There are 400, with data now and then: 11 kB that took one turn of 10 ms."""
    turns, on = 0, True

    def count() -> None:
        nonlocal turns
        turns += 1
        if on:
            asyncio.get_running_loop().call_soon(count)

    async def handle(sock: Any) -> None:
        nonlocal on
        await sent.wait()
        count()
        assert await sock.read_exactly(20) == b"x" * 20
        on = False

    sent = asyncio.Event()
    async with visiting(tmp_path, handle) as visit:
        records = visit.records
        for _ in range(20):
            await visit.send(b"".join(records.key_update() for _ in range(20)) + records.data(b"x"))
        sent.set()
        assert (await visit.reason()).cause is CloseCause.COMPLETED
    assert turns >= 10


async def test_a_flood_behind_the_handshake(tmp_path: Path) -> None:
    """In the segment with the client's Finished, so that it comes in while the handshake is done."""

    def flood(records: Records) -> bytes:
        return b"".join(records.key_update() for _ in range(400))

    async with visiting(tmp_path, echo, flood) as visit:
        assert (await visit.reason()).cause is CloseCause.TLS_RECORD_FLOOD
