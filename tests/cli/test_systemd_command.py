"""``aionet serve`` as a systemd service: its sockets, what it tells, and its restarts under the watchdog."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from command_line import (
    PATIENCE,
    AionetServer,
    command,
    connect_raw,
    environment,
    receive_exactly,
    receive_to_end,
)
from helpers import unused_port
from processes import Process

APP = """\
async def upper(socket):
    async for chunk in socket:
        await socket.write(chunk.upper())
"""
MODES = [pytest.param([], id="one process"), pytest.param(["--workers", "2"], id="workers")]

# Passes descriptors as systemd does: from 3 on, with variables that name this very process.
AS_SYSTEMD = 'export LISTEN_PID=$$ WATCHDOG_PID=$$; exec "$@" 3<&{}'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


class Service:
    """A socket unit and a service unit, in short: a listening socket, and a socket for notifications."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(directory / "notify"))
        self._messages: queue.Queue[list[str]] = queue.Queue()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("LISTEN_FDNAMES", "web")
        self._pass_on = os.dup(self.listener.fileno())
        os.set_inheritable(self._pass_on, True)
        self.directory = directory

    def start(self, *arguments: object, bind: str = "systemd:web") -> AionetServer:
        prefix = ["bash", "-c", AS_SYSTEMD.format(self._pass_on), "bash"]
        words = ("serve", "app:upper", "--bind", bind, *arguments)
        return AionetServer(*words, prefix=prefix, cwd=self.directory, pass_fds=[self._pass_on], as_json=True)

    def _read(self) -> None:
        """Read at once, as systemd does: the kernel keeps only a few messages."""
        while message := self.manager.recv(4096):
            self._messages.put(message.decode().split("\n"))

    def next_message(self) -> list[str]:
        return self._messages.get(timeout=PATIENCE)

    def told(self) -> list[str]:
        """The next message that is no sign of life."""
        while (lines := self.next_message()) == ["WATCHDOG=1"]:
            pass
        return lines

    def forget(self) -> None:
        """Drop what has been told so far."""
        while not self._messages.empty():
            self._messages.get()

    def close(self) -> None:
        self.manager.shutdown(socket.SHUT_RDWR)
        self._reading.join()
        os.close(self._pass_on)
        self.listener.close()
        self.manager.close()


@pytest.fixture
def service(directory: Path, monkeypatch: pytest.MonkeyPatch):
    service = Service(directory, monkeypatch)
    yield service
    service.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bind", ["systemd:web", "systemd:"])
def test_a_socket_of_systemds(service: Service, mode: list[str], bind: str) -> None:
    with service.start(*mode, bind=bind) as server:
        assert server.port == service.port
        with connect_raw(server.address) as sock:
            sock.sendall(b"a")
            assert receive_exactly(sock, 1) == b"A"
            sock.shutdown(socket.SHUT_WR)
            assert receive_to_end(sock) == b""  # the server knows that this one has ended
        assert service.told() == ["READY=1", f"STATUS=listening on 127.0.0.1:{service.port}"]
        server.signal()
        assert server.ended()[0] == 0
        assert service.told() == ["STOPPING=1", "STATUS=draining 0 connections"]
    with socket.create_connection(("127.0.0.1", service.port)):
        pass  # systemd's copy still queues


