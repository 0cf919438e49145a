"""`relay` between raw peers on both sides, over TCP and Unix, on every loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conformance.transports import Accepted, TlsTransport
from helpers import until
from peers import RawListener, RawPeer

from aionet import (
    AsyncTcpSocket,
    AsyncUnixSocket,
    ConnectionLostError,
    SocketBusyError,
    SocketClosedError,
    TlsTruncatedError,
    relaying,
)
from aionet.relaying import RelayReport, relay

pytestmark = pytest.mark.asyncio

CLEAN = {"lost": None, "error": None, "undelivered": 0}


class Rig:
    """``peer_a <-> a == relay == b <-> peer_b``"""

    def __init__(self, a: Any, peer_a: RawPeer, b: Any, peer_b: RawPeer) -> None:
        self.a, self.peer_a, self.b, self.peer_b = a, peer_a, b, peer_b
        self.relaying = asyncio.ensure_future(relay(a, b))

    async def report(self) -> RelayReport:
        async with asyncio.timeout(10):
            report = await self.relaying
        assert self.a.closed
        assert self.b.closed
        assert self.a.fileno() == self.b.fileno() == -1
        return report


@contextlib.asynccontextmanager
async def rig(kinds: str, path: Path) -> AsyncIterator[Rig]:
    """A running relay; `kinds` has a letter for each side: t for TCP, u for Unix."""
    async with contextlib.AsyncExitStack() as stack:
        ends = []
        for number, kind in enumerate(kinds):
            if kind == "t":
                listener = stack.enter_context(RawListener())
                sock: Any = AsyncTcpSocket()
                connecting = sock.connect_to(listener.address)
            else:
                listener = stack.enter_context(RawListener(str(path / str(number)), socket.AF_UNIX))
                sock = AsyncUnixSocket()
                connecting = sock.connect_to(listener.address)
            await connecting
            peer = stack.enter_context(await listener.accept())
            _limit_buffers(sock.raw_socket)
            _limit_buffers(peer.sock)
            ends += [sock, peer]
        built = Rig(*ends)
        try:
            yield built
        finally:
            built.relaying.cancel()
            await asyncio.gather(built.relaying, return_exceptions=True)


def _limit_buffers(sock: socket.socket) -> None:
    """Else the kernel's grow with what comes, and may take what a test means to be too much for them."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)


every_kind = pytest.mark.parametrize("kinds", ["tt", "uu", "tu", "ut"])


@every_kind
async def test_bytes_go_both_ways_and_both_ends_travel(kinds: str, tmp_path: Path) -> None:
    async with rig(kinds, tmp_path) as r:
        await r.peer_a.send(b"question")
        assert await r.peer_b.receive_exactly(8) == b"question"
        await r.peer_b.send(b"answer")
        assert await r.peer_a.receive_exactly(6) == b"answer"
        r.peer_a.half_close()
        assert await r.peer_b.receive() == b""
        await r.peer_b.send(b"last words")  # the other way is still open
        r.peer_b.half_close()
        assert await r.peer_a.receive_to_end() == b"last words"
        report = await r.report()
    assert report == RelayReport(a_to_b=8, b_to_a=16, **CLEAN)


@every_kind
async def test_both_sides_may_end_at_once(kinds: str, tmp_path: Path) -> None:
    async with rig(kinds, tmp_path) as r:
        r.peer_a.half_close()
        r.peer_b.half_close()
        assert await r.report() == RelayReport(a_to_b=0, b_to_a=0, **CLEAN)
        assert await r.peer_a.receive() == await r.peer_b.receive() == b""


