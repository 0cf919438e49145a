"""The honest client: ``python -m stress.attacks.probe '{"port": 3000, ...}'``.

Theory of operation
-------------------
Echoes are due at fixed times, whatever the server does (an open loop), and a latency counts from when its
echo was due: a server that stalls cannot hide it by being asked less. Each of a few threads has a connection
of its own, from an address of its own, or, with ``fresh``, makes a new one for each echo. A connection that
is lost is counted and made again. At each line on standard input it prints the percentiles of the phase
before; an echo that is due and unanswered then counts with the time that it has waited.
"""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aionet.bench.children import Child

from .attacker import trusting_all
from .servers import ENVIRONMENT, PATIENCE, spare_cpu

__all__ = ["Latencies", "Probe", "probing"]

THREADS = 8
MESSAGE = b"the quick brown fox jumps over the lazy dog, and over it again.\n"
GIVEN_UP = 30.0  # seconds


class _Phase:
    """The latencies since the last question, and what went wrong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._took: list[float] = []
        self._lost = 0
        self.due: dict[int, float] = {}
        """By thread: since when an echo is due."""

    def took(self, seconds: float) -> None:
        with self._lock:
            self._took.append(seconds)

    def lost(self) -> None:
        with self._lock:
            self._lost += 1

    def end(self) -> dict[str, float]:
        """Begin the next phase; the percentiles of this one, in milliseconds."""
        now = time.monotonic()
        with self._lock:
            took, self._took = self._took, []
            lost, self._lost = self._lost, 0
        took += [now - due for due in list(self.due.values()) if now > due]
        took.sort()
        percentile = {"p50": 50, "p99": 99, "most": 100}
        shown = (
            {name: took[(len(took) - 1) * n // 100] * 1e3 for name, n in percentile.items()} if took else {}
        )
        return {"count": len(took), "lost": lost, **dict.fromkeys(percentile, 0.0), **shown}


class _Client:
    """One thread of honest echoes."""

    def __init__(
        self, number: int, port: int, rate: float, fresh: bool, context: ssl.SSLContext | None
    ) -> None:
        self._number = number
        self._port = port
        self._period = THREADS / rate
        self._fresh = fresh
        self._context = context
        self._sock: socket.socket | None = None

    def run(self, phase: _Phase) -> None:
        began = time.monotonic() + self._number * self._period / THREADS
        for turn in itertools.count():
            due = began + turn * self._period
            time.sleep(max(0.0, due - time.monotonic()))
            phase.due[self._number] = due
            try:
                self._exchange()
            except (OSError, EOFError):
                phase.lost()
                self._end()
            else:
                phase.took(time.monotonic() - due)
            del phase.due[self._number]

    def _exchange(self) -> None:
        if self._sock is None:
            self._sock = self._connect()
        self._sock.sendall(MESSAGE)
        missing = len(MESSAGE)
        while missing:
            received = self._sock.recv(missing)
            if not received:
                raise EOFError
            missing -= len(received)
        if self._fresh:
            self._end()

    def _connect(self) -> socket.socket:
        source = (f"127.77.0.{self._number + 1}", 0)
        sock = socket.create_connection(("127.0.0.1", self._port), GIVEN_UP, source)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return (
            sock
            if self._context is None
            else self._context.wrap_socket(sock, server_hostname="server.example")
        )

    def _end(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def main() -> None:
    """Do as the first argument says."""
    asked = json.loads(sys.argv[1])
    context = trusting_all() if asked["tls"] else None
    phase = _Phase()
    for number in range(THREADS):
        client = _Client(number, asked["port"], asked["rate"], asked["fresh"], context)
        threading.Thread(target=client.run, args=(phase,), daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps(phase.end()), flush=True)


# Its other side -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latencies:
    """Of one phase, in milliseconds."""

    count: int
    lost: int
    """Exchanges in which the connection was refused, cut or not answered."""
    p50: float
    p99: float
    most: float


class Probe:
    """A running probe."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def phase(self, seconds: float) -> Latencies:
        """Measure for `seconds`."""
        self.mark()
        time.sleep(seconds)
        return self.mark()

    def mark(self) -> Latencies:
        """End a phase and begin the next; return how the one before was."""
        self._child.say("next")
        said = self._child.next_record(PATIENCE)
        assert said is not None, self._child.messages()
        return Latencies(**said)  # type: ignore[arg-type]


@contextmanager
def probing(port: int, *, tls: bool = False, fresh: bool = False, rate: float = 200.0) -> Iterator[Probe]:
    """Have honest clients of the server at `port`, `rate` echoes a second in all."""
    asked: dict[str, Any] = {"port": port, "tls": tls, "fresh": fresh, "rate": rate}
    command = [sys.executable, "-m", "stress.attacks.probe", json.dumps(asked)]
    with Child("probe", command, environment=ENVIRONMENT, cpu=spare_cpu()) as child:
        yield Probe(child)


if __name__ == "__main__":
    main()
