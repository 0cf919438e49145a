"""A fork's child that lives has copies of its parent's connections: their ends reach the peers at once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import begin
from peers import RawPeer

import aionet
from aionet import AsyncTcpConnectionServer, AsyncUnixConnectionServer, ConnectionSpawner

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@contextmanager
def a_child_that_lives() -> Iterator[None]:
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


async def echo(socket: Any) -> None:
    async for chunk in socket:
        await socket.write(chunk)


async def greet(socket: Any) -> None:
    await socket.read(1)


async def close(socket: Any) -> None:
    await socket.read(1)
    await socket.aclose()


async def abort(socket: Any) -> None:
    await socket.read(1)
    socket.abort()


async def fail(socket: Any) -> None:
    await socket.read(1)
    raise ArithmeticError


async def fail_in_a_block(socket: Any) -> None:
    async with socket:
        await socket.read(1)
        raise ArithmeticError


async def write_more_than_fits(socket: Any) -> None:
    writing = await begin(socket.write(bytes(8 << 20)))
    await socket.read(1)
    writing.cancel()
    await asyncio.wait([writing])
    raise ArithmeticError


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("handler", "end"),
    [
        (echo, "end"),
        (greet, "end"),
        (close, "end"),
        (abort, "reset"),
        (fail, "reset"),
        (fail_in_a_block, "reset"),
        (write_more_than_fits, "reset"),
    ],
)
async def test_the_peer_sees_the_end(
    handler: Callable[[Any], Awaitable[None]], end: str, kind: str, tmp_path: Path
) -> None:
    server: Any
    if kind == "tcp":
        server = AsyncTcpConnectionServer(("127.0.0.1", 0))
        address: Any = server.address.sockaddr()
    else:
        server = AsyncUnixConnectionServer(tmp_path / "s")
        address, end = str(tmp_path / "s"), "end"  # a Unix socket knows no reset
    spawner = ConnectionSpawner[Any](handler)
    serving = await begin(spawner.serve(server))
    peers = [await RawPeer.connect(address, server.raw_sockets[0].family) for _ in range(3)]
    try:
        await asyncio.sleep(0)
        with a_child_that_lives():
            for peer in peers:
                await peer.send(b"x")
                if handler is echo:
                    peer.half_close()
                assert await peer.end() == end
            await spawner.drain(grace=1)
            await serving
    finally:
        for peer in peers:
            peer.close()


async def test_a_client_that_closes() -> None:
    async with AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        for reset in (False, True):
            client = await aionet.AsyncTcpSocket().connect_to(server.address)
            async with await server.accept() as socket:
                with a_child_that_lives():
                    await client.write(b"x")
                    assert await socket.read() == b"x"
                    if not reset:
                        await client.aclose()
                        assert await asyncio.wait_for(socket.read(), 10) == b""
                        continue
                    client.abort()
                    with pytest.raises(aionet.ConnectionLostError):
                        await asyncio.wait_for(socket.read(), 10)


async def test_a_descriptor_that_was_closed_elsewhere() -> None:
    async with AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        client = await aionet.AsyncTcpSocket().connect_to(server.address)
        async with await server.accept() as socket:
            with a_child_that_lives():
                copy = os.dup(client.fileno())
                os.close(client.fileno())
                with suppress(OSError):  # EBADF
                    client.abort()
                assert client.closed
                assert client.fileno() == -1
                os.close(copy)
            socket.abort()
