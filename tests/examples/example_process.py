"""An example as its reader runs it: a process of its own, of which only what it prints is seen."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import aionet

__all__ = ["EXAMPLES", "PATIENCE", "Example", "connect"]

EXAMPLES = Path(__file__).parents[2] / "examples"
OURS = Path(aionet.__file__).parents[1]  # the same aionet that the other tests import
PATIENCE = 10.0
"""Seconds after which waiting for an example fails."""


class Example:
    """A running example; leaving its ``with`` block ends it, and fails if it complained of anything."""

    def __init__(self, name: str, *arguments: object, code: str | None = None) -> None:
        """Run ``examples/<name>.py``, or `code` with it importable."""
        what = [str(EXAMPLES / f"{name}.py")] if code is None else ["-c", code]
        path = os.pathsep.join(filter(None, [str(EXAMPLES), str(OURS), os.environ.get("PYTHONPATH")]))
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", *what, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            bufsize=0,
        )
        self._printed = b""

    def read_line(self) -> str:
        """Return the next line that it prints, without its end; an empty one when there are no more."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._printed:
            if not select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"it printed no whole line, but {self._printed!r}: {self.complaints()}")
            data = self.process.stdout.read(65536)
            if not data:
                break
            self._printed += data
        line, _, self._printed = self._printed.partition(b"\n")
        return line.decode()

    def port(self) -> int:
        """Return the port that it says it listens on."""
        line = self.read_line()
        found = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)", line)
        assert found, f"{line!r}: {self.complaints()}"
        return int(found[1])

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(PATIENCE)

    def interrupt(self) -> int:
        """Press Ctrl-C, and return its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def complaints(self) -> str:
        """Return what it wrote to its standard error."""
        self._complaints.seek(0)
        return self._complaints.read().decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        complaints = self.complaints()
        self._complaints.close()
        if kind is None:
            assert complaints == ""


def connect(port: int, *, receive_buffer: int = 0) -> socket.socket:
    """Return a blocking socket that is connected to `port` of this host, and gives up after `PATIENCE`."""
    sock = socket.socket()
    try:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock
