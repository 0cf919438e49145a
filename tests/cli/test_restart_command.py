"""Restarting ``aionet serve``: by SIGUSR2 and by ``--replace``, and what becomes of it when it fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import PATIENCE, AionetServer, aionet, connect_raw, receive_exactly, receive_to_end
from processes import Process

pytestmark = pytest.mark.slow

APP = """\
async def upper(socket):
    async for chunk in socket:
        await socket.write(chunk.upper())
"""
NEW_APP = APP.replace("chunk.upper()", "chunk * 2")
MODES = [pytest.param([], id="one process"), pytest.param(["--workers", "2"], id="workers")]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def serving(directory: Path, *more: object, bind: str = "127.0.0.1:0") -> AionetServer:
    arguments = ("serve", "app:upper", "--bind", bind, "--control", directory / "control")
    return AionetServer(*arguments, *more, cwd=directory)


def answer(sock: socket.socket, data: bytes, length: int) -> bytes:
    sock.sendall(data)
    return receive_exactly(sock, length)


def events_until(server: AionetServer, *names: str) -> dict[str, Any]:
    """Read events until all of these have been seen."""
    seen: dict[str, Any] = {}
    while not set(names) <= seen.keys():
        event = server.next_event()
        seen[event["event"]] = event
    return seen


def control(directory: Path, message: bytes) -> bytes:
    """What is answered at the control socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(directory / "control"))
        sock.sendall(message)
        return receive_to_end(sock)


# Restarts that succeed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_the_successor_serves_and_the_old_one_finishes(
    directory: Path, mode: list[str], number: signal.Signals
) -> None:
    if mode and number == signal.SIGHUP:
        pytest.skip("renews the workers only")
    with serving(directory, *mode) as server, connect_raw(server.address) as sock:
        assert answer(sock, b"a", 1) == b"A"
        (directory / "app.py").write_text(NEW_APP)
        server.signal(number)
        seen = events_until(server, "listening", "handed over", "draining")
        assert seen["listening"]["addresses"] == server.addresses
        assert seen["handed over"] == {
            "event": "handed over",
            "pid": server.process.pid,
            "to": seen["listening"]["pid"],
        }
        with Process(seen["listening"]["pid"]) as successor:
            with connect_raw(server.address) as other:
                assert answer(other, b"b", 2) == b"bb"
            assert answer(sock, b"c", 1) == b"C"
            sock.close()
            assert events_until(server, "drained")["drained"]["finished"] == 1
            assert server.process.wait(PATIENCE) == 0
            assert json.loads(control(directory, b'{"want": "status"}\n'))["pid"] == successor.pid
            successor.signal(signal.SIGTERM)
            assert successor.ends()
        assert "Traceback" not in server.ended()[2]
        assert not (directory / "control").exists()


@pytest.mark.parametrize("mode", MODES)
def test_replace(directory: Path, mode: list[str]) -> None:
    """From one process to one or several."""
    with serving(directory) as old, serving(directory, *mode, "--replace") as new:
        assert new.addresses == old.addresses
        code, output, _ = old.ended()
        assert code == 0
        assert [json.loads(line)["event"] for line in output.splitlines()] == [
            "handed over",
            "draining",
            "drained",
        ]
        with connect_raw(new.address) as sock:
            assert answer(sock, b"a", 1) == b"A"
        new.signal()
        assert new.ended()[0] == 0
    assert not (directory / "control").exists()


def test_from_many_workers_to_one_process_and_to_other_addresses(directory: Path) -> None:
    """Every queue gets a worker, new addresses are bound, and those no longer wanted are closed."""
    more = ("--bind", "127.0.0.2:0")
    with (
        serving(directory, *more, "--workers", "3") as old,
        serving(directory, "--bind", "127.0.0.3:0", "--replace") as new,
    ):
        assert old.ended()[0] == 0
        assert new.addresses[0] == old.addresses[0]
        assert new.addresses[1].startswith("127.0.0.3:")
        for _ in range(12):
            with connect_raw(new.address) as sock:
                assert answer(sock, b"a", 1) == b"A"
        with pytest.raises(ConnectionRefusedError):
            connect_raw(old.addresses[1])


def test_a_socket_file_stays_until_the_last_one_ends(directory: Path) -> None:
    path = directory / "sock"
    with serving(directory, bind=f"unix:{path}") as old:
        inode = path.stat().st_ino
        with serving(directory, "--replace", bind=f"unix:{path}") as new:
            assert old.ended()[0] == 0
            assert path.stat().st_ino == inode
            with connect_raw(new.address) as sock:
                assert answer(sock, b"a", 1) == b"A"
            new.signal()
            assert new.ended()[0] == 0
    assert not path.exists()


