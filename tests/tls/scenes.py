"""Connections over TLS between our socket and a peer of the standard library's, made to order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

from conformance.transports import Accepted, Pair, TlsTransport
from peers import RawListener, RawPeer
from tls_peers import HOST, TlsOverSocket

from aionet import AsyncTcpSocket, TcpOptions

__all__ = ["TLS_VERSIONS", "connected", "dialed_to", "failing_server", "shaking_peer"]

TLS_VERSIONS = [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2]


def connected(
    version: ssl.TLSVersion | None = None, **options: Any
) -> contextlib.AbstractAsyncContextManager[Pair]:
    """Return a pair: our socket, which accepted and is the server of the handshake, and its peer."""
    return TlsTransport(Accepted("tcp4", socket.AF_INET, "127.0.0.1"), version=version).connected(**options)


@contextlib.asynccontextmanager
async def dialed_to(
    server: ssl.SSLContext,
    client: ssl.SSLContext | bool,
    *,
    options: TcpOptions | None = None,
    listener: RawListener | None = None,
    **how: Any,
) -> AsyncIterator[Pair]:
    """Connect our socket to a peer that serves with `server`, at `listener` if that is given."""
    ours = AsyncTcpSocket(options=options)
    async with shaking_peer(server, listener) as (address, peers):
        try:
            await ours.connect_to(address, tls=client, **{"server_hostname": HOST, **how})
            yield Pair(ours, await peers)
        finally:
            ours.abort()


@contextlib.asynccontextmanager
async def shaking_peer(
    server: ssl.SSLContext, listener: RawListener | None = None
) -> AsyncIterator[tuple[Any, asyncio.Future[RawPeer]]]:
    """Serve one connection with `server`: yields where, and the peer once its handshake is done."""
    with contextlib.nullcontext(listener) if listener else RawListener() as listening:
        shaking = asyncio.ensure_future(_shake(listening, server))
        try:
            yield listening.address, shaking
        finally:
            await asyncio.wait([shaking])
            if shaking.exception() is None:
                shaking.result().stop()


async def _shake(listener: RawListener, server: ssl.SSLContext) -> RawPeer:
    peer = await listener.accept()
    peer.sock = TlsOverSocket(peer.sock, server, server_side=True)
    try:
        await peer.sock.shake_hands()
    except BaseException:
        peer.stop()
        raise
    return peer


@contextlib.asynccontextmanager
async def failing_server(behave: Callable[[RawPeer], Any]) -> AsyncIterator[Any]:
    """Serve one connection by `behave(peer)`, in a thread, whatever comes of it; yields the address."""
    with RawListener() as listener:

        async def serve() -> None:
            with await listener.accept() as peer, contextlib.suppress(OSError):
                await asyncio.to_thread(behave, peer)

        serving = asyncio.ensure_future(serve())
        try:
            yield listener.address
        finally:
            await serving
