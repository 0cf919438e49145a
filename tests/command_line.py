"""Running the command line as its users do: as a process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aionet.cli.main import main

__all__ = [
    "PATIENCE",
    "AionetServer",
    "aionet",
    "aionet_here",
    "command",
    "connect_raw",
    "environment",
    "receive_exactly",
    "receive_to_end",
    "starting",
]

PATIENCE = 15.0
"""Seconds after which a process is given up and the test fails."""

_ROOT = str(Path(__file__).resolve().parents[1])


def command(*arguments: object) -> list[str]:
    """The words of a command."""
    return [sys.executable, "-m", "aionet", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """This process's, with the aionet of this tree found first, warnings as errors, and a plain output."""
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error", "COLUMNS": "100"} | more


def aionet(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, with nothing on its standard input unless the options say so."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    environ = environment(**options.pop("env", {}))
    return subprocess.run(
        command(*arguments), capture_output=True, timeout=PATIENCE, env=environ, check=False, **options
    )


def aionet_here(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """As `aionet` for commands that end at once: in this process, which saves the start of an interpreter."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main([str(argument) for argument in arguments])
    texts = output.getvalue().encode(), errors.getvalue().encode()
    return subprocess.CompletedProcess(arguments, code, *texts)


def starting(*arguments: object, cwd: Path) -> subprocess.Popen[bytes]:
    """A command that has just begun, in a session of its own, to which signals can be sent.

    A job in the background of a shell has SIGQUIT ignored, and would pass that on.
    """
    return subprocess.Popen(
        ["env", "--default-signal=QUIT", *command(*arguments)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


class AionetServer:
    """A command that serves, from its "listening" line on; killed when the context is left."""

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        as_json: bool = True,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._as_json = as_json
        self.process = subprocess.Popen(
            [*prefix, *command(*arguments, *(["--json"] if as_json else []))],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=environment(),
            pass_fds=pass_fds,
        )
        self.addresses: list[str] = []
        self.metrics = ""

    def __enter__(self) -> Self:
        try:
            if self._as_json:
                event = self.next_event()
                assert event["event"] == "listening", event
                self.addresses = event["addresses"]
                self.metrics = event.get("metrics", "")
            else:
                line = self.next_error_line()
                assert line.startswith("listening on "), line
                self.addresses = line.removeprefix("listening on ").split(", ")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    @property
    def address(self) -> str:
        """The first address, as text."""
        return self.addresses[0]

    @property
    def port(self) -> int:
        """The port of the first address."""
        return int(self.address.rpartition(":")[2])

    def next_event(self) -> dict[str, Any]:
        """The next line of JSON."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.process.stderr.read().decode() if self.process.stderr else ''}"
        event: dict[str, Any] = json.loads(line)
        return event

    def next_error_line(self) -> str:
        """The next line on standard error."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().decode().rstrip("\n")

    def expect(self, text: str) -> None:
        """Read lines on standard error up to one that contains `text`; fail if that never comes."""
        assert self.process.stderr is not None
        lines: list[str] = []
        while text not in (line := self.process.stderr.readline().decode()):
            assert line, f"it never said {text!r}, but {lines}"
            lines.append(line)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self) -> tuple[int, str, str]:
        """Wait for its end; the exit code, and what was left on standard output and standard error."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()


def connect_raw(address: str) -> socket.socket:
    """A plain blocking socket, connected to what a command printed."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(PATIENCE)
            sock.connect(address.removeprefix("unix:"))
        except BaseException:
            sock.close()
            raise
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE)


def receive_exactly(sock: socket.socket, n: int) -> bytes:
    """Receive `n` bytes."""
    received = bytearray()
    while len(received) < n:
        data = sock.recv(n - len(received))
        assert data, f"the stream ended after {len(received)} of {n} bytes"
        received += data
    return bytes(received)


def receive_to_end(sock: socket.socket) -> bytes:
    """Receive until the stream ends."""
    received = bytearray()
    while data := sock.recv(1 << 20):
        received += data
    return bytes(received)
