"""A spawner on a server with raw clients, as most tests here need it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from peers import RawPeer

import aionet


class Stage:
    """Makes servers, spawners and raw clients; takes them all down."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._peers: list[RawPeer] = []
        self._servings: list[asyncio.Task[None]] = []

    @property
    def servings(self) -> list[asyncio.Task[None]]:
        """What `serve` began."""
        return self._servings

    def tcp_server(self) -> aionet.AsyncTcpConnectionServer:
        return aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))

    def unix_server(self) -> aionet.AsyncUnixConnectionServer:
        return aionet.AsyncUnixConnectionServer(self._directory / f"server{len(self._servings)}")

    def server(self, kind: str) -> Any:
        return self.tcp_server() if kind == "tcp" else self.unix_server()

    async def serve(self, spawner: aionet.ConnectionSpawner[Any], *servers: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(spawner.serve(*servers))
        self._servings.append(task)
        await asyncio.sleep(0)
        return task

    def client(self, server: Any) -> RawPeer:
        """A client that has connected; nobody may have accepted it yet."""
        unix = isinstance(server, aionet.AsyncUnixConnectionServer)
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        sock.settimeout(10)
        sock.connect(server.address.path if unix else ("127.0.0.1", server.address.port))
        peer = RawPeer(sock)
        self._peers.append(peer)
        return peer

    def client_from(self, host: str, server: Any) -> RawPeer:
        """A client with an address of its own, of the many that the loopback has."""
        sock = socket.create_connection(
            ("127.0.0.1", server.address.port), timeout=10, source_address=(host, 0)
        )
        peer = RawPeer(sock)
        self._peers.append(peer)
        return peer

    async def close(self) -> None:
        for peer in self._peers:
            peer.close()
        for task in self._servings:
            task.cancel()
        await asyncio.gather(*self._servings, return_exceptions=True)


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    await stage.close()


@pytest.fixture(params=["tcp", "unix"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
