"""Connections that come to nothing. An event is one of them.

``resets``: connect and reset at once. ``silent``: connect, say nothing, stay. ``plaintext``: a request of
HTTP where TLS is spoken, and then the reply, if there is one. ``bytes``: one byte, its echo, and a reset,
which is an honest connection, to compare with.
"""

from __future__ import annotations

from collections.abc import Iterator

from .attacker import Target, reset, until_answered

SAID = {"resets": b"", "silent": b"", "plaintext": b"GET / HTTP/1.1\r\n\r\n", "bytes": b"x"}


def attack(target: Target, how: str) -> Iterator[tuple[int, int]]:
    """Connect, again and again, as `how` says."""
    said = SAID[how]
    yield 0, 0
    while True:
        try:
            sock = target.connect()
        except ConnectionResetError:  # it was cut before connect(2) returned
            yield 1, 0
            continue
        if said:
            sock.sendall(said)
            until_answered(sock)
        if how == "silent":
            target.held.append(sock)
        else:
            reset(sock)
        yield 1, len(said)
