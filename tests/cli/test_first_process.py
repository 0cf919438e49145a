"""As process 1 of a container, to which the kernel hands every orphan, and no signal without a handler."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from command_line import PATIENCE, AionetServer, command, connect_raw, environment, receive_exactly
from helpers import require_program
from processes import Process, children_of

IN_CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

APP = """\
import asyncio, os, subprocess, sys, time

async def upper(socket):
    async for chunk in socket:
        await socket.write(chunk.upper())

async def orphan(socket):
    done = subprocess.run(["sh", "-c", "sleep 0.1 >/dev/null & echo $!"], stdout=subprocess.PIPE)
    while os.path.exists(f"/proc/{int(done.stdout)}"):
        await asyncio.sleep(0.01)
    status = subprocess.run(["sh", "-c", "exit 7"]).returncode  # of a child of its own
    await socket.write(f"buried {status}".encode())
"""
SLOW = """\
import time
print("importing", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    require_program("unshare")
    if subprocess.run([*IN_CONTAINER, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("no process namespace can be made here")
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def serving(directory: Path, handler: str, *more: object) -> AionetServer:
    words = ("serve", f"app:{handler}", "--bind", "127.0.0.1:0", *more)
    return AionetServer(*words, cwd=directory, prefix=IN_CONTAINER)


def only_child(pid: int) -> int:
    [child] = children_of(pid)
    return child


def signal_first_process(parent: subprocess.Popen[bytes], number: signal.Signals) -> None:
    os.kill(only_child(parent.pid), number)


@pytest.mark.parametrize("mode", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_orphans_are_buried(directory: Path, mode: list[str]) -> None:
    with serving(directory, "orphan", *mode) as server:
        for _ in range(3):
            with connect_raw(server.address) as sock:
                assert receive_exactly(sock, 8) == b"buried 7"
        signal_first_process(server.process, signal.SIGTERM)
        assert server.ended()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_drains(directory: Path, number: signal.Signals) -> None:
    with serving(directory, "upper") as server, connect_raw(server.address) as sock:
        signal_first_process(server.process, signal.SIGUSR1)
        sock.sendall(b"a")
        assert receive_exactly(sock, 1) == b"A"
        signal_first_process(server.process, number)
        assert server.next_event()["event"] == "draining"
        sock.close()
        assert server.ended()[0] == 0


def test_a_signal_while_the_handler_is_imported(directory: Path) -> None:
    (directory / "app.py").write_text(SLOW)
    with subprocess.Popen(
        [*IN_CONTAINER, *command("serve", "app:upper", "--bind", "127.0.0.1:0")],
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
    ) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"importing\n"
            signal_first_process(parent, signal.SIGTERM)
            assert parent.wait(PATIENCE) == 128 + signal.SIGTERM
        finally:
            parent.kill()


@pytest.mark.parametrize("mode", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_a_restart_does_not_end_the_container(directory: Path, mode: list[str]) -> None:
    with serving(directory, "upper", *mode) as server:
        (directory / "app.py").write_text(APP.replace("chunk.upper()", "chunk * 2"))
        for _ in range(2):
            signal_first_process(server.process, signal.SIGUSR2)
            while server.next_event()["event"] != "drained":
                pass
            with connect_raw(server.address) as sock:
                sock.sendall(b"a")
                assert receive_exactly(sock, 2) == b"aa"
        signal_first_process(server.process, signal.SIGTERM)
        assert server.ended()[0] == 0


@pytest.mark.parametrize("ending", [True, False], ids=["it is to end", "it serves"])
def test_a_successor_is_noticed_before_other_signals(directory: Path, ending: bool) -> None:
    """Process 1 runs again after a restart, and then finds several signals."""
    with serving(directory, "upper") as server:
        first = only_child(server.process.pid)
        with Process(only_child(first)) as predecessor:
            os.kill(first, signal.SIGSTOP)
            predecessor.signal(signal.SIGUSR2)
            assert predecessor.ends()
        if ending:
            os.kill(first, signal.SIGTERM)
        os.kill(first, signal.SIGCONT)
        if not ending:
            with connect_raw(server.address) as sock:
                sock.sendall(b"a")
                assert receive_exactly(sock, 1) == b"A"
            os.kill(first, signal.SIGTERM)
        code, events, _ = server.ended()
        assert (code, events.count('"drained"')) == (0, 2)


@pytest.mark.parametrize(
    "words", [["serve", "app:upper"], ["serve", "app:upper", "--workers", "2"], ["echo"]], ids=" ".join
)
def test_sigquit_drains_and_sigusr1_does_nothing(tmp_path: Path, words: list[str]) -> None:
    """Where it is no first process, too."""
    (tmp_path / "app.py").write_text(APP)
    with AionetServer(*words, "--bind", "127.0.0.1:0", cwd=tmp_path) as server:
        server.signal(signal.SIGUSR1)
        with connect_raw(server.address) as sock:
            sock.sendall(b"A")
            assert receive_exactly(sock, 1) == b"A"
            server.signal(signal.SIGQUIT)
            assert server.next_event()["event"] == "draining"
        assert server.ended()[0] == 0