@every_kind
async def test_a_lot_arrives_bit_for_bit_both_ways_at_once(kinds: str, tmp_path: Path) -> None:
    there, back = random.Random(1).randbytes(8 << 20), random.Random(2).randbytes(8 << 20)
    async with rig(kinds, tmp_path) as r:

        async def send(peer: RawPeer, data: bytes) -> None:
            await peer.send(data)
            peer.half_close()

        async with asyncio.timeout(20):
            _, _, got_there, got_back = await asyncio.gather(
                send(r.peer_a, there),
                send(r.peer_b, back),
                r.peer_b.receive_to_end(),
                r.peer_a.receive_to_end(),
            )
        report = await r.report()
    assert hashlib.sha256(got_there).digest() == hashlib.sha256(there).digest()
    assert hashlib.sha256(got_back).digest() == hashlib.sha256(back).digest()
    assert report == RelayReport(a_to_b=len(there), b_to_a=len(back), **CLEAN)


@every_kind
@pytest.mark.parametrize("blocked", ["a", "b"])
async def test_a_side_that_does_not_read_holds_up_only_its_own_way(
    kinds: str, blocked: str, tmp_path: Path
) -> None:
    async with rig(kinds, tmp_path) as r:
        still, lively = (r.peer_a, r.peer_b) if blocked == "a" else (r.peer_b, r.peer_a)
        flood = random.Random(3).randbytes(16 << 20)
        flooding = lively.in_thread(lambda sock: sock.sendall(flood))
        for number in range(100):  # the way from the side that does not read goes on
            await still.send(b"%4d" % number)
            assert await lively.receive_exactly(4) == b"%4d" % number
        assert not flooding.done()
        assert await still.receive_exactly(len(flood)) == flood
        await flooding


@pytest.mark.parametrize("kinds", ["tt", "ut"])
@pytest.mark.parametrize("size", [1, 100_000, 3 << 20])
async def test_a_reset_travels_behind_the_last_bytes(kinds: str, size: int, tmp_path: Path) -> None:
    data = random.Random(size).randbytes(size)
    async with rig(kinds, tmp_path) as r:
        sender, receiver, source = (r.peer_a, r.peer_b, r.a) if kinds == "tt" else (r.peer_b, r.peer_a, r.b)
        receiving = asyncio.ensure_future(receiver.receive_exactly(size))
        await sender.send(data)
        await until(lambda: unsent(sender.sock) == 0)  # a reset destroys what is still with the sender
        sender.reset()
        assert await receiving == data
        report = await r.report()
        if kinds == "tt":
            with pytest.raises(ConnectionResetError):
                await receiver.receive()
        else:  # Unix has no reset
            assert await receiver.receive() == b""
    forward, backward = report.a_to_b, report.b_to_a
    assert (forward, backward) == ((size, 0) if kinds == "tt" else (0, size))
    assert report.lost == ("a" if source is r.a else "b")
    assert isinstance(report.error, ConnectionLostError)
    assert report.undelivered == 0


async def test_the_last_bytes_reach_a_reader_that_comes_late(tmp_path: Path) -> None:
    data = random.Random(4).randbytes(32 << 10)
    async with rig("tt", tmp_path) as r:
        await r.peer_a.send(data)
        await until(lambda: unsent(r.peer_a.sock) == 0)
        r.peer_a.reset()
        await until(lambda: r.relaying.done())  # acknowledged by the system: no program has read it yet
        assert await r.peer_b.receive_exactly(len(data)) == data
        with pytest.raises(ConnectionResetError):
            await r.peer_b.receive()


async def test_the_last_bytes_get_through_while_the_survivor_only_sends(tmp_path: Path) -> None:
    """It reads when it has sent everything: nobody may wait for that without taking what it sends."""
    data = random.Random(5).randbytes(4 << 20)
    async with rig("tt", tmp_path) as r:
        sent: list[str] = []

        def flood(sock: socket.socket) -> None:
            try:
                sock.sendall(bytes(64 << 20))
                sent.append("all of it")
            except ConnectionError:
                sent.append("reset")

        r.peer_a.sock.settimeout(0.5)
        flooding = r.peer_b.in_thread(flood)
        filling = r.peer_a.in_thread(lambda sock: _send_what_fits(sock, data))
        count = await filling  # both ways are full now
        assert count > 0
        r.peer_a.reset()
        await flooding
        assert sent == ["all of it"]
        got = await r.peer_b.in_thread(_receive_until_reset)
        report = await r.report()
        assert data.startswith(got)
        assert len(got) == report.a_to_b
        assert report.lost == "a"
        assert report.undelivered == 0


