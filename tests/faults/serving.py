"""Servers that run out of epoll watches: a program for `test_serving.py`, with `faults.c` preloaded.

Its arguments are a loop and the name of a scene. It prints "done".
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from helpers import until

import aionet
from aionet import CloseCause

from .plans import LOOPS, plan

WITHOUT_END = 1_000_000

records: list[logging.LogRecord] = []
crashes: list[Exception] = []


async def echo(sock: Any) -> None:
    async for data in sock:
        await sock.write(data)


async def greet(sock: Any) -> None:
    await sock.write(b"hello")


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[Any], Any] = echo, *, tls: Any = None, **options: Any
) -> AsyncIterator[tuple[aionet.ConnectionSpawner[Any], Any]]:
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), tls=tls)
    spawner = aionet.ConnectionSpawner(
        handler, on_error=lambda _, error: crashes.append(error), limits=aionet.ConnectionLimits(**options)
    )
    task = asyncio.create_task(spawner.serve(server))
    try:
        yield spawner, server
        assert not task.done(), task
    finally:
        await spawner.drain(0)
        await task


class Client:
    """A raw socket, in the same thread."""

    def __init__(self, server: Any) -> None:
        self.sock = socket.create_connection(("127.0.0.1", server.address.port))
        self.sock.setblocking(False)

    async def receive(self) -> bytes:
        """Return some bytes; b"reset" at a reset."""
        while True:
            try:
                return self.sock.recv(100)
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except ConnectionResetError:
                return b"reset"

    async def is_served(self) -> bool:
        try:
            self.sock.send(b"hello")
        except ConnectionError:  # it was reset already
            return False
        return await self.receive() == b"hello"

    def close(self) -> None:
        self.sock.close()


def lines() -> list[str]:
    """What was logged since the last call; nothing of it may have a traceback."""
    assert not [record for record in records if record.exc_info]
    found = [record.getMessage() for record in records]
    records.clear()
    return found


async def each_connection_lacks_resources() -> None:
    loop = asyncio.get_running_loop()
    async with serving() as (spawner, server):
        with contextlib.closing(Client(server)) as early:
            assert await early.is_served()
            plan("epoll_ctl", 1, WITHOUT_END, errno.ENOSPC)
            started = loop.time()
            for _ in range(4):
                with contextlib.closing(Client(server)) as client:
                    assert await client.receive() == b"reset"
            seconds = loop.time() - started
            assert seconds > 0.1 + 0.2 + 0.4, "there is no pause, or it does not grow"
            found = lines()
            assert 1 <= len(found) <= 1 + seconds, found
            assert "No space left on device" in found[0]
            assert await early.is_served()  # which is registered
            plan("epoll_ctl", 1, 0, 0)
            with contextlib.closing(Client(server)) as client:
                assert await client.is_served()
        assert spawner.stats.causes[CloseCause.EXHAUSTED] == 4
    assert not crashes


async def one_of_a_batch_lacks_resources() -> None:
    async with serving() as (spawner, server):
        with contextlib.ExitStack() as stack:
            early = stack.enter_context(contextlib.closing(Client(server)))
            assert await early.is_served()
            server.pause()
            clients = [stack.enter_context(contextlib.closing(Client(server))) for _ in range(8)]
            plan("epoll_ctl", 8, 2, errno.ENOSPC)  # the last of them, and its second try, if there is one
            server.resume()
            await until(lambda: spawner.stats.causes.get(CloseCause.EXHAUSTED))
            served = [await client.is_served() for client in clients]
            assert sorted(served) == [False] + [True] * 7, served
    assert not crashes


async def a_peer_cannot_be_watched() -> None:
    async with serving(on_peer_gone="cancel") as (spawner, server):
        with contextlib.closing(Client(server)) as client:
            assert await client.is_served()
        plan("epoll_ctl", 1, 1, errno.ENOSPC)
        with contextlib.closing(Client(server)) as client:
            assert await client.receive() == b"reset"
        assert len(lines()) == 1
        with contextlib.closing(Client(server)) as client:
            assert await client.is_served()
        assert spawner.stats.causes[CloseCause.EXHAUSTED] == 1
    assert not crashes


async def a_handshake_lacks_resources() -> None:
    from tls_peers import TlsOverSocket, contexts  # which takes as long to import as another scene takes

    context = contexts().server
    context.set_ecdh_curve("prime256v1")  # else there is a line about finite-field groups
    async with serving(tls=context) as (spawner, server):
        for number in (0, errno.ENOSPC, 0):
            plan("epoll_ctl", 1, 1 if number else 0, number)
            with contextlib.closing(Client(server)) as client:
                if number:
                    assert await client.receive() == b"reset"
                    continue
                client.sock.setblocking(True)
                end = TlsOverSocket(client.sock, contexts().client, server_side=False)
                await end.shake_hands()
                await asyncio.to_thread(end.sendall, b"hello")
                assert await asyncio.to_thread(end.recv, 5) == b"hello"
        assert len(lines()) == 1
        assert spawner.stats.causes[CloseCause.EXHAUSTED] == 1
    assert not crashes


async def a_listener_cannot_be_registered() -> None:
    loop = asyncio.get_running_loop()
    plan("epoll_ctl", 1, WITHOUT_END, errno.ENOSPC)
    started = loop.time()
    async with serving(greet) as (_, server):
        for _ in range(2):  # the queue is looked at after each pause
            with contextlib.closing(Client(server)) as client:
                assert await client.receive() == b"hello"
        found = lines()
        assert 1 <= len(found) <= 1 + (loop.time() - started), found
        assert "cannot accept" in found[0]
        plan("epoll_ctl", 1, 0, 0)
        for _ in range(2):
            with contextlib.closing(Client(server)) as client:
                assert await client.receive() == b"hello"


SCENES = {
    scene.__name__: scene
    for scene in (
        each_connection_lacks_resources,
        one_of_a_batch_lacks_resources,
        a_peer_cannot_be_watched,
        a_handshake_lacks_resources,
        a_listener_cannot_be_registered,
    )
}


class _Records(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        records.append(record)


async def play(name: str) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with asyncio.timeout(20):
        await SCENES[name]()
    assert not complaints, complaints
    print("done")


if __name__ == "__main__":
    logging.getLogger("aionet").addHandler(_Records())
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]()) as runner:
        runner.run(play(sys.argv[2]))
