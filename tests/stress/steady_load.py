"""A steady stream of short connections from raw sockets, which counts every way in which one can go wrong."""

from __future__ import annotations

import errno
import itertools
import socket
import threading
import time
from collections import Counter
from typing import Self

__all__ = ["SteadyLoad"]

THREADS = 10
PATIENCE = 20.0  # seconds
REQUEST = b"the quick brown fox " * 20


class SteadyLoad:
    """Connects `rate` times a second, sends a request, reads the reply to its end; counts how that went.

    The times are fixed beforehand (an open loop): a server that is slow for a moment gets no fewer
    connections for it. Only `THREADS` of them can be late at once.
    """

    def __init__(self, port: int, rate: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        """Seconds of the slowest one, from when it should have begun."""
        self._port = port
        self._rate = rate
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(THREADS)]

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)
        self.seconds = time.monotonic() - self._started

    def _run(self, number: int) -> None:
        for turn in itertools.count(number, THREADS):
            due = self._started + turn / self._rate
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            outcome = self._outcome()
            with self._lock:
                self.outcomes[outcome] += 1
                self.slowest = max(self.slowest, time.monotonic() - due)

    def _outcome(self) -> str:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as sock:
                sock.sendall(REQUEST)
                _end(sock)
                reply = b""
                while data := sock.recv(65536):
                    reply += data
        except OSError as error:
            return type(error).__name__
        return "complete" if reply == REQUEST.upper() else f"incomplete: {len(reply)} of {len(REQUEST)} bytes"


def _end(sock: socket.socket) -> None:
    """End this side. If the connection was reset, reading tells that; shutdown(2) only says ENOTCONN then."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
