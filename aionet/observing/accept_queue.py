"""How many connections wait to be accepted, and how many the kernel had to turn away.

Theory of operation
-------------------
Of a listening TCP socket Linux reports in ``struct tcp_info`` the length of the queue where a connection has
its unacknowledged segments, and the backlog where it has its selectively acknowledged ones
(tcp_get_info() in net/ipv4/tcp.c). Of Unix sockets it reports nothing of the kind.

What was turned away is counted by the kernel for all listeners together, of this network namespace, in
/proc/net/netstat (proc(5)).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..addresses import SocketAddress
from ..open_files import reserved
from ..tcp_info import read_tcp_info

__all__ = ["AcceptQueue", "accept_queues", "listen_failures"]

_NETSTAT = Path("/proc/net/netstat")


@dataclass(frozen=True, slots=True)
class AcceptQueue:
    """The queue of one listening socket."""

    listener: str
    """Where it listens."""
    depth: int
    """Connections that wait."""
    backlog: int
    """Connections that may wait."""


def accept_queues(sockets: Iterable[socket.socket]) -> Iterator[AcceptQueue]:
    """The queues of listening `sockets`, as far as this system tells."""
    for sock in sockets:
        try:
            info = read_tcp_info(sock)
        except (OSError, NotImplementedError):
            continue
        listener = str(SocketAddress.from_sockaddr(sock.getsockname()))
        yield AcceptQueue(listener, info.unacked, info.sacked)


def listen_failures(netstat: Path = _NETSTAT) -> tuple[int, int] | None:
    """``(ListenOverflows, ListenDrops)``; ``None`` where this system does not tell.

    The second counts all connections that no listener could take, those of the first included.
    """
    try:
        with reserved():
            text = netstat.read_text(encoding="ascii")
    except OSError:
        return None
    lines = [line.split() for line in text.splitlines()]
    names_and_values = [line for line in lines if line and line[0] == "TcpExt:"]
    counts = dict(zip(*names_and_values, strict=True))
    try:
        return int(counts["ListenOverflows"]), int(counts["ListenDrops"])
    except KeyError:
        return None
