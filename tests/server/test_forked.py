"""In a fork's child a server of its parent refuses, and closing it leaves the parent's listening."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from forking import in_child, refused
from helpers import begin
from tls_peers import TlsOverSocket, contexts

import aionet

pytestmark = [pytest.mark.asyncio, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")]


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> Any:
    return contexts().server if request.param else None


async def connect(kind: Any, server: Any, tls: Any) -> Any:
    """Return a client that has shaken hands, while somebody accepts."""
    peer = await kind.connect(server)
    if tls is not None:
        peer.sock = TlsOverSocket(peer.sock, contexts().client, server_side=False)
        await peer.sock.shake_hands()
    return peer


async def exchange(sock: Any, peer: Any) -> None:
    async with sock:
        await peer.send(b"hello")
        assert await sock.read_exactly(5) == b"hello"
        peer.stop()


async def serves(kind: Any, server: Any, tls: Any) -> None:
    accepting = asyncio.create_task(server.accept())
    peer = await connect(kind, server, tls)
    await exchange(await accepting, peer)


@asynccontextmanager
async def unused(kind: Any, server: Any, tls: Any) -> AsyncIterator[None]:
    yield
    await serves(kind, server, tls)


@asynccontextmanager
async def used(kind: Any, server: Any, tls: Any) -> AsyncIterator[None]:
    await serves(kind, server, tls)
    yield
    await serves(kind, server, tls)


@asynccontextmanager
async def accepting(kind: Any, server: Any, tls: Any) -> AsyncIterator[None]:
    waiting = await begin(server.accept())
    yield
    peer = await connect(kind, server, tls)
    await exchange(await waiting, peer)
    await serves(kind, server, tls)


@asynccontextmanager
async def a_client_is_queued(kind: Any, server: Any, tls: Any) -> AsyncIterator[None]:
    connecting = await begin(connect(kind, server, tls))
    yield
    accepted = await server.accept()
    await exchange(accepted, await connecting)


STATES = [unused, used, accepting, a_client_is_queued]


async def got(value: object) -> object:
    return value


async def ignore(sock: Any) -> None:
    pass


OPERATIONS: dict[str, Callable[[Any, Any], Awaitable[object]]] = {
    "accept": lambda kind, server: server.accept(),
    "accept(socket)": lambda kind, server: server.accept(kind.socket_class()),
    "iterating": lambda kind, server: anext(server),
    "raw_sockets": lambda kind, server: got(server.raw_sockets),
    "serve": lambda kind, server: aionet.ConnectionSpawner(ignore).serve(
        server
    ),  # closes it, so it is the last
}


@pytest.mark.parametrize("state", STATES)
async def test_every_operation_refuses(kind: Any, tls: Any, state: Any) -> None:
    async with kind.server(tls=tls) as server:
        address = server.address

        async def use() -> None:
            assert server.filenos()
            for name, operation in OPERATIONS.items():
                try:
                    error = await refused(lambda operation=operation: operation(kind, server))
                except BaseException as other:
                    raise AssertionError(name) from other
                assert error.local_address == address, name
                assert "opened before a fork" in str(error)

        async with state(kind, server, tls):
            in_child(use)


async def leave(server: Any) -> None:
    async with server:
        pass


async def close(server: Any) -> None:
    server.close()


CLOSINGS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "aclose": lambda server: server.aclose(),
    "close": close,
    "async with": leave,
}


@pytest.mark.parametrize("closing", CLOSINGS.values(), ids=CLOSINGS)
@pytest.mark.parametrize("state", STATES)
async def test_closing_leaves_the_parent_listening(
    kind: Any, tls: Any, state: Any, closing: Callable[[Any], Awaitable[object]]
) -> None:
    async with kind.server(tls=tls) as server:
        numbers = server.filenos()

        async def close_twice() -> None:
            for _ in range(2):
                await asyncio.wait_for(closing(server), 30)
            assert server.closed
            for number in numbers:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(number)
            with pytest.raises(aionet.SocketClosedError):
                await server.accept()

        async with state(kind, server, tls):
            in_child(close_twice)  # a Unix server's file is still there: clients connect


async def test_a_server_of_copies_accepts_in_the_child(kind: Any) -> None:
    async with kind.server() as server:
        peer = await kind.connect(server)

        async def serve() -> None:
            async with type(server).from_fd(os.dup(server.filenos()[0])) as copy, await copy.accept() as sock:
                await sock.write(b"from the child")

        in_child(serve)
        assert await peer.receive_to_end() == b"from the child"
        peer.stop()
        await serves(kind, server, None)
