"""``--reload``: real files that change under a real command line."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import socket
import subprocess
import termios
from pathlib import Path

import pytest
from command_line import (
    PATIENCE,
    AionetServer,
    aionet,
    command,
    connect_raw,
    environment,
    receive_exactly,
    receive_to_end,
)
from helpers import require_program
from processes import Process, children_of

pytestmark = pytest.mark.slow

APP = """\
import helper

async def answer(socket):
    async for chunk in socket:
        await socket.write(chunk + helper.WORD)
"""

LOCAL = "127.0.0.1:0"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A current directory with ``app.py``, and the ``helper.py`` that it imports."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "helper.py").write_text("WORD = b'1'\n")
    (tmp_path / "aionet.toml").write_text(f'[serve]\nbind = "{LOCAL}"\ndrain_grace = 20\n')
    return tmp_path


class ReloadingServer(AionetServer):
    """``aionet serve --reload``; its child is ended with it."""

    def __init__(self, directory: Path, *arguments: object) -> None:
        super().__init__(
            "serve", "app:answer", "--config", "aionet.toml", "--reload", *arguments, cwd=directory
        )

    def __exit__(self, *exc_info: object) -> None:
        children = self.children() if self.process.poll() is None else []
        super().__exit__(None, None, None)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def children(self) -> list[int]:
        """The processes that it has started and that have not ended."""
        return children_of(self.process.pid)

    def next_addresses(self) -> None:
        """Read events up to the next "listening"."""
        while (event := self.next_event())["event"] != "listening":
            pass
        self.addresses = event["addresses"]

    def answer(self) -> bytes:
        """What a new connection is answered."""
        with connect_raw(self.address) as sock:
            sock.sendall(b"?")
            sock.shutdown(socket.SHUT_WR)
            return receive_to_end(sock)


def test_a_change_restarts_and_the_old_connection_ends_in_good_order(directory: Path) -> None:
    with ReloadingServer(directory) as server:
        with connect_raw(server.address) as old:
            old.sendall(b"?")
            assert receive_exactly(old, 2) == b"?1"
            (directory / "helper.py").write_text("WORD = b'2'\n")
            server.expect("changed: helper.py; restarting")
            assert receive_to_end(old) == b""
        server.next_addresses()
        assert server.answer() == b"?2"
        (directory / "app.py").write_text(APP.replace("chunk +", "b'!' +"))
        server.expect("changed: app.py; restarting")
        server.next_addresses()
        assert server.answer() == b"!2"
        server.signal()
        assert server.ended()[0] == 0


def test_an_open_conversation_may_finish(directory: Path) -> None:
    """The drain of a restart is short, but it is one."""
    with ReloadingServer(directory) as server:
        with connect_raw(server.address) as old:
            old.sendall(b"?")
            assert receive_exactly(old, 2) == b"?1"
            (directory / "helper.py").write_text("WORD = b'2'\n")
            server.expect("changed: helper.py; restarting")
            assert server.next_event()["event"] == "draining"
            old.sendall(b"!")
            old.shutdown(socket.SHUT_WR)
            assert receive_to_end(old) == b"!1"
        report = server.next_event()  # it may have finished before the drain counted
        assert (report["event"], report["cancelled"], report["aborted"]) == ("drained", 0, 0)
        server.next_addresses()
        server.signal()
        assert server.ended()[0] == 0


@pytest.mark.parametrize("file", ["app.py", "helper.py"])
def test_a_syntax_error_is_told_and_waited_out(directory: Path, file: str) -> None:
    right = (directory / file).read_text()
    with ReloadingServer(directory) as server:
        (directory / file).write_text(f"{right}def broken(:\n")
        server.expect(f"changed: {file}; restarting")
        server.expect("SyntaxError: ")
        server.expect("the server ended with exit code 1; waiting for a change")
        with pytest.raises(ConnectionRefusedError):
            connect_raw(server.address)
        (directory / file).write_text(right.replace("b'1'", "b'3'"))
        server.expect(f"changed: {file}; restarting")
        server.next_addresses()
        assert server.answer() == (b"?3" if file == "helper.py" else b"?1")
        server.signal()
        assert server.ended()[0] == 0


def test_it_may_begin_with_a_module_that_is_missing(directory: Path) -> None:
    (directory / "helper.py").unlink()
    server = ReloadingServer(directory)
    try:
        server.expect("No module named 'helper'")
        server.expect("waiting for a change")
        (directory / "helper.py").write_text("WORD = b'4'\n")
        server.expect("changed: helper.py; restarting")
        server.next_addresses()
        assert server.answer() == b"?4"
        server.signal()
        assert server.ended()[0] == 0
    finally:
        server.__exit__(None, None, None)


def test_the_configuration_is_watched_too(directory: Path) -> None:
    with ReloadingServer(directory) as server:
        (directory / "aionet.toml").write_text("[serve]\nbinds = 1\n")
        server.expect("changed: aionet.toml; restarting")
        server.expect("aionet: aionet.toml: serve.binds: unknown key; did you mean bind?")
        server.expect("the server ended with exit code 2; waiting for a change")
        (directory / "aionet.toml").write_text(f'[serve]\nbind = "unix:{directory}/sock"\n')
        server.expect("changed: aionet.toml; restarting")
        server.next_addresses()
        assert server.addresses == [f"unix:{directory}/sock"]
        assert server.answer() == b"?1"
        server.signal()
        assert server.ended()[0] == 0
    assert not (directory / "sock").exists()


def test_a_handler_that_does_not_end_is_ended(directory: Path) -> None:
    stubborn = """\
