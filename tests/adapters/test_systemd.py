"""systemd's side of the bargain, played by raw sockets and, where they are installed, by its own programs."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aionet.adapters.systemd import Notifier, inherited_listeners

ADDRESSES = ["path", "@abstract"]


class Manager:
    """A datagram socket at NOTIFY_SOCKET."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = str(directory / "notify") if kind == "path" else f"@aionet-test-{os.getpid()}"
        self.sock.bind(self.address.replace("@", "\0") if kind != "path" else self.address)
        self.sock.settimeout(5)

    def lines(self) -> list[str]:
        return self.sock.recv(4096).decode().split("\n")


@pytest.fixture(params=ADDRESSES)
def manager(request, tmp_path, monkeypatch):
    manager = Manager(tmp_path, request.param)
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with manager.sock:
        yield manager


# Messages -----------------------------------------------------------------------------------------------


def test_each_message_is_one_datagram(manager):
    notifier = Notifier.from_environment()
    assert notifier.ready("serving\non :80")
    assert manager.lines() == ["READY=1", "STATUS=serving on :80"]
    assert notifier.stopping()
    assert manager.lines() == ["STOPPING=1"]
    assert notifier.status("7 connections")
    assert manager.lines() == ["STATUS=7 connections"]
    assert notifier.main_process(17)
    assert manager.lines() == ["MAINPID=17"]
    assert notifier.notify("ERRNO=2", "STATUS=x")
    assert manager.lines() == ["ERRNO=2", "STATUS=x"]


def test_a_reload_carries_the_time(manager):
    before = time.monotonic_ns() // 1000
    Notifier.from_environment().reloading()
    first, second = manager.lines()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_without_a_socket_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not Notifier.from_environment().ready()


def test_a_manager_that_has_gone_is_no_error(tmp_path, caplog):
    assert not Notifier(str(tmp_path / "gone")).ready()
    assert "cannot tell systemd READY=1: No such file" in caplog.text


def test_a_manager_that_does_not_read_holds_nobody_for_long(manager, caplog):
    notifier = Notifier.from_environment()
    while notifier.notify("STATUS=full", patience=0):
        pass
    assert not notifier.notify("READY=1", patience=0.01)
    assert "cannot tell systemd READY=1: it does not read" in caplog.text


@pytest.mark.parametrize("line", ["READY", "STATUS=a\nREADY=1"])
def test_a_line_is_one_line(line):
    with pytest.raises(ValueError, match="NAME=value"):
        Notifier(None).notify(line)


# The watchdog -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_signs_of_life_come_from_the_loop(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier.from_environment()
    started = time.monotonic()
    notifier.watch()
    notifier.watch()  # a second time changes nothing
    for _ in range(4):
        assert await asyncio.to_thread(manager.lines) == ["WATCHDOG=1"]
    assert time.monotonic() - started >= 0.02  # three pauses of 10 ms, by timers that round
    manager.sock.setblocking(False)
    time.sleep(0.05)  # the loop is stuck, and systemd is to notice
    with pytest.raises(BlockingIOError):
        manager.lines()
    notifier.stop_watching()
    notifier.stop_watching()


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_watchdog_for_somebody_else(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    Notifier.from_environment().watch()
    manager.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.lines()


@pytest.mark.parametrize("value", ["", "soon", "-1", "0", "²"])
def test_a_time_that_is_none(monkeypatch, value):
    monkeypatch.setenv("WATCHDOG_USEC", value)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with pytest.raises(ValueError, match="WATCHDOG_USEC"):
        Notifier.from_environment()


# Sockets ------------------------------------------------------------------------------------------------

CHILD = """
import os, sys
if sys.argv[1] == "me":
    os.environ["LISTEN_PID"] = str(os.getpid())
from aionet.adapters.systemd import inherited_listeners
try:
    found = inherited_listeners()
except (ValueError, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
for name, sockets in found.items():
    for sock in sockets:
        print(name, sock.fileno(), sock.getsockname()[1], os.get_inheritable(sock.fileno()))
        sock.close()
print(sorted(name for name in os.environ if name.startswith("LISTEN_")), inherited_listeners())
"""


def child(sockets: list[socket.socket], whose: str = "me", **variables: str) -> subprocess.CompletedProcess:
    """Run CHILD with `sockets` from descriptor 3 on, as systemd does it."""
    redirect = " ".join(f"{3 + n}<&{sock.fileno()}" for n, sock in enumerate(sockets))
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirect}', "bash", sys.executable, "-W", "error", "-c", CHILD, whose],
        pass_fds=[sock.fileno() for sock in sockets],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.fixture
def listeners():
    found = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    high = [socket.socket(fileno=os.dup(sock.fileno())) for sock in found]
    yield high
    for sock in found + high:
        sock.close()


def test_sockets_by_name(listeners):
    done = child(listeners, LISTEN_FDS="3", LISTEN_FDNAMES="web:admin:web", LISTEN_PIDFDID="5")
    ports = [sock.getsockname()[1] for sock in listeners]
    assert done.stdout.splitlines() == [
        f"web 3 {ports[0]} False",
        f"web 5 {ports[2]} False",
        f"admin 4 {ports[1]} False",
        "[] {}",
    ], done.stderr


def test_sockets_without_names(listeners):
    done = child(listeners[:1], LISTEN_FDS="1")
    assert done.stdout.startswith("unknown 3 "), done.stderr


def test_sockets_for_another_process_are_left_alone(listeners):
    done = child(listeners, "another", LISTEN_FDS="3", LISTEN_PID="1")
    assert done.stdout.splitlines() == ["['LISTEN_FDS', 'LISTEN_PID'] {}"], done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LISTEN_FDS": "two"}, "ValueError: LISTEN_FDS='two'"),
        ({"LISTEN_FDS": "-1"}, "ValueError: LISTEN_FDS='-1'"),
        ({}, "ValueError: LISTEN_FDS=''"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, "ValueError: LISTEN_FDNAMES has 2 names for 1"),
        ({"LISTEN_FDS": "99"}, "from systemd: Bad file descriptor"),
    ],
)
def test_variables_that_make_no_sense(listeners, variables, message):
    done = child(listeners[:1], **variables)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_variables():
    environment: dict[str, str] = {}
    assert inherited_listeners(environment) == {}


# systemd's own programs ---------------------------------------------------------------------------------


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def test_what_systemd_notify_sends_is_what_we_send(manager):
    """The real program and ours, to the same socket."""
    subprocess.run(
        [program("systemd-notify"), "--no-block", "--status=fine", "--ready"], timeout=20, check=True
    )
    theirs = manager.lines()
    Notifier.from_environment().ready("fine")
    assert set(manager.lines()) <= set(theirs)


def test_systemd_socket_activate_passes_named_sockets(tmp_path):
    """The real program starts its child at the first connection, so one is made."""
    path = tmp_path / "sock"
    command = [program("systemd-socket-activate"), "-l", str(path), "--fdname=web", "-E", "PYTHONPATH"]
    show = (
        "from aionet.adapters.systemd import inherited_listeners as f\n"
        "for name, (sock,) in f().items(): print(name, sock.getsockname()); sock.close()"
    )
    with subprocess.Popen(
        [*command, sys.executable, "-c", show], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 10
        with socket.socket(socket.AF_UNIX) as sock:
            while sock.connect_ex(str(path)):
                assert time.monotonic() < deadline
            assert process.stdout is not None
            assert process.stdout.readline() == f"web {path}\n"
        assert process.wait(10) == 0