@pytest.mark.parametrize(
    "more", [["--loop", "asyncio"], ["--loop", "uvloop"], ["--workers", "2"]], ids=" ".join
)
def test_the_successor_serves_the_metrics(directory: Path, more: list[str]) -> None:
    """They are at the same port, and count from the restart on."""
    pytest.importorskip("prometheus_client")

    def scrape(address: str) -> str:
        with connect_raw(address) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return receive_to_end(sock).decode()

    with serving(directory, "--metrics", "127.0.0.1:0", *more) as old:
        old.signal(signal.SIGUSR2)
        seen = events_until(old, "listening", "drained")
        assert seen["listening"]["metrics"] == old.metrics
        with Process(seen["listening"]["pid"]) as successor:
            assert old.process.wait(PATIENCE) == 0
            for _ in range(3):
                assert scrape(seen["listening"]["metrics"]).startswith("HTTP/1.1 200")
            with connect_raw(old.address) as sock:
                assert answer(sock, b"a", 1) == b"A"
            successor.signal(signal.SIGTERM)
            assert successor.ends()


def test_replace_without_anybody_to_replace(directory: Path) -> None:
    with serving(directory, "--replace") as server:
        server.expect("nobody to replace")
        with connect_raw(server.address) as sock:
            assert answer(sock, b"a", 1) == b"A"


def test_a_successor_goes_on_when_its_predecessor_is_killed_before_the_last_word(directory: Path) -> None:
    """The test plays the predecessor, which gives nothing away and dies."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "control"))
        listener.listen()
        listener.settimeout(PATIENCE)
        server = serving(directory, "--replace")
        try:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(PATIENCE)
                assert receive_exactly(peer, 22) == b'{"want": "listeners"}\n'
                peer.sendall(b'{"all": true}\n')
                assert receive_exactly(peer, 16) == b'{"ready": true}\n'
            listener.close()
            with server:
                server.expect("serving in its place")
        finally:
            server.__exit__(None, None, None)


# Restarts that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_successor_that_fails_changes_nothing(directory: Path, mode: list[str]) -> None:
    with serving(directory, *mode) as server:
        (directory / "app.py").write_text("1 / 0\n")
        server.signal(signal.SIGUSR2)
        server.expect("ZeroDivisionError")
        server.expect("does not serve, going on: it ended before")
        with connect_raw(server.address) as sock:
            assert answer(sock, b"a", 1) == b"A"
        server.signal()
        assert server.ended()[0] == 0


def test_a_successor_that_is_late_is_killed(directory: Path) -> None:
    with serving(directory, "--start-timeout", 2) as server:
        late = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)\n"
        (directory / "app.py").write_text(late)
        server.signal(signal.SIGUSR2)
        assert server.process.stdout is not None
        with Process(int(server.process.stdout.readline())) as successor:
            server.expect("going on: it was not ready in time")
            assert successor.ends()
        with connect_raw(server.address) as sock:
            assert answer(sock, b"a", 1) == b"A"
        server.signal()
        assert server.ended()[0] == 0


def test_a_signal_ends_a_successor_that_does_not_serve_yet(directory: Path) -> None:
    with serving(directory) as server:
        (directory / "app.py").write_text(
            "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)\n"
        )
        server.signal(signal.SIGUSR2)
        assert server.process.stdout is not None
        with Process(int(server.process.stdout.readline())) as successor:
            server.signal()
            assert successor.ends()
        assert server.ended()[0] == 0


def test_a_second_server_at_the_same_control_socket(directory: Path) -> None:
    with serving(directory):
        done = aionet("serve", "app:upper", "--bind", ":0", "--control", directory / "control", cwd=directory)
    assert done.returncode == 1
    assert b"another server has it" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--replace"], 1, "--replace needs --control"),
        (["--control", ""], 2, "argument --control: '': expected the path of a file"),
    ],
)
def test_arguments_that_do_not_go_together(
    directory: Path, arguments: list[str], code: int, message: str
) -> None:
    done = aionet("serve", "app:upper", "--bind", "127.0.0.1:0", *arguments, cwd=directory)
    assert done.returncode == code
    assert message in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


# The control socket -------------------------------------------------------------------------------------


def test_the_control_socket_is_private(directory: Path) -> None:
    with serving(directory):
        mode = (directory / "control").stat().st_mode
        assert stat.filemode(mode) == "srw-------"


CONNECT = """\
import socket, sys
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
    sock.sendall(b'{"want": "listeners"}\\n')
    print(sock.recv(1000))
except OSError as error:
    print(type(error).__name__)
"""


def as_nobody(program: str, *arguments: object) -> str:
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", program, *map(str, arguments)],
        user=NOBODY,
        group=NOBODY,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if "Permission denied" in done.stderr or done.returncode:
        pytest.skip(f"another user cannot run Python here: {done.stderr}")
    return done.stdout.strip()


@pytest.fixture
def open_directory():
    """A directory that every user can go through."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        os.chmod(path, 0o755)
        (Path(path) / "app.py").write_text(APP)
        yield Path(path)


