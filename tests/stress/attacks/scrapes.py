"""Requests for the metrics, one after the other. An event is one of them."""

from __future__ import annotations

from collections.abc import Iterator

from .attacker import Target

_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def attack(target: Target) -> Iterator[tuple[int, int]]:
    """Ask, and read the reply to its end."""
    yield 0, 0
    while True:
        with target.connect() as sock:
            sock.sendall(_REQUEST)
            while sock.recv(1 << 20):
                pass
        yield 1, len(_REQUEST)
