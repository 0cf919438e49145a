"""TLS clients that exchange 64 KiB once and rest, so that what the exchange needed stays. An event is a
client."""

from __future__ import annotations

from collections.abc import Iterator

from .attacker import Target, trusting_all

EXCHANGED = bytes(65536)


def attack(target: Target) -> Iterator[tuple[int, int]]:
    """Connect, exchange, and stay."""
    context = trusting_all()
    yield 0, 0
    while True:
        sock = target.connect_tls(context)
        sock.sendall(EXCHANGED)
        missing = len(EXCHANGED)
        while missing:
            missing -= len(sock.recv(missing))
        target.held.append(sock)
        yield 1, len(EXCHANGED)
