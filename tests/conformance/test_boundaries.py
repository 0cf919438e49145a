"""Where recv(2) stops though more is there: at urgent data, and after descriptors on Unix sockets."""

from __future__ import annotations

import os
import socket

import pytest
from helpers import begin, give_turns

from .transports import TRANSPORTS

pytestmark = pytest.mark.asyncio

LARGE = bytes(range(256)) * 100


class Attaching:
    """A Unix socket that attaches a descriptor to whatever it sends."""

    def __init__(self, sock):
        self.sock = sock

    def sendall(self, data):
        with open(os.devnull) as file:
            assert socket.send_fds(self.sock, [data], [file.fileno()]) == len(data)

    def __getattr__(self, name):
        return getattr(self.sock, name)


@pytest.fixture(  # not TLS over TCP: a record is no longer whole without its urgent byte
    params=[
        pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.slow else [])
        for each in TRANSPORTS
        if each.kernel_reads or "unix" in each.name
    ]
)
def transport(request):
    return request.param


@pytest.fixture
def send_to_boundary(transport, peer):
    """`send_to_boundary(data)`: send what is followed by a place at which recv(2) stops."""
    if transport.kernel_reads and transport.family == socket.AF_UNIX:
        return Attaching(peer.sock).sendall
    if not transport.kernel_reads:
        beneath = peer.sock
        while not isinstance(beneath.sock, socket.socket):
            beneath = beneath.sock
        beneath.sock = Attaching(beneath.sock)
        return peer.sock.sendall

    def send(data):
        peer.sock.sendall(data)
        peer.sock.send(b"!", socket.MSG_OOB)

    return send


async def read(sock, n):
    return await sock.read(n + 100)


async def read_into(sock, n):
    buffer = bytearray(n + 100)
    return bytes(buffer[: await sock.read_into(buffer)])


async def next_chunk(sock, n):
    return await anext(sock)


async def read_exactly(sock, n):
    return await sock.read_exactly(n)


reads = pytest.mark.parametrize(
    "receive", [read, read_into, next_chunk, read_exactly], ids=lambda receive: receive.__name__
)


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "late"])
@reads
async def test_what_follows_is_received(sock, peer, send_to_boundary, receive, waiting):
    for number in range(3):
        before, after = b"%d before" % number, b"%d after" % number
        reading = await begin(receive(sock, len(before))) if waiting else None
        send_to_boundary(before)
        peer.send_now(after)
        received = b"" if reading is None else await reading
        while len(received) < len(before + after):
            received += await receive(sock, 1)
        assert received == before + after


@reads
async def test_what_follows_a_lot_is_received(sock, peer, send_to_boundary, receive):
    """A stream of large reads asks the kernel how much is left."""
    peer.send_now(LARGE)
    assert await sock.read_exactly(len(LARGE)) == LARGE
    for _ in range(2):
        reading = await begin(sock.read(1))
        send_to_boundary(b"x" + LARGE)
        peer.send_now(b"after")
        received = await reading
        while len(received) < 1 + len(LARGE) + 5:
            received += await receive(sock, 1)
        assert received == b"x" + LARGE + b"after"


async def test_a_peer_that_ends_at_once_ends_cleanly(sock, peer, send_to_boundary):
    reading = await begin(sock.read())
    send_to_boundary(b"last")
    peer.half_close()
    assert await reading == b"last"
    assert await sock.read() == b""
    await sock.write(b"reply")
    assert await peer.receive_exactly(5) == b"reply"


async def test_a_single_reader_waits_again_after_it(sock, peer, send_to_boundary):
    """The urgent byte itself is no input."""
    reading = await begin(sock.read())
    send_to_boundary(b"x")
    assert await reading == b"x"
    reading = await begin(sock.read())
    await give_turns(20)
    assert not reading.done()
    peer.send_now(b"y")
    assert await reading == b"y"
