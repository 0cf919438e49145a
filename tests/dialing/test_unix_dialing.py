"""Connecting to Unix servers."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest
from helpers import begin, no_descriptors, open_sockets
from peers import RawListener, RawPeer

from aionet import AsyncUnixSocket, ConnectError, SocketAddress, SocketClosedError, UnixAddress

pytestmark = pytest.mark.asyncio


@pytest.fixture
def listener(tmp_path):
    with RawListener(str(tmp_path / "socket"), socket.AF_UNIX, backlog=0) as listener:
        yield listener


@pytest.mark.parametrize(
    "form", [str, UnixAddress, lambda path: f"unix:{path}"], ids=["text", "address", "unix:"]
)
async def test_every_kind_of_address(listener, form):
    sock = await AsyncUnixSocket().connect_to(form(listener.address))
    with await listener.accept() as peer:
        await sock.write(b"hello")
        assert await peer.receive_exactly(5) == b"hello"
        assert sock.peer_address == UnixAddress(listener.address)
        sock.abort()


async def test_nobody_there(tmp_path):
    before = open_sockets()
    path = UnixAddress(tmp_path / "nobody")
    with pytest.raises(ConnectError) as caught:
        await AsyncUnixSocket().connect_to(path)
    assert caught.value.errno == errno.ENOENT
    ((address, seconds, why),) = caught.value.attempts
    assert address == path
    assert seconds >= 0
    assert why.errno == errno.ENOENT
    assert open_sockets() == before


async def test_without_a_descriptor(listener):
    sock = AsyncUnixSocket()
    with no_descriptors(), pytest.raises(ConnectError) as caught:
        await sock.connect_to(listener.address)
    assert caught.value.errno == errno.EMFILE
    assert caught.value.peer_address == UnixAddress(listener.address)
    assert [why.errno for _, _, why in caught.value.attempts] == [errno.EMFILE]


async def test_a_stale_path(tmp_path):
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(ConnectError) as caught:
        await AsyncUnixSocket().connect_to(path)
    assert caught.value.errno == errno.ECONNREFUSED


@pytest.mark.parametrize("address", ["", SocketAddress(80), 80, None])
async def test_bad_addresses_are_refused(address):
    with pytest.raises((TypeError, ValueError)):
        await AsyncUnixSocket().connect_to(address)


@pytest.fixture
def full(listener):
    """Clients that fill the listener's queue."""
    waiting = []
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        waiting.append(sock)
        if sock.connect_ex(listener.address) == errno.EAGAIN:
            break
    yield waiting
    for sock in waiting:
        sock.close()


async def test_a_full_queue_is_waited_for(listener, full):
    connecting = await begin(AsyncUnixSocket().connect_to(listener.address))
    assert not connecting.done()
    accepted: list[RawPeer] = []
    while not connecting.done():
        accepted.append(await listener.accept())
        await asyncio.wait([connecting], timeout=0.2)
    (await connecting).abort()
    for peer in accepted:
        peer.close()


async def test_cancelled_while_waiting_for_room(listener, full):
    before = open_sockets()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await AsyncUnixSocket().connect_to(listener.address)
    assert open_sockets() == before


async def test_closed_while_waiting_for_room(listener, full):
    sock = AsyncUnixSocket()
    connecting = await begin(sock.connect_to(listener.address))
    sock.abort()
    with pytest.raises(SocketClosedError):
        await connecting
    assert sock.closed


async def test_a_server_that_goes_while_its_queue_is_waited_for(listener, full):
    connecting = await begin(AsyncUnixSocket().connect_to(listener.address))
    os.unlink(listener.address)
    with pytest.raises(ConnectError):
        await connecting