@pytest.mark.parametrize("mode", MODES)
def test_a_restart_moves_the_main_process_and_the_watchdog(
    service: Service, mode: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    with service.start(*mode) as server:
        service.told()
        server.signal(signal.SIGUSR2)
        assert service.told()[0] == "RELOADING=1"
        seen = {event["event"]: event for event in (server.next_event() for _ in range(4))}
        pid = seen["listening"]["pid"]
        assert seen["listening"]["addresses"] == server.addresses
        with Process(pid) as successor:
            told = [service.told(), service.told()]
            assert [f"MAINPID={pid}", "READY=1"] in told
            assert server.process.wait(PATIENCE) == 0
            service.forget()
            assert service.next_message() == ["WATCHDOG=1"]
            successor.signal(signal.SIGTERM)
            assert service.told()[0] == "STOPPING=1"
            assert successor.ends()


def test_a_failed_restart_is_the_end_of_the_reload(service: Service) -> None:
    with service.start() as server:
        service.told()
        (service.directory / "app.py").write_text("1 / 0\n")
        server.signal(signal.SIGHUP)
        assert service.told()[0] == "RELOADING=1"
        assert service.told() == ["READY=1"]
        server.signal()
        assert server.ended()[0] == 0


def test_a_listening_socket_that_breaks_ends_the_service_after_a_drain(service: Service) -> None:
    """The other one's connections finish, and the error says what failed, and where."""
    with service.start("--bind", "127.0.0.1:0") as server, connect_raw(server.addresses[1]) as sock:
        sock.sendall(b"a")
        assert receive_exactly(sock, 1) == b"A"
        service.listener.shutdown(socket.SHUT_RDWR)
        assert server.next_event() == {"event": "draining", "connections": 1, "grace": 30}
        with pytest.raises(ConnectionRefusedError):
            connect_raw(server.addresses[1])
        sock.sendall(b"b")
        assert receive_exactly(sock, 1) == b"B"
        sock.close()
        drained = server.next_event()
        assert (drained["event"], drained["finished"]) == ("drained", 1)
        code, _, errors = server.ended()
    message = f"cannot accept on 127.0.0.1:{service.port}: Invalid argument"
    assert code == 1
    assert [line.partition("aionet.server: ")[2] or line for line in errors.splitlines()] == [
        f"{message}; draining",
        f"aionet: {message}",
    ]


def test_a_listening_socket_that_breaks_restarts_its_worker(service: Service) -> None:
    with service.start("--bind", "127.0.0.1:0", "--workers", "2") as server:
        with connect_raw(server.addresses[1]) as sock:
            sock.sendall(b"a")
            assert receive_exactly(sock, 1) == b"A"
            service.listener.shutdown(socket.SHUT_RDWR)
            server.expect(f"cannot accept on 127.0.0.1:{service.port}: Invalid argument; draining")
            server.expect("takes the place of")  # the other one may have found it listening again
            sock.sendall(b"b")
            assert receive_exactly(sock, 1) == b"B"
        for address in server.addresses * 5:
            with connect_raw(address) as sock:
                sock.sendall(b"c")
                assert receive_exactly(sock, 1) == b"C"
        server.signal()
        assert server.ended()[0] == 0


def run_as_systemd(service: Service, *arguments: str) -> bytes:
    done = subprocess.run(
        [
            "bash",
            "-c",
            AS_SYSTEMD.format(service._pass_on),
            "bash",
            *command("serve", "app:upper", *arguments),
        ],
        cwd=service.directory,
        env=environment(),
        pass_fds=[service._pass_on],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


def test_sockets_that_are_not_asked_for(service: Service) -> None:
    errors = run_as_systemd(service, "--bind", "127.0.0.1:0")
    assert errors == b"aionet: systemd passes sockets named 'web', but nothing is bound to systemd:web\n"


def test_sockets_that_are_not_there(service: Service) -> None:
    errors = run_as_systemd(service, "--bind", "systemd:web", "--bind", "systemd:admin")
    assert b"no socket was passed to this process for systemd:admin" in errors


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("connected", "systemd passes a socket named 'web' that does not listen: set Accept=no"),
        ("datagram", "systemd passes a datagram socket named 'web': expected ListenStream="),
        (
            "packet",
            "systemd passes a socket named 'web' of a kind that is not served: expected ListenStream=",
        ),
    ],
)
def test_a_socket_that_does_not_listen(service: Service, mode: list[str], kind: str, message: str) -> None:
    ends = {
        "connected": lambda: socket.socketpair(),
        "datagram": lambda: (socket.socket(type=socket.SOCK_DGRAM),),
        "packet": lambda: (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),),
    }[kind]()
    os.dup2(ends[0].fileno(), service._pass_on)
    for sock in ends:
        sock.close()
    errors = run_as_systemd(service, "--bind", "systemd:web", *mode).decode()
    assert errors.startswith(f"aionet: {message}")
    assert len(errors.splitlines()) == 1


def test_variables_that_make_no_sense(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "x")
    assert b"aionet: what systemd passes is wrong: LISTEN_FDS='x'" in run_as_systemd(service)


def test_under_systemd_socket_activate(directory: Path) -> None:
    """The real program starts the service at the first connection, which it then serves."""
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd-socket-activate is not installed")
    port = unused_port()
    words = [activate, "-l", f"127.0.0.1:{port}", "--fdname=web", "-E", "PYTHONPATH"]
    with subprocess.Popen(
        [*words, *command("serve", "app:upper", "--bind", "systemd:web")],
        cwd=directory,
        env=environment(),
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    sock = connect_raw(f"127.0.0.1:{port}")
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
            with sock:
                sock.sendall(b"a")
                assert receive_exactly(sock, 1) == b"A"
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0


DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"


def test_the_sample_units_are_right(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for name in ("aionet.service", "aionet.socket"):
        text = (DEPLOY / name).read_text()
        # The program of the sample is where its user will install it; here any program does.
        (tmp_path / name).write_text(text.replace("/opt/app/.venv/bin/aionet", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", "--man=no", tmp_path / "aionet.service", tmp_path / "aionet.socket"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "aionet." in line]
    assert (complaints, done.returncode) == ([], 0), done.stderr