def _send_what_fits(sock: socket.socket, data: bytes) -> int:
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < len(data):
            sent += sock.send(data[sent : sent + 65536])
    return sent


def _receive_until_reset(sock: socket.socket) -> bytes:
    """Receive until the reset, which must come: a clean end would be a lie."""
    got = bytearray()
    try:
        while data := sock.recv(1 << 20):
            got += data
    except ConnectionResetError:
        return bytes(got)
    raise AssertionError(f"a clean end after {len(got)} bytes")


async def test_a_standstill_ends_the_delivery_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "_STANDSTILL", 0.2)
    async with rig("tt", tmp_path) as r:
        r.peer_a.sock.settimeout(0.5)
        await r.peer_a.in_thread(lambda sock: _send_what_fits(sock, bytes(64 << 20)))
        r.peer_a.reset()
        await r.peer_b.send(b"x")  # tells the relay that a is gone
        report = await r.report()
        assert report.lost == "a"
        assert report.undelivered > 0
        with pytest.raises(ConnectionResetError):  # after what its own system had
            await r.peer_b.receive_to_end()


async def test_a_peer_that_closed_for_good_resets_the_other(tmp_path: Path) -> None:
    """Closing looks like a half-close at first; writing to it tells."""
    async with rig("tt", tmp_path) as r:
        r.peer_a.close()
        assert await r.peer_b.receive() == b""
        with pytest.raises(ConnectionError):
            await r.peer_b.send(bytes(256 << 20))
        report = await r.report()
        assert report.lost == "a"


async def test_a_unix_peer_that_has_stopped_reading_is_heard_to_its_end(tmp_path: Path) -> None:
    async with rig("ut", tmp_path) as r:
        r.peer_a.sock.shutdown(socket.SHUT_RD)
        await r.peer_b.send(b"nobody reads this")
        await r.peer_a.send(b"but I still send")
        assert await r.peer_b.receive_exactly(16) == b"but I still send"
        await r.peer_a.send(b", and send")
        r.peer_a.close()
        assert await r.peer_b.receive_exactly(10) == b", and send"
        report = await r.report()
        assert report.lost == "a"
        assert report.a_to_b == 26


# An end of TLS without close_notify -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def tls_rig(
    accept_truncation: bool | None,
) -> AsyncIterator[tuple[Any, Any, asyncio.Future[RelayReport]]]:
    """A peer over TLS, one over TCP, and the report of the relay between them; ``None``: the default."""
    tcp = Accepted("tcp4", socket.AF_INET, "127.0.0.1")
    how = {} if accept_truncation is None else {"accept_truncation": accept_truncation}
    async with TlsTransport(tcp).connected() as (a, peer_a), tcp.connected() as (b, peer_b):
        relaying = asyncio.ensure_future(relay(a, b, **how))
        try:
            yield peer_a, peer_b, relaying
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)


@pytest.mark.parametrize("accept", [None, True])
async def test_an_end_without_close_notify_travels_as_an_end(accept: bool | None) -> None:
    async with tls_rig(accept) as (peer_a, peer_b, relaying):
        await peer_a.send(bytes(100_019))
        peer_a.sock.sock.shutdown(socket.SHUT_WR)  # of the connection below
        assert len(await peer_b.receive_to_end()) == 100_019
        await peer_b.send(b"the other way is open")
        assert await peer_a.receive_exactly(21) == b"the other way is open"
        peer_b.half_close()
        assert await peer_a.receive() == b""
        report = await asyncio.wait_for(relaying, 10)
        assert report == RelayReport(a_to_b=100_019, b_to_a=21, truncated=("a",), **CLEAN)


async def test_an_end_without_close_notify_may_count_as_a_loss() -> None:
    async with tls_rig(False) as (peer_a, peer_b, relaying):
        await peer_a.send(bytes(100_019))
        peer_a.sock.sock.shutdown(socket.SHUT_WR)
        assert len(await peer_b.in_thread(_receive_until_reset)) == 100_019
        report = await asyncio.wait_for(relaying, 10)
        assert (report.a_to_b, report.lost, report.truncated, report.undelivered) == (100_019, "a", (), 0)
        assert isinstance(report.error, TlsTruncatedError)


