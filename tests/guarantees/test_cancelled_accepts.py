"""An accept that is cancelled while a connection is ready loses no connection."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import aionet

CANCELLED = 1_000
NUMBER = struct.Struct(">I")


class NumberedClients:
    """Raw clients, each of which sends its number and wants it back."""

    def __init__(self, address: Any, family: int) -> None:
        self._address = address
        self._family = family
        self._waiting: dict[int, socket.socket] = {}
        self.made = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def one_more(self) -> None:
        """Connect; when this returns the connection is ready to be accepted."""
        client = socket.socket(self._family, socket.SOCK_STREAM)
        client.settimeout(10)
        client.connect(self._address)
        client.sendall(NUMBER.pack(self.made))
        self._waiting[self.made] = client
        self.made += 1

    async def serve(self, accepted: Any) -> None:
        """Answer one accepted connection; its client is then served."""
        number = await accepted.read_exactly(NUMBER.size)
        await accepted.write(number)
        client = self._waiting.pop(*NUMBER.unpack(number))
        assert client.recv(100) == number
        accepted.abort()  # without waiting for the client's acknowledgement
        client.close()

    def close(self) -> None:
        for client in self._waiting.values():
            client.close()


@asynccontextmanager
async def server_and_clients(kind: str, directory: Path) -> AsyncIterator[tuple[Any, NumberedClients]]:
    server: Any
    if kind == "tcp":
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        clients = NumberedClients(("127.0.0.1", server.address.port), socket.AF_INET)
    else:
        server = aionet.AsyncUnixConnectionServer(directory / "s")
        clients = NumberedClients(str(directory / "s"), socket.AF_UNIX)
    async with server:
        try:
            yield server, clients
        finally:
            clients.close()


async def give_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_of_1_000_accepts_cancelled_while_a_connection_is_ready_none_loses_it(
    kind: str, tmp_path: Path
) -> None:
    rng = random.Random(2)
    async with server_and_clients(kind, tmp_path) as (server, clients):
        cancelled = 0
        while cancelled < CANCELLED:
            accept = asyncio.create_task(server.accept())
            await give_turns(rng.randrange(3))  # it may not have begun yet, or be waiting
            clients.one_more()
            await give_turns(rng.choice((0, 0, 1, 1, 1, 2)))  # not told yet, just told, or done
            accept.cancel()
            try:
                await clients.serve(await accept)
            except asyncio.CancelledError:
                cancelled += 1
            while len(clients) > 20 * rng.random():
                await clients.serve(await server.accept())
        while clients:
            await clients.serve(await server.accept())
        assert clients.made > CANCELLED


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_connection_goes_to_the_next_in_line_when_the_first_is_cancelled(
    kind: str, tmp_path: Path
) -> None:
    rng = random.Random(3)
    async with server_and_clients(kind, tmp_path) as (server, clients):
        cancelled = 0
        while cancelled < CANCELLED // 4:
            first, *others = [asyncio.create_task(server.accept()) for _ in range(3)]
            await give_turns(2)
            for _ in range(2):
                clients.one_more()
            await give_turns(rng.randrange(3))
            first.cancel()
            try:
                await clients.serve(await first)
            except asyncio.CancelledError:
                cancelled += 1
            else:
                clients.one_more()
            for other in others:  # nobody else arrives: each gets one of the two connections
                await clients.serve(await other)


class Counted(asyncio.Future[Any]):
    """Counts how often it is compared."""

    looks = 0

    def __eq__(self, other: object) -> bool:
        Counted.looks += 1
        return self is other

    __hash__ = asyncio.Future.__hash__


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_cancelling_waiting_accepts_last_first_looks_at_each_a_few_times(tls: bool) -> None:
    count, Counted.looks = 500, 0
    loop = asyncio.get_running_loop()
    loop.create_future = lambda: Counted(loop=loop)  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), tls=context) as server:
        accepting = [asyncio.ensure_future(server.accept()) for _ in range(count)]
        await give_turns(3)
        for task in reversed(accepting):
            task.cancel()
            await asyncio.wait([task])
    assert Counted.looks < 20 * count
