"""Workers under load: how evenly they share 8,000 connections, and what is lost when one is killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import PATIENCE, AionetServer

from .steady_load import SteadyLoad

CONNECTIONS = 8_000
MOST_UNEVEN = {"own queues": 1.5, "shared queue": 50.0}  # a shared queue promises no equal shares
SPARE = 500  # descriptors for everything else

APP = """\
async def upper(socket):
    async for chunk in socket:
        await socket.write(chunk.upper())
"""


@pytest.fixture
def many_descriptors():
    """Let this process, and those it starts, hold all of the connections at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < CONNECTIONS + SPARE:
        pytest.skip(f"this system allows {hard} open files")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def status(control: Path) -> dict[str, Any]:
    """Ask at the control socket, as anybody of this user can."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(control))
        sock.sendall(b'{"want": "status"}\n')
        found: dict[str, Any] = json.loads(sock.makefile("rb").readline())
        return found


def until_accepted(control: Path, connections: int) -> dict[str, Any]:
    """Return the status in which all workers together have told of so many; they tell once a second."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = status(control)
        if found["counters"].get("accepted", 0) >= connections:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("queues", MOST_UNEVEN)
def test_8000_connections_are_spread_evenly(
    tmp_path: Path, many_descriptors: None, workers: int, queues: str
) -> None:
    (tmp_path / "app.py").write_text(APP)
    control = tmp_path / "control"
    arguments = ["serve", "app:upper", "--bind", "127.0.0.1:0", "--workers", workers, "--control", control]
    arguments += ["--shared-listener"] if queues == "shared queue" else []
    sockets = []
    with AionetServer(*arguments, "--drain-grace", 0, cwd=tmp_path) as server:
        try:
            for _ in range(CONNECTIONS):  # each is to be closed if the next one fails
                sockets.append(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))  # noqa: PERF401
            found = until_accepted(control, CONNECTIONS)
        finally:
            for sock in sockets:
                sock.close()
        server.signal()
        assert server.ended()[0] == 0
    shares = [worker["counters"]["accepted"] for worker in found["workers"]]
    print(f"{shares}: max/min {max(shares) / min(shares):.3f}", file=sys.stderr)
    assert sum(shares) == CONNECTIONS
    assert max(shares) / min(shares) <= MOST_UNEVEN[queues]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("shared", [False, True], ids=["own queues", "shared queue"])
def test_a_killed_worker_loses_only_what_it_was_serving(tmp_path: Path, shared: bool) -> None:
    """Connections in its queue wait for the worker that takes its place; nobody is refused."""
    (tmp_path / "app.py").write_text(APP)
    control = tmp_path / "control"
    arguments = ["serve", "app:upper", "--bind", "127.0.0.1:0", "--workers", 2, "--control", control]
    arguments += ["--shared-listener"] if shared else []
    kills = 5
    with AionetServer(*arguments, "--log-level", "critical", cwd=tmp_path) as server:
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        with SteadyLoad(server.port, 300) as load:
            for _ in range(kills):
                pid = status(control)["workers"][0]["pid"]
                os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + PATIENCE
                while status(control)["workers"][0]["pid"] == pid:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        found = status(control)
        deadline = time.monotonic() + PATIENCE
        while len(list(descriptors.iterdir())) > before:
            assert time.monotonic() < deadline, "the supervisor keeps descriptors of workers that have ended"
            time.sleep(0.05)
        server.signal()
        code, _, errors = server.ended()
    print(f"{load.outcomes}, slowest {load.slowest:.3f} s", file=sys.stderr)
    assert (code, errors) == (0, "")
    assert found["restarts"] == kills
    lost = sum(load.outcomes.values()) - load.outcomes["complete"]
    assert set(load.outcomes) - {"complete", "ConnectionResetError"} <= {"incomplete: 0 of 400 bytes"}
    assert lost <= kills * 10  # no more than one for each thread of the load: it was being served
    assert load.outcomes["complete"] > 100
