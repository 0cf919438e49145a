"""A real HAProxy on loopback, with the configuration from ``examples/deploy``.

It gets its listening sockets from here (``fd@N`` in place of an address), so ports are free ones, and clients
may connect before it has started: they wait in the queue.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from helpers import require_program

__all__ = ["HaProxy"]

_EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"
_FRONTS = ("FRONT", "FRONT_V1", "FRONT_CHAINED", "FRONT_TLS")
_PATIENCE = 10.0


class HaProxy:
    """Runs while its ``with`` block does."""

    def __init__(self, app_port: int, **environment: str) -> None:
        """Pass connections on to `app_port`; with ``CERTIFICATE`` and ``CLIENT_CA``, over TLS, too."""
        self._program = require_program("haproxy")
        self._environment = {"APP": f"127.0.0.1:{app_port}", **environment}
        self._files = ["haproxy.cfg", *(["haproxy-tls.cfg"] if "CERTIFICATE" in environment else [])]

    def __enter__(self) -> Self:
        self._listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in _FRONTS}
        self._complaints = tempfile.TemporaryFile()
        fronts = {name: f"fd@{listener.fileno()}" for name, listener in self._listeners.items()}
        self._process = subprocess.Popen(
            [self._program, "-db", *(word for name in self._files for word in ("-f", str(_EXAMPLES / name)))],
            env=os.environ | self._environment | fronts,
            pass_fds=[listener.fileno() for listener in self._listeners.values()],
            stdin=subprocess.DEVNULL,
            stdout=self._complaints,
            stderr=self._complaints,
        )
        return self

    def address(self, front: str) -> tuple[str, int]:
        """Where clients connect to."""
        name: tuple[str, int] = self._listeners[front].getsockname()
        return name

    def __exit__(self, *exc_info: object) -> None:
        ended_early = self._process.poll()
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            for listener in self._listeners.values():
                listener.close()
            self._complaints.seek(0)
            complaints = self._complaints.read().decode()
            self._complaints.close()
        assert ended_early is None, f"HAProxy ended by itself: {complaints}"
