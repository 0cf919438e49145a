"""The process of an attack: ``python -m stress.attacks.attacker '{"attack": "key_updates", ...}'``.

Theory of operation
-------------------
It prepares and prints a line. At each line on standard input it attacks, and prints what that was; when its
standard input ends, so does it, and all its connections. An attack ends after a number of events, or after a
time. It runs at the lowest priority, so that it does not delay a probe on the same core. `Attacker` is the
other side of that conversation.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aionet.bench.children import Child

from .servers import ENVIRONMENT, PATIENCE, raise_soft_limit, spare_cpu

__all__ = ["Attacked", "Attacker", "Target", "attacking"]

_LATE_BINDING = 24  # IP_BIND_ADDRESS_NO_PORT of ip(7)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Target:
    """The server that is attacked, and how to connect to it from one of many addresses of loopback."""

    def __init__(self, port: int, peers: int = 200) -> None:
        self.port = port
        self.connected = 0
        """How many connections were made so far."""
        self.held: list[socket.socket] = []
        """Sockets that stay open when the attack is over."""
        self._peers = peers

    def connect(self, *, receive_buffer: int = 0, segment: int = 0) -> socket.socket:
        """Return a connected blocking socket; each has the next address.

        A small receive buffer and small segments keep small what the server's kernel takes for it.
        """
        sock = socket.socket()
        try:
            sock.settimeout(PATIENCE)
            sock.setsockopt(socket.IPPROTO_IP, _LATE_BINDING, 1)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if segment:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
            sock.bind((self._next_address(), 0))
            sock.connect(("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def connect_tls(self, context: ssl.SSLContext | None = None, **options: int) -> ssl.SSLSocket:
        """Return a socket whose handshake is done."""
        sock = self.connect(**options)
        return (context or trusting_all()).wrap_socket(sock, server_hostname="server.example")

    def _next_address(self) -> str:
        number = self.connected % self._peers
        self.connected += 1
        return f"127.66.{number // 250}.{number % 250 + 1}"


def trusting_all(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """Return a context for one version of TLS that verifies nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def reset(sock: socket.socket) -> None:
    """Close with RST, which leaves no port in TIME_WAIT."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def until_answered(sock: socket.socket) -> None:
    """Return when the server has said something, or has ended the connection."""
    try:
        sock.recv(65536)
    except ConnectionError:
        pass


# The process --------------------------------------------------------------------------------------------


def main() -> None:
    """Do as the first argument says."""
    asked = json.loads(sys.argv[1])
    os.nice(19)
    raise_soft_limit()
    target = Target(asked["port"], asked["peers"])
    steps = importlib.import_module(f"stress.attacks.{asked['attack']}").attack(target, **asked["options"])
    next(steps)
    _tell(ready=True)
    for _ in sys.stdin:
        began, connected_before = time.monotonic(), target.connected
        events, sent = _run(steps, began, **asked["until"])
        _tell(
            events=events,
            bytes=sent,
            seconds=time.monotonic() - began,
            connections=target.connected - connected_before,
        )
    os._exit(0)  # the kernel closes all connections at once


def _run(
    steps: Iterator[tuple[int, int]],
    began: float,
    count: int | None,
    seconds: float | None,
    rate: float | None,
) -> tuple[int, int]:
    """Attack until there were `count` events, `seconds` are over, or the attack ends."""
    events = sent = 0
    for more, cost in steps:
        events += more
        sent += cost
        elapsed = time.monotonic() - began
        if (count is not None and events >= count) or (seconds is not None and elapsed >= seconds):
            break
        if rate is not None and events / rate > elapsed:
            time.sleep(events / rate - elapsed)
    return events, sent


def _tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


# Its other side -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attacked:
    """What an attack was to the attacker."""

    events: int
    bytes: int
    seconds: float
    connections: int


class Attacker:
    """A prepared attacker."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def attack(self) -> Attacked:
        """Attack, or continue to, and return when it is over; what it has opened stays open."""
        self._child.say("go")
        said = self._child.next_record(2 * PATIENCE)
        assert said is not None, self._child.messages()
        return Attacked(**said)  # type: ignore[arg-type]


@contextmanager
def attacking(
    attack: str,
    port: int,
    *,
    count: int | None = None,
    seconds: float | None = None,
    rate: float | None = None,
    peers: int = 200,
    **options: Any,
) -> Iterator[Attacker]:
    """Prepare `attack` on a server at `port`; leaving the context ends it, and all its connections."""
    asked = {
        "attack": attack,
        "port": port,
        "peers": peers,
        "options": options,
        "until": {"count": count, "seconds": seconds, "rate": rate},
    }
    command = [sys.executable, "-m", "stress.attacks.attacker", json.dumps(asked)]
    with Child(f"attacker ({attack})", command, environment=ENVIRONMENT, cpu=spare_cpu()) as child:
        ready = child.next_record(2 * PATIENCE)
        assert ready is not None, child.messages()
        yield Attacker(child)


if __name__ == "__main__":
    main()
