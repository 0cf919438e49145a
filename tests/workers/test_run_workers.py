"""`run_workers` from a script, as its users have it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PATIENCE, connect_raw, environment, receive_to_end
from processes import Process

from aionet import run_workers

SCRIPT = """\
import os, sys
import aionet

async def who(socket):
    await socket.write(str(os.getpid()).encode())
    await socket.read()

def listening(addresses):
    print(*addresses, flush=True)

if __name__ == "__main__":
    report = aionet.run_workers(
        {handler}, sys.argv[1], workers=2, drain_grace=2, on_listening=listening, **{more}
    )
    print(report, flush=True)
"""

UNGUARDED = """\
import aionet

async def handler(socket):
    pass

aionet.run_workers(handler, "127.0.0.1:0", workers=1)
"""


class Script:
    """A script that calls `run_workers`."""

    def __init__(self, directory: Path, address: str = "127.0.0.1:0", handler: str = "who", more: str = "{}"):
        (directory / "server.py").write_text(SCRIPT.format(handler=handler, more=more))
        self.process = subprocess.Popen(
            [sys.executable, "server.py", address],
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def connect(self) -> socket.socket:
        return connect_raw(self.address)

    def serving(self, connections: int = 40) -> set[int]:
        """Who answers so many connections that are open at once."""
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(self.connect()) for _ in range(connections)]
            for sock in socks:
                sock.shutdown(socket.SHUT_WR)
            return {int(receive_to_end(sock)) for sock in socks}

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.mark.parametrize("handler", ["who", "'server:who'"])
def test_a_handler_of_the_script(tmp_path, handler):
    with Script(tmp_path, handler=handler) as script:
        pids = script.serving()
        assert len(pids) == 2
        assert script.process.pid not in pids
        script.process.send_signal(signal.SIGTERM)
        out, err = script.process.communicate(timeout=PATIENCE)
    assert (script.process.returncode, err) == (0, "")
    assert out.startswith("0 finished, 0 cancelled, 0 aborted in 0.0")


def test_workers_share_a_unix_socket(tmp_path):
    path = tmp_path / "sock"
    with Script(tmp_path, f"unix:{path}", more="dict(shared_listener=True)") as script:
        assert script.serving()
        script.process.send_signal(signal.SIGINT)
        assert script.process.wait(PATIENCE) == 0
    assert not path.exists()


def test_connections_finish_within_the_grace_and_are_reported_together(tmp_path):
    with Script(tmp_path) as script, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(script.connect()) for _ in range(10)]
        for sock in socks:
            assert sock.recv(10)
        script.process.send_signal(signal.SIGTERM)
        for sock in socks[:7]:
            sock.shutdown(socket.SHUT_WR)
            assert receive_to_end(sock) == b""
        out, err = script.process.communicate(timeout=PATIENCE)
    # Those that finish before the signal has reached their worker are not among the drained.
    assert re.fullmatch(r"[0-7] finished, 3 cancelled, 0 aborted in 2\.\d\d s\n", out)
    assert err == ""


def test_workers_drain_when_their_supervisor_is_killed(tmp_path):
    with Script(tmp_path) as script, contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Process(pid)) for pid in script.serving()]
        with script.connect() as sock:
            assert sock.recv(10)
            script.process.kill()
            sock.shutdown(socket.SHUT_WR)
            assert receive_to_end(sock) == b""  # it could still finish
        assert all(worker.ends() for worker in workers)
        with pytest.raises(ConnectionRefusedError):
            script.connect()
        assert "the supervisor has gone" in script.process.communicate(timeout=PATIENCE)[1]


def test_a_script_without_the_guard_is_told(tmp_path):
    (tmp_path / "bare.py").write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, "bare.py"], cwd=tmp_path, env=environment(), capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert b'put it under if __name__ == "__main__":' in done.stderr
    assert b"WorkerFailedError: worker 0 " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"workers": 0}, ValueError, "workers must be a number of processes from 1 on, not 0"),
        ({"workers": True}, ValueError, "not True"),
        ({"drain_grace": -1}, ValueError, "drain_grace must be 0 or more seconds"),
        ({"start_timeout": float("nan")}, ValueError, "start_timeout must be"),
        ({"address": "nonsense"}, ValueError, "lacks a port"),
        ({"handler": lambda socket: None}, TypeError, "must be a function of a module"),
        ({"control": ""}, ValueError, "the control socket needs a file"),
    ],
)
def test_bad_arguments(arguments, error, message):
    arguments = {"handler": "app:handler", "address": "127.0.0.1:0"} | arguments
    with pytest.raises(error, match=message):
        run_workers(arguments.pop("handler"), arguments.pop("address"), **arguments)


def test_the_number_of_processors_is_the_default():
    from aionet.workers.running import available_processors

    assert available_processors() == len(os.sched_getaffinity(0))
