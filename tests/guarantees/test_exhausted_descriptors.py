"""A server that has run out of descriptors stays calm, serves on, and takes new connections when it can."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import aionet

DESCRIPTORS = 64
CLIENTS = 100
WATCHED = 3.0  # seconds
MOST_CPU = 0.05  # as a share of one processor
MOST_LINES = 2  # a second
SOONEST = 1.0  # seconds from release to service

SERVER = Path(__file__).with_name("exhausted_server.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(aionet.__file__).parent.parent)}


class Server:
    """The server's process, and what can be seen of it from outside."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stdout is not None
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        self.port = int(process.stdout.readline())

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def new_log_lines(self) -> list[str]:
        assert self._process.stderr is not None
        return (self._process.stderr.read() or b"").decode().splitlines()

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        client.sendall(b"hello")
        return client


@contextmanager
def running_server(loop: str) -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, str(SERVER), loop, str(DESCRIPTORS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        try:
            yield Server(process)
        finally:
            process.terminate()
            process.wait(10)


def answered(clients: list[socket.socket], seconds: float) -> list[socket.socket]:
    """The clients that have been answered after `seconds`."""
    time.sleep(seconds)
    return select.select(clients, [], [], 0)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.slow
def test_out_of_descriptors_calm_serving_and_soon_back(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with running_server(loop) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(CLIENTS)]
        served = answered(clients, 0.5)
        queueing = [client for client in clients if client not in served]
        assert 30 < len(served) < DESCRIPTORS

        server.new_log_lines()
        cpu, started = server.cpu_seconds(), time.monotonic()
        while time.monotonic() - started < WATCHED:
            queueing.append(stack.enter_context(server.connect()))
            time.sleep(0.1)
        seconds = time.monotonic() - started
        cpu, lines = server.cpu_seconds() - cpu, server.new_log_lines()
        print(f"{loop}: {100 * cpu / seconds:.2f} % CPU, {len(lines)} log lines in {seconds:.2f} s")
        assert cpu < MOST_CPU * seconds
        assert len(lines) <= MOST_LINES * seconds
        assert any("Too many open files" in line for line in lines)

        for client in served:  # whoever was served is served on
            assert client.recv(100) == b"hello"
            client.sendall(b"again")
            assert client.recv(100) == b"again"
        assert not select.select(queueing, [], [], 0)[0]

        released = time.monotonic()
        for client in served[:20]:
            client.close()
        answers: set[socket.socket] = set()
        while len(answers) < 20:
            left = SOONEST - (time.monotonic() - released)
            assert left > 0, f"{len(answers)} of 20 waiting clients were served within {SOONEST} s"
            waiting = [client for client in queueing if client not in answers]
            answers.update(select.select(waiting, [], [], left)[0])
        print(f"{loop}: 20 new connections {time.monotonic() - released:.3f} s after release")
        assert all(client.recv(100) == b"hello" for client in answers)
