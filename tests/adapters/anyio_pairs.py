"""Connections whose one end is an `AionetByteStream`, and whose other end is none of ours."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from peers import RawPeer

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, AsyncUnixConnectionServer, TcpOptions
from aionet.adapters.anyio import AionetByteStream

__all__ = ["stream_and_peer", "two_streams", "unix_stream_and_peer"]

OPTIONS = TcpOptions(linger=0.2, send_buffer=4096)  # so that little is needed to make a sender wait


@asynccontextmanager
async def stream_and_peer(host: str = "127.0.0.1") -> AsyncIterator[tuple[AionetByteStream, RawPeer]]:
    """An accepted TCP connection: our end as a stream, the other end as a blocking socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    async with AsyncTcpConnectionServer((host, 0), options=OPTIONS) as server:
        with await RawPeer.connect((host, server.address.port), family, receive_buffer=4096) as peer:
            async with AionetByteStream(await server.accept()) as stream:
                yield stream, peer


@asynccontextmanager
async def unix_stream_and_peer() -> AsyncIterator[tuple[AionetByteStream, RawPeer]]:
    """The same over a Unix socket."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "socket")
        async with AsyncUnixConnectionServer(path) as server:
            with await RawPeer.connect(path, socket.AF_UNIX) as peer:
                async with AionetByteStream(await server.accept()) as stream:
                    yield stream, peer


@asynccontextmanager
async def two_streams() -> AsyncIterator[tuple[AionetByteStream, AionetByteStream]]:
    """Both ends of a TCP connection, each as a stream."""
    async with AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        client = await AsyncTcpSocket().connect_to(server.address)
        async with AionetByteStream(client) as ours, AionetByteStream(await server.accept()) as theirs:
            yield ours, theirs
