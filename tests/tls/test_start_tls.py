"""Going over to TLS on a connection that is there already."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest
from conformance.transports import Accepted
from helpers import begin, give_turns
from tls_peers import HOST, TlsOverSocket, contexts

from aionet import ProxyProtocol, SocketBusyError, SocketClosedError, TlsError, TlsFailure

pytestmark = pytest.mark.asyncio

BIG = 3 << 19


def plain(**options):
    """Return a pair without TLS."""
    return Accepted("tcp4", socket.AF_INET, "127.0.0.1").connected(**options)


def over(peer, *, server_side=False):
    """Let `peer` go over to TLS; its handshake is still to be done."""
    known = contexts()
    context = known.server if server_side else known.client
    peer.sock = TlsOverSocket(peer.sock, context, server_side=server_side)
    return peer.sock


async def test_a_protocol_that_begins_in_plain_text():
    async with plain() as (sock, peer):
        peer.send_now(b"STARTTLS\n")
        assert await sock.read_line() == b"STARTTLS\n"
        assert sock.tls is None
        await sock.write(b"go ahead\n")
        assert await peer.receive_exactly(9) == b"go ahead\n"
        shaking = asyncio.ensure_future(over(peer).shake_hands())
        await sock.start_tls(contexts().server, server_side=True)
        await shaking
        peer.send_now(b"a secret\n")
        assert await sock.read_line() == b"a secret\n"
        assert sock.tls.version == "TLSv1.3"


async def test_bytes_that_came_before_are_never_taken_for_what_was_protected():
    async with plain() as (sock, peer):
        peer.send_now(b"220 go ahead\nRCPT TO:<mallory@example.org>\n")
        assert await sock.read_line() == b"220 go ahead\n"
        with pytest.raises(TlsError, match="30 bytes") as caught:
            await sock.start_tls(contexts().client, server_hostname=HOST)
        assert caught.value.failure is TlsFailure.INJECTED
        assert caught.value.operation == "start_tls"
        assert sock.tls is None
        assert await sock.read_line() == b"RCPT TO:<mallory@example.org>\n"  # as it was


async def test_bytes_that_come_just_before_the_handshake_end_it():
    async with plain(linger=5.0) as (sock, peer):
        peer.send_now(b"RCPT TO:<mallory@example.org>\n")  # in the kernel's buffer
        shaking = asyncio.ensure_future(over(peer, server_side=True).shake_hands())
        with pytest.raises(TlsError) as caught:
            await sock.start_tls(contexts().client, server_hostname=HOST)
        assert caught.value.failure is TlsFailure.PLAINTEXT
        assert sock.closed
        with pytest.raises(OSError):
            await shaking


@pytest.mark.parametrize("buffered", [True, False])
async def test_a_header_and_the_handshake_in_one_segment(buffered):
    async with plain() as (sock, peer):
        tls = over(peer)

        class Together:
            """Sends a header before the first bytes of the handshake."""

            def __init__(self, raw):
                self.raw = raw
                self.before = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n"

            def sendall(self, data):
                self.raw.sendall(self.before + data)
                self.before = b""

            def __getattr__(self, name):
                return getattr(self.raw, name)

        tls.sock = Together(tls.sock)
        shaking = asyncio.ensure_future(tls.shake_hands())
        await ProxyProtocol()(sock)
        if buffered:
            await sock.start_tls(contexts().server, server_side=True, buffered_is_handshake=True)
            await shaking
            peer.send_now(b"hello")
            assert await sock.read() == b"hello"
            assert str(sock.peer_address) == "192.0.2.1:1000"
        else:
            with pytest.raises(TlsError) as caught:
                await sock.start_tls(contexts().server, server_side=True)
            assert caught.value.failure is TlsFailure.INJECTED
            sock.abort()
            with pytest.raises(OSError):
                await shaking


async def test_plaintext_in_the_buffer_is_no_handshake():
    async with plain() as (sock, peer):
        peer.send_now(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\nEHLO example.org\r\n")
        await ProxyProtocol()(sock)
        with pytest.raises(TlsError) as caught:
            await sock.start_tls(contexts().server, server_side=True, buffered_is_handshake=True)
        assert caught.value.failure is TlsFailure.PLAINTEXT
        assert sock.closed


async def test_what_was_written_before_goes_first():
    async with plain() as (sock, peer):
        writing = await begin(sock.write(b"a" * BIG))
        starting = await begin(sock.start_tls(contexts().server, server_side=True))
        assert await peer.receive_exactly(BIG) == b"a" * BIG
        await over(peer).shake_hands()
        await asyncio.gather(writing, starting)
        await sock.write(b"encrypted")
        assert await peer.receive_exactly(9) == b"encrypted"


async def test_what_is_written_meanwhile_is_encrypted():
    async with plain() as (sock, peer):
        starting = await begin(sock.start_tls(contexts().server, server_side=True))
        writing = [await begin(sock.write(b"1" * BIG)), await begin(sock.write(b"2"))]
        ending = await begin(sock.send_eof())
        await over(peer).shake_hands()
        assert await peer.receive_to_end() == b"1" * BIG + b"2"
        await asyncio.gather(starting, ending, *writing)


async def test_nobody_reads_meanwhile():
    async with plain() as (sock, peer):
        starting = await begin(sock.start_tls(contexts().server, server_side=True))
        with pytest.raises(SocketBusyError):
            await sock.read()
        await over(peer).shake_hands()
        await starting


async def test_somebody_who_reads_is_in_the_way():
    async with plain() as (sock, peer):
        reading = await begin(sock.read())
        with pytest.raises(SocketBusyError):
            await sock.start_tls(contexts().server, server_side=True)
        peer.send_now(b"plain")
        assert await reading == b"plain"


async def test_an_upgrade_that_is_cancelled_is_an_abort():
    async with plain() as (sock, peer):
        starting = await begin(sock.start_tls(contexts().server, server_side=True))
        writing = await begin(sock.write(b"never sent"))
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        with pytest.raises(SocketClosedError):
            await writing
        with pytest.raises(ConnectionResetError):
            await peer.receive()


@pytest.mark.parametrize("end", ["aclose", "abort"])
async def test_closing_ends_an_upgrade(end):
    async with plain() as (sock, peer):
        starting = await begin(sock.start_tls(contexts().server, server_side=True))
        writing = await begin(sock.write(b"never sent"))
        await sock.aclose() if end == "aclose" else sock.abort()
        for task in (starting, writing):
            with pytest.raises(SocketClosedError):
                await task
        assert sock.fileno() == -1
        assert sock.tls is None
        with contextlib.suppress(ConnectionResetError):
            assert await peer.receive() == b""


async def test_a_refused_upgrade_tells_the_peer_and_closes():
    async with plain(linger=5.0) as (sock, peer):
        shaking = asyncio.ensure_future(over(peer, server_side=True).shake_hands())
        with pytest.raises(TlsError) as caught:
            await sock.start_tls(True, server_hostname=HOST)
        assert caught.value.failure is TlsFailure.CERTIFICATE_UNTRUSTED
        assert sock.closed
        with pytest.raises(ssl.SSLError, match="ALERT_UNKNOWN_CA"):
            await shaking


@pytest.mark.parametrize(
    ("context", "how", "error", "says"),
    [
        (None, {}, TypeError, "must be an ssl.SSLContext or True, not None"),
        (False, {}, TypeError, "must be an ssl.SSLContext or True, not False"),
        (True, {"server_side": True}, TypeError, "must be a ServerTls or an ssl.SSLContext, not True"),
        (None, {"server_side": True}, TypeError, "must be a ServerTls or an ssl.SSLContext, not None"),
        (True, {}, ValueError, "server_hostname=None"),
        (contexts().client, {"server_side": True}, ValueError, "a client's context"),
        (contexts().server, {"server_hostname": HOST}, ValueError, "for servers"),
        (contexts().server, {"server_side": True, "server_hostname": HOST}, ValueError, "a client asks for"),
    ],
)
async def test_bad_arguments_are_refused_before_any_io(context, how, error, says):
    async with plain() as (sock, peer):
        with pytest.raises(error, match=says):
            await sock.start_tls(context, **how)
        await give_turns()
        peer.send_now(b"as before")
        assert await sock.read() == b"as before"
