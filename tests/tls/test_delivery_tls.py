"""What is known over TLS of what was written: backpressure, acknowledgement, loss; and of the connection."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import socket
import ssl
import sys
import termios
import weakref

import pytest
from conformance.transports import Accepted, TlsTransport
from helpers import begin, give_turns, until
from tls_peers import HOST, contexts

from aionet import ConnectionLostError, DeliveryError, TcpOptions
from aionet.wires.unconnected import NEVER_CONNECTED

from .scenes import TLS_VERSIONS, connected, dialed_to

pytestmark = pytest.mark.asyncio

BIG = 3 << 19


def twice():
    """Return a pair with TLS over TLS."""
    beneath = Accepted("tcp4", socket.AF_INET, "127.0.0.1")
    return TlsTransport(beneath, layers=2).connected(linger=0.1)


BOTH = pytest.mark.parametrize("layers", [lambda: connected(linger=0.1), twice], ids=["tls", "tls in tls"])


@BOTH
async def test_a_write_waits_for_the_peer_to_read(layers):
    async with layers() as (sock, peer):
        writing = await begin(sock.write(bytes(BIG)))
        await until(lambda: sock.unacknowledged > BIG // 2)
        assert not writing.done()
        assert sock.bytes_written < BIG
        assert await peer.receive_exactly(BIG) == bytes(BIG)
        assert await writing == BIG
        assert sock.bytes_written == BIG


@BOTH
async def test_waiting_for_acknowledgement(layers):
    async with layers() as (sock, peer):
        writing = await begin(sock.write(bytes(BIG)))
        waiting = await begin(sock.wait_acknowledged())
        assert not waiting.done()
        await peer.receive_exactly(BIG)
        await asyncio.gather(writing, waiting)
        assert sock.unacknowledged == 0
        await sock.wait_acknowledged()


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_what_is_not_acknowledged_is_counted_without_the_overhead(version):
    async with connected(version) as (sock, peer):
        assert sock.unacknowledged == sock._wire.facts()[0] == 0  # whatever is under way of the handshake
        limit_buffers(sock.raw_socket, peer.sock.sock)
        written = 0
        while (below := unacknowledged_below(sock)) < 50_000:
            written += await sock.write(bytes(1000))
        overhead = 22 if version is ssl.TLSVersion.TLSv1_3 else 29
        expected = below * 1000 // (1000 + overhead)
        assert sock.unacknowledged == sock._wire.facts()[0] == expected
        await sock.send_eof()  # close_notify waits behind them
        assert unacknowledged_below(sock) > below
        assert sock.unacknowledged == expected
        peer.sock.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        assert await peer.receive_exactly(written) == bytes(written)
        await sock.wait_acknowledged()
        assert sock.unacknowledged == sock._wire.facts()[0] == 0


async def test_all_of_a_message_is_under_way():
    async with connected() as (sock, peer):
        limit_buffers(sock.raw_socket, peer.sock.sock)
        lower = sock._wire._lower
        asked = lower._unacknowledged
        lower_bytes = lower.bytes_written
        await sock.write(bytes(5))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(lower), "_unacknowledged", lambda self: self.bytes_written - lower_bytes)
            assert sock.unacknowledged == 5
            patch.setattr(type(lower), "_unacknowledged", lambda self: 0)
            assert sock.unacknowledged == 0
        assert asked() >= 0


def unacknowledged_below(sock) -> int:
    """Bytes of ciphertext that the kernel has no acknowledgement for: SIOCOUTQ."""
    raw = sock.raw_socket
    return int.from_bytes(fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)


def limit_buffers(ours, peers):
    """Let the peer's system take little, and ours a lot more."""
    peers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)


@BOTH
async def test_a_loss_says_how_much_was_not_acknowledged(layers):
    async with layers() as (sock, peer):
        writing = await begin(sock.write(bytes(BIG)))
        waiting = await begin(sock.wait_acknowledged())
        peer.reset()
        with pytest.raises(DeliveryError) as caught:
            await waiting
        assert 0 < caught.value.unacknowledged < 2 * BIG
        with pytest.raises(ConnectionLostError):
            await writing


@BOTH
async def test_a_write_that_is_encrypted_and_not_yet_sent_is_told_of_the_loss(layers):
    async with layers() as (sock, peer):
        while (writing := await begin(sock.write(bytes(50_000)))).done():
            pass
        peer.reset()
        with pytest.raises(ConnectionLostError):
            await writing


async def test_what_was_written_is_counted_as_it_goes():
    async with connected() as (sock, peer):
        counts = []
        writing = await begin(sock.write(bytes(BIG)))
        while sock.bytes_written < BIG:
            counts.append(sock.bytes_written)
            await peer.receive_exactly(min(10_000, BIG - 10_000 * len(counts)))
            await until(lambda: sock.bytes_written >= counts[-1])
        assert counts == sorted(counts)
        await writing


async def test_a_connection_that_was_closed_is_not_left_to_the_collector():
    async with connected() as (sock, peer):
        await sock.write(b"hello")
        assert await peer.receive_exactly(5) == b"hello"
        peer.half_close()
        assert await sock.read() == b""
        await sock.aclose()
        engine = weakref.ref(sock._wire._tls)
        collecting = gc.isenabled()
        gc.disable()
        try:
            sock._wire = NEVER_CONNECTED
            await give_turns()  # a step of asyncio's holds what it has thrown until it ends
            assert engine() is None
        finally:
            if collecting:
                gc.enable()


@BOTH
async def test_the_loss_of_a_cancelled_write_is_told_once(layers):
    async with layers() as (sock, _):
        writing = await begin(sock.write(bytes(BIG)))
        writing.cancel()
        await asyncio.wait([writing])
        with pytest.raises(DeliveryError) as caught:
            await sock.aclose()
        assert 0 < caught.value.unacknowledged <= BIG
        await sock.aclose()


async def test_memory_does_not_grow_with_the_length_of_a_write():
    async with connected(linger=0.1) as (sock, _):
        writing = await begin(sock.write(bytes(20 * BIG)))
        await until(lambda: sock._wire.waits_for_room)
        assert sock._wire._seal.unsent < 100_000  # of what was encrypted, which is a copy
        sock.abort()
        await asyncio.wait([writing])
        writing.exception()


# What was agreed on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_what_was_agreed_on_outlives_the_connection(version):
    server, client = contexts.__wrapped__(version)
    client.set_alpn_protocols(["one"])
    server.set_alpn_protocols(["one"])
    async with dialed_to(server, client) as (sock, peer):
        peer.half_close()
        assert await sock.read() == b""
        await sock.aclose()
        agreed = sock.tls
        assert agreed.version == {771: "TLSv1.2", 772: "TLSv1.3"}[version]
        assert agreed.cipher == peer.sock.tls.cipher()[0]
        assert agreed.alpn_protocol == "one"
        assert agreed.server_name == HOST
        assert agreed.peer_certificate["subjectAltName"] == (("DNS", HOST),)
        assert ssl.DER_cert_to_PEM_cert(agreed.peer_certificate_der).startswith("-----BEGIN CERTIFICATE")
        assert not agreed.resumed


async def test_a_server_without_client_certificates_has_seen_none():
    async with connected() as (sock, _):
        assert (sock.tls.peer_certificate, sock.tls.peer_certificate_der) == (None, None)


async def test_the_kernel_goes_on_to_tell_of_the_connection():
    async with dialed_to(*contexts(), options=TcpOptions(nodelay=True)) as (sock, _):
        assert sock.tcp_info().state
        assert sock.raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.raw_socket.fileno() == sock.fileno()
