"""A child process that speaks in lines of JSON, and that is always ended and waited for.

Theory of operation
-------------------
A child's standard output is a pipe that is read with a deadline; its standard error goes to a file, so that
it can never block on it, and is quoted when the child fails. Which cpu it is to stay on is settled before it
is born, so that what counts cpus at its start counts one. It gets a session of its own: Ctrl-C on the
terminal reaches only the parent, which then ends its children in order. Standard input is a pipe that is held
open and closed to say "end": a child that watches it cannot outlive a parent that was killed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from .facts import pin_to

__all__ = ["BenchError", "Child", "module_command"]

_PATIENCE = 2.0  # seconds between asking to end, telling to, and killing
_QUOTED = 4000  # characters of a child's standard error


class BenchError(Exception):
    """A measurement could not be made: one of its processes failed, or took too long."""


class Child:
    """One process, on one cpu if that is named. Leaving the context ends it, whatever happened."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cpu: int | None = None,
    ) -> None:
        self.name = name
        self._unread = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        try:
            with _on_cpu(cpu) as self.pinned:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    env=_environment() | dict(environment or {}),
                    start_new_session=True,
                )
        except BaseException:
            self._errors.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def next_record(self, timeout: float) -> Mapping[str, object] | None:
        """The next line of JSON; None if none came in time. Raises `BenchError` if the child ended."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._unread:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(fd, 65536)
            if not data:
                raise self.failure()
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise BenchError(f"the {self.name} process wrote something other than a record: {line[:200]!r}")
        return record

    def say(self, line: str) -> None:
        """Write a line to its standard input. Raises `BenchError` if the child ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.failure() from None

    def say_no_more(self) -> None:
        """End its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def failure(self) -> BenchError:
        """The error that tells how this process ended, with what it wrote to its standard error."""
        try:
            status: int | None = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            status = None
        if status is None:
            how = "closed its output"
        elif status < 0:
            how = f"was killed by signal {-status}"
        else:
            how = f"ended with status {status}"
        messages = self.messages()
        return BenchError(f"the {self.name} process {how}" + (f":\n{messages}" if messages else ""))

    def messages(self) -> str:
        """The end of what the process wrote to its standard error so far."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-_QUOTED:]

    def end(self) -> int:
        """Close its standard input, then terminate, then kill it; its exit status."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        for more_than_asking in (process.terminate, process.kill):
            try:
                return process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                more_than_asking()
        return process.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self._process.terminate()
            self.end()
        finally:
            self._process.kill()  # does nothing to a process that was waited for
            self._process.wait()
            self._errors.close()


@contextmanager
def _on_cpu(cpu: int | None) -> Iterator[bool]:
    """Have this thread on one cpu meanwhile, where a child is born then; whether that could be had."""
    before = os.sched_getaffinity(0) if sys.platform == "linux" else set()
    try:
        yield pin_to(cpu)
    finally:
        if sys.platform == "linux":
            os.sched_setaffinity(0, before)


def module_command(module: str, *arguments: str) -> list[str]:
    """What runs a module of this package with the interpreter that runs here."""
    return [sys.executable, "-m", module, *arguments]


def _environment() -> dict[str, str]:
    """This one, with the aionet that is running found first."""
    root = str(Path(__file__).resolve().parents[2])
    others = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": root + (os.pathsep + others if others else "")}
