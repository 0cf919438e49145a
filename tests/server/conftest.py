"""Servers of both kinds, and raw clients for them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peers import RawPeer

from aionet import (
    AsyncTcpConnectionServer,
    AsyncTcpSocket,
    AsyncUnixConnectionServer,
    AsyncUnixSocket,
    accepting,
)


class TcpKind:
    socket_class = AsyncTcpSocket
    family = socket.AF_INET

    def server(self, **arguments: Any) -> Any:
        return AsyncTcpConnectionServer(("127.0.0.1", 0), **arguments)

    async def connect(self, server: Any) -> RawPeer:
        return await RawPeer.connect(("127.0.0.1", server.address.port))


class UnixKind:
    socket_class = AsyncUnixSocket
    family = socket.AF_UNIX

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def server(self, **arguments: Any) -> Any:
        return AsyncUnixConnectionServer(self.directory / "socket", **arguments)

    async def connect(self, server: Any) -> RawPeer:
        return await RawPeer.connect(server.address.path, socket.AF_UNIX)


@pytest.fixture(params=["tcp", "unix"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> TcpKind | UnixKind:
    return TcpKind() if request.param == "tcp" else UnixKind(tmp_path)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Callable[[], OSError | None]], None]:
    """`fault(server, next_error)`: accept(2) there raises what `next_error()` returns, if anything."""

    def install(server: Any, next_error: Callable[[], OSError | None]) -> None:
        real_accept, descriptors = accepting.accept, set(server.filenos())

        def accept(listener: socket.socket, *arguments: Any) -> Any:
            error = next_error() if listener.fileno() in descriptors else None
            if error is not None:
                raise error
            return real_accept(listener, *arguments)

        monkeypatch.setattr(accepting, "accept", accept)

    return install
