"""What honest clients see of a server, and waiting for what it does."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from .attacker import trusting_all
from .servers import PATIENCE, Server

__all__ = ["answer", "honest", "scrape", "until"]


def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition()` is true; fail after a time far longer than anything takes."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s"
        time.sleep(0.02)


def honest(port: int) -> socket.socket:
    """A new connection from an address that no attacker has."""
    return socket.create_connection(("127.0.0.1", port), PATIENCE, ("127.78.0.1", 0))


def answer(port: int, data: bytes, *, tls: bool = False) -> bytes:
    """What a new honest client receives for `data`."""
    bare = honest(port)
    with trusting_all().wrap_socket(bare, server_hostname="server.example") if tls else bare as sock:
        sock.sendall(data)
        return sock.recv(4096)


def scrape(server: Server) -> str:
    """The metrics."""
    host, _, port = server.metrics.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()
