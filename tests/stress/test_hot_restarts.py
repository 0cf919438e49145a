"""Fifty restarts under 500 connections a second: nobody is refused, nobody is reset, every reply is whole."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import AionetServer

from .steady_load import SteadyLoad

RESTARTS = 50
RATE = 500

APP = """\
async def upper(socket):
    async for chunk in socket:
        await socket.write(chunk.upper())
"""


def events_until_both(server: AionetServer) -> dict[str, Any]:
    """Read events until the old one has drained and the new one listens; return what the new one said."""
    seen: dict[str, Any] = {}
    while not {"listening", "drained"} <= seen.keys():
        event = server.next_event()
        seen[event["event"]] = event
    assert seen["drained"]["aborted"] == seen["drained"]["cancelled"] == 0
    listening: dict[str, Any] = seen["listening"]
    return listening


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("workers", [0, 2], ids=["one process", "two workers"])
@pytest.mark.parametrize("way", ["SIGUSR2", "--replace"])
def test_50_restarts_under_load(tmp_path: Path, workers: int, way: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    control = tmp_path / "control"
    arguments = ["serve", "app:upper", "--control", str(control), "--log-level", "warning"]
    arguments += ["--workers", str(workers)] if workers else []
    with AionetServer(*arguments, "--bind", "127.0.0.1:0", cwd=tmp_path) as server:
        port, pids = server.port, [server.process.pid]
        others: list[AionetServer] = []
        try:
            with SteadyLoad(port, RATE) as load:
                for _ in range(RESTARTS):
                    if way == "SIGUSR2":
                        os.kill(pids[-1], signal.SIGUSR2)
                        listening = events_until_both(server)
                        pids.append(listening["pid"])
                    else:
                        before = others[-1] if others else server
                        others.append(
                            AionetServer(*arguments, "--bind", "127.0.0.1:0", "--replace", cwd=tmp_path)
                        )
                        others[-1].__enter__()
                        assert others[-1].port == port
                        assert before.ended()[0] == 0
                        pids.append(others[-1].process.pid)
            print(f"{load.outcomes}, slowest {load.slowest:.3f} s, {load.seconds:.1f} s", file=sys.stderr)
            os.kill(pids[-1], signal.SIGTERM)
            last = others[-1] if others else server
            errors = last.ended()[2]
        finally:
            for other in others:
                other.__exit__(None, None, None)
    assert set(load.outcomes) == {"complete"}, load.outcomes
    assert load.outcomes["complete"] > 0.9 * RATE * load.seconds
    assert len(set(pids)) == RESTARTS + 1
    assert errors == ""
    assert not control.exists()
