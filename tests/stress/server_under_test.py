"""A server in a process of its own (`server_program.py`), watched from outside.

What it uses of the machine is read from ``/proc``: the processor time that it took, by itself, says the same
on a machine that others load; the memory that counts is what it shares with nobody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["PATIENCE", "ProcessWatch", "ServerUnderTest", "wait_until"]

PATIENCE = 30.0
"""Seconds after which a test gives up waiting; far more than anything takes."""

_PROGRAM = Path(__file__).with_name("server_program.py")
_ROOT = str(Path(__file__).resolve().parents[2])
_TICKS = os.sysconf("SC_CLK_TCK")


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return as soon as `condition()` is true; fail after `seconds`. For what another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.002)


class ProcessWatch:
    """What the kernel tells of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu_seconds(self) -> float:
        """The processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def cpu_share(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> float:
        """The share of one processor that it uses for `seconds`; `meanwhile` is called again and again."""
        used, started = self.cpu_seconds(), time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            meanwhile()
            time.sleep(min(0.05, seconds))
        return (self.cpu_seconds() - used) / elapsed

    def private_bytes(self) -> int:
        """The memory that it shares with nobody."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))

    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class ServerUnderTest:
    """Runs the program from its "listening" event on; killed when the context is left.

    Args:
        handler: the name of one in `server_program.py`.
        engine: the one to run on.
        descriptors: its limit.
        records: keep what `on_close` is told, for `records`.
        counted: count the handlers that run, for `stats`.
        send_buffer: of each connection, in bytes.
        certificate: the file with that of its TLS, and the key; plain TCP without one.
        prefix: the words of a program that runs it.
        limits: the fields of `ConnectionLimits`; ``on_full="regret"`` is a coroutine function.
    """

    def __init__(
        self,
        handler: str = "echo",
        *,
        engine: str,
        descriptors: int | None = None,
        records: bool = False,
        counted: bool = False,
        send_buffer: int | None = None,
        certificate: str | None = None,
        prefix: Sequence[str] = (),
        **limits: Any,
    ) -> None:
        options = {
            "handler": handler,
            "descriptors": descriptors,
            "records": records,
            "counted": counted,
            "send_buffer": send_buffer,
            "certificate": certificate,
            "limits": limits,
        }
        self._command = [*prefix, sys.executable, str(_PROGRAM), json.dumps(options)]
        self._engine = engine

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        environment = {"PYTHONPATH": _ROOT, "PYTHONWARNINGS": "error", "AIONET_ENGINE": self._engine}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=self._log, env=os.environ | environment
        )
        try:
            listening = self.next_event()
            assert listening["engine"] == self._engine
            self.port: int = listening["port"]
            self.watch = ProcessWatch(self.process.pid)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        if kind is not None:  # pytest shows it with a failure
            print(*self.log()[-50:], sep="\n")
        self._log.close()

    def next_event(self) -> dict[str, Any]:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.log()[-20:]}"
        event: dict[str, Any] = json.loads(line)
        return event

    def ask(self, command: str) -> dict[str, Any]:
        """Its answer to `command`."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        return self.next_event()

    def stats(self) -> dict[str, Any]:
        """What its spawner counts, and how many handlers run, and ran at most."""
        return self.ask("stats")

    def records(self) -> list[dict[str, Any]]:
        """What its `on_close` was told so far."""
        records: list[dict[str, Any]] = self.ask("records")["records"]
        return records

    def log(self) -> list[str]:
        """What it has logged so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode().splitlines()

    def warnings(self) -> list[str]:
        """The records of its log that are more than information."""
        return [line for line in self.log() if line.startswith(("WARNING", "ERROR"))]