async def test_close_notify_is_no_truncation() -> None:
    async with tls_rig(None) as (peer_a, peer_b, relaying):
        for peer, other in ((peer_a, peer_b), (peer_b, peer_a)):
            peer.half_close()
            assert await other.receive() == b""
        assert (await asyncio.wait_for(relaying, 10)).truncated == ()


# Endings by this side -------------------------------------------------------------------------------


@every_kind
async def test_cancelling_closes_both_sides(kinds: str, tmp_path: Path) -> None:
    async with rig(kinds, tmp_path) as r:
        await r.peer_a.send(b"before")
        assert await r.peer_b.receive_exactly(6) == b"before"
        r.relaying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await r.relaying
        assert r.a.fileno() == r.b.fileno() == -1
        for kind, peer in zip(kinds, (r.peer_a, r.peer_b), strict=True):
            if kind == "t":  # a clean end would be a lie
                with pytest.raises(ConnectionResetError):
                    await peer.receive()
            else:
                assert await peer.receive() == b""


async def test_cancelling_in_the_middle_of_a_flood(tmp_path: Path) -> None:
    data = random.Random(6).randbytes(32 << 20)
    async with rig("tt", tmp_path) as r:
        sending = r.peer_a.in_thread(lambda sock: sock.sendall(data))
        got = await r.peer_b.receive_exactly(1 << 20)
        r.relaying.cancel()
        with pytest.raises(ConnectionError):
            await sending
        got += await r.peer_b.in_thread(_receive_until_reset)
        assert data.startswith(got)


async def test_closing_a_side_under_it_ends_it(tmp_path: Path) -> None:
    async with rig("tt", tmp_path) as r:
        await r.peer_a.send(b"x")
        assert await r.peer_b.receive() == b"x"
        r.a.abort()
        with pytest.raises(SocketClosedError):
            await r.relaying
        assert r.b.fileno() == -1


async def test_a_socket_that_somebody_else_reads_is_refused(tmp_path: Path) -> None:
    async with rig("tt", tmp_path) as r:
        other = AsyncTcpSocket()
        with RawListener() as listener:
            await other.connect_to(listener.address)
            with await listener.accept():
                await r.peer_a.send(b"x")
                assert await r.peer_b.receive() == b"x"
                with pytest.raises(SocketBusyError):
                    await relay(r.a, other)
                assert other.fileno() == -1
                with pytest.raises(SocketClosedError):
                    await r.relaying


async def test_a_socket_is_not_relayed_to_itself() -> None:
    sock = AsyncTcpSocket()
    with pytest.raises(ValueError, match="twice"):
        await relay(sock, sock)


async def test_an_unconnected_socket_is_refused() -> None:
    with pytest.raises(SocketClosedError, match="not connected"):
        await relay(AsyncTcpSocket(), AsyncUnixSocket())


async def test_without_acknowledgements_the_last_bytes_still_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere than on Linux nothing tells what was acknowledged: the survivor is closed in good order."""

    def unknown(self: AsyncTcpSocket) -> int:
        raise NotImplementedError

    async def cannot_wait(self: AsyncTcpSocket) -> None:
        raise NotImplementedError

    monkeypatch.setattr(AsyncTcpSocket, "unacknowledged", property(unknown))
    monkeypatch.setattr(AsyncTcpSocket, "wait_acknowledged", cannot_wait)
    async with rig("tt", tmp_path) as r:
        await r.peer_a.send(b"last words")
        await until(lambda: unsent(r.peer_a.sock) == 0)
        r.peer_a.reset()
        assert await r.peer_b.receive_to_end() == b"last words"
        assert (await r.report()).lost == "a"


def unsent(sock: socket.socket) -> int:
    """What is not yet acknowledged: SIOCOUTQ."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"), "little")
