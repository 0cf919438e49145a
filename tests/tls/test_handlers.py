"""Handlers that go over to TLS: what ends their connections is told as it is without TLS."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from peers import RawPeer
from tls_peers import TlsOverSocket, contexts

from aionet import AsyncTcpConnectionServer, CloseCause, ConnectionSpawner

pytestmark = pytest.mark.asyncio


@contextlib.asynccontextmanager
async def serving(handler, *, shakes=True):
    """Serve one client of `handler`; yields the spawner, the client, and a list of what ended it."""
    ended = []
    spawner = ConnectionSpawner(
        handler,
        on_close=lambda connection, reason: ended.append(reason.cause),
        on_error=lambda socket, error: ended.append(error),
    )
    server = AsyncTcpConnectionServer(("127.0.0.1", 0))
    running = asyncio.create_task(spawner.serve(server))
    with await RawPeer.connect(server.address.sockaddr()) as peer:
        if shakes:
            peer.sock = TlsOverSocket(peer.sock, contexts().client, server_side=False)
            await peer.sock.shake_hands()
        yield spawner, peer, ended
        await spawner.drain(5)
        await running


async def go_over(socket):
    await socket.start_tls(contexts().server, server_side=True)
    await socket.write(b"ready")


WAITS = {
    "read": lambda socket: socket.read(),
    "read_line": lambda socket: socket.read_line(),
    "write": lambda socket: socket.write(bytes(20 << 20)),
    "wait_acknowledged": lambda socket: asyncio.gather(
        socket.write(bytes(20 << 20)), socket.wait_acknowledged()
    ),
}


@pytest.mark.parametrize("waits", WAITS)
async def test_a_connection_that_another_task_closes_is_no_crash(waits):
    async def handler(socket):
        await go_over(socket)
        closing = asyncio.get_running_loop().call_later(0.01, socket.abort)
        try:
            await WAITS[waits](socket)
        finally:
            closing.cancel()

    async with serving(handler) as (_, peer, ended):
        with contextlib.suppress(ConnectionResetError):
            assert await peer.receive_exactly(5) == b"ready"
    assert ended == [CloseCause.CLOSED]


@pytest.mark.parametrize("waits", WAITS)
async def test_a_peer_that_resets_is_no_crash(waits):
    async def handler(socket):
        await go_over(socket)
        await WAITS[waits](socket)

    async with serving(handler) as (_, peer, ended):
        assert await peer.receive_exactly(5) == b"ready"
        peer.reset()
    assert ended == [CloseCause.PEER_LOST]


async def test_an_upgrade_that_another_task_breaks_off_is_no_crash():
    async def handler(socket):
        asyncio.get_running_loop().call_later(0.01, socket.abort)
        await go_over(socket)

    async with serving(handler, shakes=False) as (_, peer, ended):
        with pytest.raises(ConnectionResetError):
            await peer.receive()
    assert ended == [CloseCause.CLOSED]


async def test_an_end_in_good_order_is_the_peers():
    async def handler(socket):
        await go_over(socket)
        async for _ in socket:
            pass

    async with serving(handler) as (spawner, peer, ended):
        assert await peer.receive_exactly(5) == b"ready"
        peer.half_close()
        assert await peer.receive_to_end() == b""
    assert ended == [CloseCause.PEER_ENDED]
    assert not spawner.connections
