"""Signals that come while ``aionet serve`` imports its handler."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from command_line import PATIENCE, connect_raw, receive_exactly, starting

APP = """\
import os, time

print("importing", flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)

async def echo(socket):
    async for data in socket:
        await socket.write(data)
"""


def importing(directory: Path) -> subprocess.Popen[bytes]:
    (directory / "app.py").write_text(APP)
    bind = f"unix:{directory}/socket"
    return starting("serve", "app:echo", "--bind", bind, "--log-level", "info", cwd=directory)


def read_to(stream: object, text: bytes) -> None:
    while text not in (line := stream.readline()):  # type: ignore[attr-defined]
        assert line


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_it_does_not_end_the_start(tmp_path: Path, number: signal.Signals) -> None:
    """SIGUSR2 and SIGHUP restart the server once it serves."""
    with importing(tmp_path) as process:
        try:
            read_to(process.stdout, b"importing")
            process.send_signal(number)
            (tmp_path / "go").touch()
            read_to(process.stderr, b"listening on")
            if number != signal.SIGUSR1:
                read_to(process.stdout, b"importing")  # by the successor
                read_to(process.stderr, b"drained")
            with connect_raw(f"unix:{tmp_path}/socket") as sock:
                sock.sendall(b"a")
                assert receive_exactly(sock, 1) == b"a"
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the successor, too


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_it_ends_the_start(tmp_path: Path, number: signal.Signals) -> None:
    with importing(tmp_path) as process:
        try:
            read_to(process.stdout, b"importing")
            process.send_signal(number)
            assert process.wait(PATIENCE) == -signal.SIGTERM
        finally:
            process.kill()