import asyncio

async def answer(socket):
    await socket.write(b"1")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""
    (directory / "app.py").write_text(stubborn)
    with ReloadingServer(directory) as server, connect_raw(server.address) as old:
        assert receive_exactly(old, 1) == b"1"
        (directory / "app.py").write_text(APP)
        server.expect("changed: app.py; restarting")
        server.next_addresses()
        assert server.answer() == b"?1"
        server.signal()
        assert server.ended()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_both(directory: Path, number: signal.Signals) -> None:
    with ReloadingServer(directory) as server:
        [child] = server.children()
        server.signal(number)
        code, output, _ = server.ended()
        assert not Path(f"/proc/{child}").exists()
    assert code == 0
    assert '"drained"' in output


def test_a_second_signal_ends_the_drain(directory: Path) -> None:
    with ReloadingServer(directory) as server, connect_raw(server.address) as sock:
        sock.sendall(b"?")
        assert receive_exactly(sock, 2) == b"?1"
        server.signal()
        assert server.next_event() == {"event": "draining", "connections": 1, "grace": 20.0}
        server.signal()
        assert server.next_event()["grace"] == 0
        assert receive_to_end(sock) == b""
        assert server.next_event()["cancelled"] == 1
        assert server.ended()[0] == 0


def test_a_signal_ends_the_wait_for_a_change(directory: Path) -> None:
    (directory / "app.py").write_text("1 / 0\n")
    server = ReloadingServer(directory)
    try:
        server.expect("waiting for a change")
        server.signal()
        assert server.ended()[0] == 1
    finally:
        server.__exit__(None, None, None)


def test_a_server_that_is_ended_by_somebody_else_ends_the_parent(directory: Path) -> None:
    with ReloadingServer(directory) as server:
        [child] = server.children()
        os.kill(child, signal.SIGTERM)
        assert server.ended()[0] == 0


def test_wrong_options_are_told_at_once(directory: Path) -> None:
    done = aionet("echo", "--reload", "--drain-grace", "soon")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"expected a number of seconds" in done.stderr


# Terminals and signals ----------------------------------------------------------------------------------


class ServerAtTerminal(ReloadingServer):
    """The same, in the foreground of a terminal of its own."""

    def __init__(self, directory: Path) -> None:
        self.terminal, slave = pty.openpty()
        self._as_json = True
        self.process = subprocess.Popen(
            command("serve", "app:answer", "--config", "aionet.toml", "--reload", "--json"),
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=environment(),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.addresses, self.metrics = [], ""

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(None, None, None)
        os.close(self.terminal)


ASKS = """\
async def answer(socket):
    await socket.write(input().encode())
"""
BLOCKS = """\
import time

async def answer(socket):
    await socket.write(b"1")
    time.sleep(1000)
"""


def test_a_handler_may_read_from_the_terminal(directory: Path) -> None:
    """As a debugger does."""
    (directory / "app.py").write_text(ASKS)
    with ServerAtTerminal(directory) as server:
        with connect_raw(server.address) as sock:
            os.write(server.terminal, b"word\n")
            assert receive_to_end(sock) == b"word"
        (directory / "app.py").write_text(APP)
        server.expect("changed: app.py; restarting")
        server.next_addresses()
        os.write(server.terminal, b"\x03")
        code, output, _ = server.ended()
    assert (code, output.count('"draining"')) == (0, 1)  # one Ctrl-C is one signal


def test_the_child_ends_with_its_parent(directory: Path) -> None:
    with ReloadingServer(directory) as server, Process(server.children()[0]) as child:
        server.process.kill()
        assert child.ends()
        with pytest.raises(ConnectionRefusedError):
            connect_raw(server.address)


def test_a_child_that_hangs_ends_with_its_parent(directory: Path) -> None:
    (directory / "app.py").write_text(BLOCKS)
    with (
        ReloadingServer(directory) as server,
        Process(server.children()[0]) as child,
        connect_raw(server.address) as sock,
    ):
        assert receive_exactly(sock, 1) == b"1"
        server.process.kill()
        assert child.ends()
        with pytest.raises(ConnectionRefusedError):
            connect_raw(server.address)


@pytest.mark.parametrize("words", [("serve", "app:handler"), ("echo",)])
def test_a_directory_that_is_gone_is_one_line(directory: Path, words: tuple[str, ...]) -> None:
    gone = directory / "gone"
    gone.mkdir()
    script = f'cd {gone} && rmdir {gone} && exec "$@"'
    done = subprocess.run(
        [require_program("sh"), "-c", script, "sh", *command(*words, "--reload")],
        capture_output=True,
        timeout=PATIENCE,
        env=environment(),
    )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["aionet: the current directory is gone"]


def test_a_child_that_is_stopped_is_ended(directory: Path) -> None:
    with ReloadingServer(directory) as server:
        [child] = server.children()
        os.kill(child, signal.SIGSTOP)
        server.signal()
        assert server.ended()[0] == 0


def test_a_third_signal_ends_a_child_that_hangs(directory: Path) -> None:
    (directory / "app.py").write_text(BLOCKS)
    with ReloadingServer(directory) as server, connect_raw(server.address) as sock:
        assert receive_exactly(sock, 1) == b"1"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            server.signal(number)
        assert server.ended()[0] == 128 + signal.SIGKILL