@as_root
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_another_user_gets_nothing(open_directory: Path, mode: int) -> None:
    """Neither by the mode of the file nor, where somebody has opened that, by their credentials."""
    with serving(open_directory) as server:
        os.chmod(open_directory / "control", mode)
        said = as_nobody(CONNECT, open_directory / "control")
        shut_out = {0o600: {"PermissionError"}, 0o666: {"b''", "BrokenPipeError", "ConnectionResetError"}}
        assert said in shut_out[mode]
        if mode == 0o666:
            server.expect(f"control socket: refused a process of user {NOBODY}")
        with connect_raw(server.address) as sock:
            assert answer(sock, b"a", 1) == b"A"


LISTEN = """\
import os, socket, sys
os.umask(0)
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
print("listening", flush=True)
peer, _ = sock.accept()
print(peer.recv(100), flush=True)
"""


@as_root
def test_another_users_socket_is_not_believed(open_directory: Path) -> None:
    os.chmod(open_directory, 0o777)
    impostor = subprocess.Popen(
        ["/usr/bin/env", "python3", "-c", LISTEN, open_directory / "control"],
        user=NOBODY,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert impostor.stdout is not None
        if impostor.stdout.readline() != b"listening\n":
            pytest.skip("another user cannot run Python here")
        done = aionet(
            *("serve", "app:upper", "--bind", "127.0.0.1:0", "--control", open_directory / "control"),
            "--replace",
            cwd=open_directory,
        )
        assert done.returncode == 1
        assert b"belongs to another user" in done.stderr
        assert impostor.stdout.readline() == b"b''\n"
    finally:
        impostor.kill()
        impostor.wait()
        impostor.stdout.close()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b'{"want": "everything"}\n', b'{"abort": "expected a want of'),
        (b'{"go": true}\n', b'{"abort": "expected a want of'),
        (b'{"want": ["status"]}\n', b'{"abort": "expected a want of'),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"[[[[[\n", b""),
        (b'{"want": ' + 100_000 * b"[" + b"\n", b""),
    ],
    ids=["unknown", "too early", "no text", "HTTP", "no JSON", "nested deeply"],
)
def test_nonsense_at_the_control_socket(directory: Path, message: bytes, expected: bytes) -> None:
    with serving(directory) as server:
        try:
            assert control(directory, message).startswith(expected)
        except ConnectionResetError:  # it did not read all of it
            assert expected == b""
        with connect_raw(server.address) as sock:
            assert answer(sock, b"a", 1) == b"A"
        assert b'"pid"' in control(directory, b'{"want": "status"}\n')
        server.signal()
        assert "never retrieved" not in server.ended()[2]


@pytest.mark.parametrize("word", ["nothing", "ready"])
@pytest.mark.parametrize("how", ["signal", "replace"])
def test_a_client_that_stalls_delays_no_restart(directory: Path, word: str, how: str) -> None:
    with serving(directory) as server, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(directory / "control"))
        sock.sendall(b'{"want": "listeners"}\n')
        while b'{"all": true}\n' not in sock.recv(4096):
            pass
        if word == "ready":
            sock.sendall(b'{"ready": true}\n')
            assert receive_exactly(sock, 13) == b'{"go": true}\n'
        assert b'"pid"' in control(directory, b'{"want": "status"}\n')
        if how == "signal":
            server.signal(signal.SIGUSR2)
            with Process(events_until(server, "listening", "handed over")["listening"]["pid"]) as successor:
                successor.signal(signal.SIGTERM)
                assert successor.ends()
        else:
            with serving(directory, "--replace") as new:
                assert new.addresses == server.addresses
                assert server.ended()[0] == 0
        assert b'"abort"' in receive_to_end(sock)


@pytest.mark.parametrize("word", ["nothing", "ready"])
def test_a_successor_that_leaves_changes_nothing(directory: Path, word: str) -> None:
    """It has its copies of the listening sockets, and they do no harm."""
    with serving(directory) as server:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(directory / "control"))
            sock.sendall(b'{"want": "listeners"}\n')
            received = b""
            fds: list[int] = []
            while b'{"all": true}\n' not in received:
                data, more, _, _ = socket.recv_fds(sock, 4096, 10)
                received += data
                fds += more
            if word == "ready":
                sock.sendall(b'{"ready": true}\n')
                assert receive_exactly(sock, 13) == b'{"go": true}\n'
        for fd in fds:
            os.close(fd)
        server.expect("does not serve, going on")
        with connect_raw(server.address) as client:
            assert answer(client, b"a", 1) == b"A"
        server.signal()
        assert server.ended()[0] == 0
    assert not (directory / "control").exists()


def test_many_who_say_nothing_do_not_keep_anybody_out(directory: Path) -> None:
    with serving(directory) as server:
        silent = []
        try:
            for _ in range(30):
                sock = socket.socket(socket.AF_UNIX)
                silent.append(sock)
                sock.connect(str(directory / "control"))
            server.expect("control socket: refused")
        finally:
            for sock in silent:
                sock.close()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if b'"pid"' in control(directory, b'{"want": "status"}\n'):
                    break
            except OSError:
                pass
            assert time.monotonic() < deadline
        assert sys.platform == "linux"
