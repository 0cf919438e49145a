"""The end of a TLS stream: close_notify from either side, and ends that are none."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time

import pytest
from helpers import begin
from peers import flood
from tls_peers import HOST, TlsOverSocket, contexts

from aionet import ConnectionLostError, SocketClosedError, TcpOptions, TlsError, TlsFailure, TlsTruncatedError

from .scenes import TLS_VERSIONS, connected, dialed_to

pytestmark = pytest.mark.asyncio

LONG = {"linger": 60.0, "close_notify_wait": 30.0}


def cut(peer):
    """End the connection, as anybody on the way could, without close_notify."""
    peer.sock.sock.shutdown(socket.SHUT_WR)


# Waiting for the peer's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_closing_waits_for_the_peers_end(version):
    async with connected(version, **LONG) as (sock, peer):
        closing = await begin(sock.aclose())
        assert await peer.receive_to_end() == b""
        assert not closing.done()
        peer.half_close()
        async with asyncio.timeout(30):
            await closing
        assert sock.fileno() == -1


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_closing_after_the_peers_end_takes_no_time(version):
    async with connected(version, **LONG) as (sock, peer):
        peer.half_close()
        assert await sock.read() == b""
        async with asyncio.timeout(30):
            await sock.aclose()
        assert await peer.receive_to_end() == b""


async def test_a_mute_peer_is_waited_for_no_longer_than_asked():
    async with connected(linger=60.0, close_notify_wait=0.2) as (sock, _):
        started = time.monotonic()
        await sock.aclose()
        assert 0.15 < time.monotonic() - started < 5
        assert sock.fileno() == -1


async def test_a_peer_that_floods_is_waited_for_no_longer_either():
    async with connected(linger=60.0, close_notify_wait=0.2) as (sock, peer):
        flooding = peer.in_thread(flood)
        await sock.read()
        started = time.monotonic()
        await sock.aclose()
        assert time.monotonic() - started < 5
        peer.stop()
        await flooding


async def test_a_peer_that_hangs_up_is_not_waited_for():
    async with connected(**LONG) as (sock, peer):
        closing = await begin(sock.aclose())
        cut(peer)
        async with asyncio.timeout(30):
            await closing


async def test_closing_need_not_wait_at_all():
    async with connected(linger=60.0, close_notify_wait=0) as (sock, peer):
        async with asyncio.timeout(30):
            await sock.aclose()
        assert await peer.receive_to_end() == b""


async def test_input_that_nobody_read_does_not_hide_the_peers_end():
    async with connected(**LONG) as (sock, peer):
        peer.send_now(b"never read" * 10_000)
        assert await sock.read(5) == b"never"
        closing = await begin(sock.aclose())
        peer.half_close()
        async with asyncio.timeout(30):
            await closing


@pytest.mark.parametrize("value", [-1, float("nan")])
async def test_a_wait_that_is_none(value):
    with pytest.raises(ValueError, match="close_notify_wait"):
        TcpOptions(close_notify_wait=value)


# Half of it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_each_direction_ends_for_itself(version):
    async with connected(version) as (sock, peer):
        peer.send_now(b"read ahead")
        assert await sock.read(4) == b"read"  # and the rest is decrypted already
        await sock.send_eof()
        assert await peer.receive_to_end() == b""
        assert await sock.read(6) == b" ahead"
        peer.send_now(b"more")
        assert await sock.read() == b"more"
        peer.half_close()
        assert await sock.read() == b""


async def test_a_peer_that_answers_the_end_with_its_own_at_once():
    async with connected() as (sock, peer):
        await sock.send_eof()
        await asyncio.to_thread(peer.sock.recv, 1)
        peer.half_close()
        assert await sock.read() == b""
        with pytest.raises(SocketClosedError):
            await sock.write(b"late")


# Without ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_an_end_without_close_notify_is_told_after_what_came_before(version):
    async with connected(version) as (sock, peer):
        peer.send_now(b"half of it")
        cut(peer)
        assert await sock.read() == b"half of it"
        for _ in range(2):
            with pytest.raises(TlsTruncatedError) as caught:
                await sock.read()
            assert caught.value.failure is TlsFailure.TRUNCATED
            assert caught.value.operation == "read"
            assert caught.value.peer_address == sock.peer_address
        await sock.write(b"the other direction goes on")
        assert await peer.receive(100) == b"the other direction goes on"


async def test_the_option_of_openssl_that_hides_it_does_not():
    server, client = contexts.__wrapped__()
    client.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    async with dialed_to(server, client) as (sock, peer):
        cut(peer)
        with pytest.raises(TlsTruncatedError):
            await sock.read()


async def test_a_line_that_was_cut_off_stays_readable():
    async with connected() as (sock, peer):
        peer.send_now(b"half a line")
        cut(peer)
        with pytest.raises(TlsTruncatedError):
            await sock.read_line()
        assert await sock.read() == b"half a line"


async def test_a_record_that_was_cut_off():
    async with connected() as (sock, peer):
        peer.sock.sock.sendall(b"\x17\x03\x03\x01\x00" + bytes(100))
        cut(peer)
        with pytest.raises(TlsTruncatedError):
            await sock.read()


async def test_whoever_accepts_truncation_reads_an_end():
    async with dialed_to(*contexts(), accept_truncation=True) as (sock, peer):
        peer.send_now(b"all")
        cut(peer)
        assert await sock.read() == b"all"
        assert await sock.read() == b""
        assert await sock.read() == b""


async def test_truncation_is_accepted_of_one_layer():
    async with dialed_to(*contexts()) as (sock, peer):
        await lay_once_more(sock, peer, accept_truncation=True)
        peer.send_now(b"all")
        peer.sock.sock.shutdown(socket.SHUT_WR)  # an end in good order, of the TLS beneath
        assert await sock.read() == b"all"
        assert await sock.read() == b""


async def lay_once_more(sock, peer, **how):
    peer.sock = TlsOverSocket(peer.sock, contexts().server, server_side=True)
    await asyncio.gather(
        sock.start_tls(contexts().client, server_hostname=HOST, **how), peer.sock.shake_hands()
    )


# What must not look whole -----------------------------------------------------------------------------------


class Unreadable:
    """A file that breaks off."""

    def __init__(self):
        self.left = 3

    def read(self, count):
        self.left -= 1
        if not self.left:
            raise OSError(5, "the disk is gone")
        return b"x" * min(count, 1000)

    def seekable(self):
        return False


@pytest.mark.parametrize("end", ["aclose", "send_eof"])
async def test_a_write_that_broke_off_is_not_followed_by_close_notify(end):
    async with connected() as (sock, peer):
        with pytest.raises(OSError, match="the disk is gone"):
            await sock.send_file(Unreadable())
        if end == "send_eof":
            with pytest.raises(ConnectionLostError):
                await sock.send_eof()
        await sock.aclose()
        with pytest.raises(ConnectionResetError):
            await peer.receive_to_end()


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_a_record_that_was_tampered_with_is_a_loss(version):
    async with connected(version) as (sock, peer):
        peer.send_now(b"good")
        assert await sock.read() == b"good"
        peer.sock.sock.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
        for operation, name in [
            (sock.read, "read"),
            (sock.read, "read"),
            (lambda: sock.write(b"x"), "write"),
        ]:
            with pytest.raises(TlsError) as caught:
                await operation()
            assert caught.value.failure is TlsFailure.PROTOCOL
            assert caught.value.operation == name
        with pytest.raises(ssl.SSLError, match="ALERT"):  # the peer is told
            await peer.receive()
        async with asyncio.timeout(30):
            await sock.aclose()
