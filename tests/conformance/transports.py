"""The transports that the suite runs over. To have another one proven, add it to `TRANSPORTS`.

A transport makes pairs: one end is a socket of ours, connected and ready to use; the other is a peer that
knows nothing of aionet, with the methods of `peers.RawPeer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from helpers import has_ipv6
from peers import RawListener, RawPeer
from tls_peers import HOST, TlsOverSocket, contexts

from aionet import (
    AsyncTcpConnectionServer,
    AsyncTcpSocket,
    AsyncUnixConnectionServer,
    AsyncUnixSocket,
    TcpOptions,
    UnixOptions,
)

__all__ = ["TRANSPORTS", "Accepted", "Pair", "TcpDialed", "TlsTransport", "Transport", "UnixDialed"]

# Small kernel buffers, so that a write of a megabyte or more has to wait for its reader.
SEND_BUFFER = 128 * 1024
RECEIVE_BUFFER = 128 * 1024

CLOSE_NOTIFY_WAIT = 0.02
"""Seconds: most peers of these tests never send one."""


class Pair(NamedTuple):
    """Two connected ends."""

    socket: Any
    """Ours: an `AsyncTcpSocket`, `AsyncUnixSocket`, ..."""
    peer: RawPeer


class Transport:
    """A way to make pairs."""

    name: str
    family: int
    options: Any = TcpOptions
    resets = True
    """Whether a peer can tell an abort from a clean end."""
    slow = False
    """Whether it is left to the long runs."""
    kernel_reads = True
    """Whether it is the kernel that reads what is written, which cannot crash of it."""

    def connected(self, **options: Any) -> contextlib.AbstractAsyncContextManager[Pair]:
        """Return a pair, for the time of an ``async with``; `options` are those of our end."""
        raise NotImplementedError

    async def lose(self, pair: Pair) -> None:
        """Have the peer break the connection."""
        pair.peer.reset()


class Accepted(Transport):
    """Our server accepts, the peer connects."""

    def __init__(self, name: str, family: int, host: str = "") -> None:
        self.name, self.family, self.host = name, family, host

    @contextlib.asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[Pair]:
        async with self.server(self.options(**{"send_buffer": SEND_BUFFER, **options})) as server:
            peer = await RawPeer.connect(self.target(server), self.family, receive_buffer=RECEIVE_BUFFER)
            accepted = await server.accept()
        try:
            yield Pair(accepted, peer)
        finally:
            accepted.abort()
            peer.stop()

    def server(self, options: Any) -> Any:
        return AsyncTcpConnectionServer((self.host, 0), options=options)

    def target(self, server: Any) -> Any:
        return (self.host, server.address.port)


class UnixTransport(Transport):
    """What is different on Unix sockets."""

    family = socket.AF_UNIX
    options = UnixOptions
    resets = False

    async def lose(self, pair: Pair) -> None:
        await pair.socket.write(b"unread")  # closing with this unread is what breaks a Unix connection
        pair.peer.close()


class UnixAccepted(UnixTransport, Accepted):
    """Our Unix server accepts, the peer connects."""

    def __init__(self, name: str) -> None:
        self.name = name

    @contextlib.asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[Pair]:
        with tempfile.TemporaryDirectory() as self.directory:
            async with super().connected(**options) as pair:
                yield pair

    def server(self, options: Any) -> Any:
        return AsyncUnixConnectionServer(f"{self.directory}/socket", options=options)

    def target(self, server: Any) -> Any:
        return server.address.path


class TcpDialed(Transport):
    """Our socket connects, the peer accepts."""

    def __init__(self, name: str, family: int, host: str) -> None:
        self.name, self.family, self.host = name, family, host

    @contextlib.asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[Pair]:
        ours = AsyncTcpSocket(options=TcpOptions(**{"send_buffer": SEND_BUFFER, **options}))
        with RawListener((self.host, 0), self.family) as listener:
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            await ours.connect_to(listener.address)
            peer = await listener.accept()
        try:
            yield Pair(ours, peer)
        finally:
            ours.abort()
            peer.stop()


class UnixDialed(UnixTransport):
    """Our Unix socket connects, the peer accepts."""

    name = "unix-dialed"

    @contextlib.asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[Pair]:
        ours = AsyncUnixSocket(options=UnixOptions(**{"send_buffer": SEND_BUFFER, **options}))
        with tempfile.TemporaryDirectory() as directory:
            with RawListener(f"{directory}/socket", socket.AF_UNIX) as listener:
                await ours.connect_to(listener.address)
                peer = await listener.accept()
            try:
                yield Pair(ours, peer)
            finally:
                ours.abort()
                peer.stop()


class TlsTransport(Transport):
    """TLS over another transport, or TLS over that; an end that is none can be told from one."""

    resets = True
    kernel_reads = False

    def __init__(
        self,
        beneath: Transport,
        *,
        version: ssl.TLSVersion | None = None,
        layers: int = 1,
        slow: bool = False,
    ) -> None:
        suffix = "" if version is None else f"-{version.name}"
        self.name = "-".join(["tls"] * layers + [beneath.name]) + suffix
        self.beneath, self.version, self.layers = beneath, version, layers
        self.slow = slow
        self.server_side = isinstance(beneath, Accepted)

    @contextlib.asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[Pair]:
        async with self.beneath.connected(**{"close_notify_wait": CLOSE_NOTIFY_WAIT, **options}) as pair:
            if (
                self.beneath.family != socket.AF_UNIX
            ):  # what is held back, as after a handshake, dies in a reset
                pair.peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(self.layers):
                await self.lay_tls(pair)
            yield pair

    async def lay_tls(self, pair: Pair) -> None:
        server, client = contexts(self.version)
        ours, theirs = (server, client) if self.server_side else (client, server)
        pair.peer.sock = TlsOverSocket(pair.peer.sock, theirs, server_side=not self.server_side)
        await asyncio.gather(
            pair.socket.start_tls(
                ours, server_side=self.server_side, server_hostname=None if self.server_side else HOST
            ),
            pair.peer.sock.shake_hands(),
        )

    async def lose(self, pair: Pair) -> None:
        await self.beneath.lose(pair)


TRANSPORTS: list[Transport] = [
    Accepted("tcp4", socket.AF_INET, "127.0.0.1"),
    TcpDialed("tcp6-dialed", socket.AF_INET6, "::1")
    if has_ipv6()
    else TcpDialed("tcp4-dialed", socket.AF_INET, "127.0.0.1"),
    UnixAccepted("unix"),
    UnixDialed(),
    TlsTransport(Accepted("tcp4", socket.AF_INET, "127.0.0.1")),
    TlsTransport(UnixDialed(), slow=True),
    TlsTransport(TcpDialed("tcp4-dialed", socket.AF_INET, "127.0.0.1"), layers=2, slow=True),
    TlsTransport(UnixAccepted("unix"), version=ssl.TLSVersion.TLSv1_2, slow=True),
]
