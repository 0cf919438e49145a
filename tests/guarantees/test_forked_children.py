"""A fork's child opens sockets of its own, and can close what its parent has opened or begun."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LOOP_FACTORIES, OWN_LOOP
from forking import in_child, refused
from helpers import begin
from peers import RawListener, RawPeer

import aionet

from .test_cancelled_connects import silent_port

pytestmark = [pytest.mark.asyncio, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")]

NEW_LOOPS = LOOP_FACTORIES | OWN_LOOP

Close = Callable[[Any], Any]
CLOSINGS: dict[str, Close] = {"aclose": lambda sock: sock.aclose(), "abort": lambda sock: sock.abort()}


async def echo(sock: Any) -> None:
    async for data in sock:
        await sock.write(data)


async def talk() -> None:
    """A server and its client, from beginning to end."""
    spawner: aionet.ConnectionSpawner[Any] = aionet.ConnectionSpawner(echo)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = asyncio.create_task(spawner.serve(server))
    async with await aionet.AsyncTcpSocket().connect_to(server.address) as sock:
        for _ in range(3):
            await sock.write(b"hello")
            assert await sock.read_exactly(5) == b"hello"
    server.close()
    await serving


@pytest.mark.parametrize("new_loop", NEW_LOOPS.values(), ids=NEW_LOOPS)
async def test_a_child_opens_sockets_of_its_own(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = asyncio.create_task(aionet.ConnectionSpawner(echo).serve(server))
    async with await aionet.AsyncTcpSocket().connect_to(server.address) as sock:
        waiting = await begin(sock.read())

        async def talk_and_fork() -> None:
            await talk()
            own = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))

            async def in_grandchild() -> None:
                for inherited in (own, server):
                    await refused(inherited.accept)
                await refused(sock.read)
                await talk()

            in_child(in_grandchild, new_loop)
            await own.aclose()
            await refused(sock.read)
            await talk()

        in_child(talk_and_fork, new_loop)
        await sock.write(b"hello")
        assert await waiting == b"hello"
    server.close()
    await serving


async def test_a_socket_that_is_not_connected_is_anybodys(tmp_path: Path) -> None:
    sock = aionet.AsyncUnixSocket()
    with RawListener(str(tmp_path / "socket"), socket.AF_UNIX) as listener:

        async def connect() -> None:
            async with await sock.connect_to(listener.address):
                await sock.write(b"from the child")

        in_child(connect)
        with await listener.accept() as peer:
            assert await peer.receive_to_end() == b"from the child"


@pytest.mark.parametrize("close", CLOSINGS.values(), ids=CLOSINGS)
async def test_a_child_closes_what_connects(close: Close, tmp_path: Path) -> None:
    async def close_all() -> None:
        for sock in (queueing, in_vain):
            if (rest := close(sock)) is not None:
                await asyncio.wait_for(rest, 30)
            assert sock.closed

    queueing, in_vain = aionet.AsyncUnixSocket(), aionet.AsyncTcpSocket()
    with (
        RawListener(str(tmp_path / "full"), socket.AF_UNIX, backlog=0) as listener,
        silent_port("127.0.0.1") as silent,
    ):
        first = await RawPeer.connect(listener.address, socket.AF_UNIX)  # the queue is full now
        connecting = await begin(queueing.connect_to(listener.address))
        failing = await begin(in_vain.connect_to(silent))
        in_child(close_all)
        assert not failing.done()
        failing.cancel()
        await asyncio.wait([failing])
        with first, await listener.accept():
            await connecting
        with await listener.accept() as peer:
            await queueing.write(b"hello")
            assert await peer.receive_exactly(5) == b"hello"
            await queueing.aclose()


async def test_a_child_leaves_a_toolkit_of_its_parent_silently(caplog: pytest.LogCaptureFixture) -> None:
    async with aionet.NetworkToolkit() as toolkit:
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        with await RawPeer.connect(server.address.sockaddr()) as peer:
            sock = await server.accept()

            async def leave() -> None:
                with caplog.at_level(logging.DEBUG, "aionet"):
                    await toolkit.aclose()
                assert not caplog.records
                assert sock.closed
                assert server.closed

            in_child(leave)
            await peer.send(b"hello")
            assert await sock.read() == b"hello"
            await sock.aclose()
        await server.aclose()


async def test_a_child_drains_a_spawner_of_its_parent() -> None:
    spawner: aionet.ConnectionSpawner[Any] = aionet.ConnectionSpawner(echo)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = await begin(spawner.serve(server))
    with await RawPeer.connect(server.address.sockaddr()) as peer:
        await peer.send(b"hello")
        assert await peer.receive_exactly(5) == b"hello"

        async def drain() -> None:
            logging.disable()
            await asyncio.wait_for(spawner.drain(0, hard=0), 30)
            assert server.closed

        in_child(drain)
        await peer.send(b"hello")
        assert await peer.receive_exactly(5) == b"hello"
        with await RawPeer.connect(server.address.sockaddr()) as another:
            await another.send(b"hello")
            assert await another.receive_exactly(5) == b"hello"
    await spawner.drain(1)
    await serving


async def test_a_child_forgets_sockets_of_its_parent(tmp_path: Path) -> None:
    """What the collector finds in the child is closed there, without a reset and without a word."""
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    peers = [await RawPeer.connect(server.address.sockaddr()) for _ in range(3)]
    sockets = [await server.accept() for _ in peers]
    waiting = await begin(sockets[0].read())
    numbers = [sock.fileno() for sock in sockets[1:]]

    async def forget() -> None:
        with warnings.catch_warnings():
            if aionet.implementation() == "native":
                warnings.simplefilter("error")
            else:
                warnings.simplefilter("ignore")  # of the socket module
            del sockets[1:]
            gc.collect()
        for number in numbers:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)

    in_child(forget)
    for sock, peer in zip(sockets, peers, strict=True):
        await peer.send(b"hello")
        assert await (waiting if sock is sockets[0] else sock.read()) == b"hello"
        await sock.write(b"hello")
        assert await peer.receive_exactly(5) == b"hello"
        await sock.aclose()
        assert await peer.receive() == b""
        peer.stop()
    await server.aclose()


@pytest.mark.skipif(aionet.implementation() == "portable", reason="it is told of by Python alone")
async def test_a_fork_that_python_does_not_know_of() -> None:
    fork = ctypes.PyDLL(None).fork
    unused = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    # No thread may run: without Python's hooks the child would wait for it.
    with RawPeer(socket.create_connection(server.address.sockaddr())) as peer:
        sock = await server.accept()
        operations = sock.read(), sock.write(b"from the child"), server.accept(), unused.accept()
        child = fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            not_refused = len(operations)
            for operation in operations:
                try:
                    operation.send(None)
                except aionet.SocketInheritedError:
                    not_refused -= 1
            os._exit(not_refused)
        assert os.waitpid(child, 0)[1] == 0
        for operation in operations:
            operation.close()
        peer.send_now(b"hello")
        assert await sock.read() == b"hello"
        await sock.aclose()
    await server.aclose()
    await unused.aclose()
