"""``aionet connect``: whatever standard input and output are, and however the peer ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import pty
import queue
import random
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    PATIENCE,
    AionetServer,
    aionet,
    aionet_here,
    command,
    environment,
    receive_exactly,
    receive_to_end,
)
from helpers import ENGINES, require_program, until

both_loops = pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.slow)])


class Peer:
    """A server that takes one connection and treats it in a thread, as a function says."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], Any]) -> None:
        self.result: Any = None
        self._listener = listener
        self._serve = serve
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(PATIENCE)
            self.result = self._serve(sock)

    def end(self) -> Any:
        """Wait for the function to return; what it returned."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.result


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(PATIENCE)
        yield sock


def name_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


def is_reset(sock: socket.socket) -> bool:
    try:
        sock.recv(1)
    except ConnectionResetError:
        return True
    return False


def collect(sock: socket.socket) -> bytes:
    """Take everything, answer at the end."""
    data = receive_to_end(sock)
    sock.sendall(b"got %d" % len(data))
    return data


def start(address: str, *more: object, **options: Any) -> subprocess.Popen[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    environ = environment(**options.pop("env", {}))
    return subprocess.Popen(command("connect", address, *more), env=environ, **options)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# Standard input -----------------------------------------------------------------------------------------


@both_loops
def test_a_pipe_is_sent_to_its_end_and_then_half_closed(listener: socket.socket, loop: str) -> None:
    data = bytes(range(256)) * 8192  # more than any buffer on the way
    peer = Peer(listener, collect)
    done = aionet("connect", name_of(listener), "--loop", loop, input=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"got %d" % len(data)
    assert peer.end() == data


@both_loops
def test_a_file_is_sent(listener: socket.socket, tmp_path: Path, loop: str) -> None:
    data = random.Random(1).randbytes(1 << 20)
    (tmp_path / "file").write_bytes(data)
    peer = Peer(listener, collect)
    with (tmp_path / "file").open("rb") as file:
        done = aionet("connect", name_of(listener), "--loop", loop, stdin=file)
    assert (done.returncode, done.stdout) == (0, b"got %d" % len(data))
    assert peer.end() == data


@both_loops
def test_nothing_is_an_end_at_once(listener: socket.socket, loop: str) -> None:
    peer = Peer(listener, collect)
    done = aionet("connect", name_of(listener), "--loop", loop, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, b"got 0")
    assert peer.end() == b""


def closing(*numbers: int) -> list[str]:
    """A shell that closes descriptors and then becomes what follows."""
    closed = " ".join(f"{number}>&-" for number in numbers)
    return [require_program("sh"), "-c", f'exec "$@" {closed}', "sh"]


def test_a_closed_standard_input_is_an_end_at_once(listener: socket.socket) -> None:
    peer = Peer(listener, collect)
    done = subprocess.run(
        [*closing(0), *command("connect", name_of(listener))],
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"got 0", b"")
    assert peer.end() == b""


def test_a_closed_standard_output_is_told(listener: socket.socket) -> None:
    peer = Peer(listener, lambda sock: sock.sendall(b"data"))
    done = subprocess.run(
        [*closing(0, 1), *command("connect", name_of(listener))],
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=PATIENCE,
    )
    peer.end()
    assert done.returncode == 1
    assert done.stderr == b"aionet: cannot write standard output: Bad file descriptor\n"


@both_loops
def test_a_terminal(listener: socket.socket, loop: str) -> None:
    """Line by line, until Ctrl-D; descriptors stay blocking."""
    peer = Peer(listener, collect)
    keyboard, terminal = pty.openpty()
    try:
        with start(name_of(listener), "--loop", loop, stdin=terminal) as process:
            os.write(keyboard, b"first line\nsecond line\n\x04")
            assert process.stdout is not None
            assert process.stdout.read() == b"got 23"
            assert process.wait(PATIENCE) == 0
            assert not fcntl.fcntl(terminal, fcntl.F_GETFL) & os.O_NONBLOCK
        assert peer.end() == b"first line\nsecond line\n"
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_a_standard_input_that_somebody_made_non_blocking(listener: socket.socket) -> None:
    peer = Peer(listener, collect)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with start(name_of(listener), stdin=reading) as process:
        os.close(reading)
        os.write(writing, b"slowly, ")
        os.write(writing, b"but surely")
        os.close(writing)
        assert process.wait(PATIENCE) == 0
    assert peer.end() == b"slowly, but surely"


def test_a_standard_input_that_cannot_be_read_is_one_line(listener: socket.socket, tmp_path: Path) -> None:
    peer = Peer(listener, is_reset)
    with (tmp_path / "file").open("wb") as for_writing:
        done = aionet("connect", name_of(listener), stdin=for_writing)
    assert peer.end()
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"aionet: cannot read standard input: Bad file descriptor\n"


@both_loops
def test_question_and_answer(listener: socket.socket, loop: str) -> None:
    """Nothing waits for the end of the input or for a full buffer."""

    def answer(sock: socket.socket) -> None:
        for _ in range(20):
            sock.sendall(receive_exactly(sock, 3).upper())
        assert sock.recv(1) == b""

    peer = Peer(listener, answer)
    with start(name_of(listener), "--loop", loop, stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(20):
            process.stdin.write(b"abc")
            assert process.stdout.read(3) == b"ABC"
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    peer.end()


# Standard output ----------------------------------------------------------------------------------------


@both_loops
def test_a_blocked_standard_output_does_not_stall_the_input(listener: socket.socket, loop: str) -> None:
    flood = random.Random(2).randbytes(16 << 20)
    size = 8 << 20

    def serve(sock: socket.socket) -> bytes:
        sending = threading.Thread(target=sock.sendall, args=(flood,))
        sending.start()
        received = receive_exactly(sock, size)
        all_arrived.set()
        sending.join()
        return received

    all_arrived = threading.Event()
    peer = Peer(listener, serve)
    data = random.Random(3).randbytes(size)
    with start(name_of(listener), "--loop", loop, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data)
        process.stdin.close()
        assert all_arrived.wait(PATIENCE)  # though nobody has read any output
        assert process.stdout.read() == flood
        assert process.wait(PATIENCE) == 0
    assert peer.end() == data


def test_a_reader_that_leaves_is_no_cause_for_words(listener: socket.socket) -> None:
    def flood(sock: socket.socket) -> None:
        with pytest.raises(ConnectionError):
            sock.sendall(bytes(256 << 20))

    peer = Peer(listener, flood)
    with start(name_of(listener), stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(10)) == 10
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 1
    peer.end()


def test_a_full_disk_is_one_line(listener: socket.socket) -> None:
    peer = Peer(listener, lambda sock: sock.sendall(b"data"))
    with (
        open("/dev/full", "wb") as full,
        start(name_of(listener), stdin=subprocess.DEVNULL, stdout=full) as it,
    ):
        _, errors = it.communicate(timeout=PATIENCE)
    peer.end()
    assert it.returncode == 1
    assert errors == b"aionet: cannot write standard output: No space left on device\n"


# Endings ------------------------------------------------------------------------------------------------


@both_loops
def test_at_a_terminal_it_ends_when_the_peer_ends(listener: socket.socket, loop: str) -> None:
    peer = Peer(listener, lambda sock: sock.sendall(b"goodbye"))
    held, given = pty.openpty()
    try:
        with start(name_of(listener), "--loop", loop, stdin=given) as process:
            output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, output, errors) == (0, b"goodbye", b"")
    finally:
        os.close(held)
        os.close(given)
    peer.end()


def end_then_read(sock: socket.socket) -> bytes:
    sock.sendall(b"goodbye")
    sock.shutdown(socket.SHUT_WR)
    return receive_to_end(sock)


def serve_over_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


@both_loops
@pytest.mark.parametrize("kind", ["TCP", "UNIX"])
def test_a_slow_producer_is_sent_to_its_end_to_a_peer_that_ended_first(
    listener: socket.socket, tmp_path: Path, loop: str, kind: str
) -> None:
    arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def end_then_read_part_by_part(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(100):
            arrived.put(data)

    with contextlib.ExitStack() as stack:
        address = name_of(listener)
        if kind == "UNIX":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(f"{tmp_path}/socket")
            listener.listen()
            address = f"unix:{tmp_path}/socket"
        peer = Peer(listener, end_then_read_part_by_part)
        process = stack.enter_context(start(address, "--loop", loop, stdin=subprocess.PIPE, bufsize=0))
        assert process.stdin is not None
        for number in range(6):
            process.stdin.write(b"part %d" % number)
            assert arrived.get(timeout=PATIENCE) == b"part %d" % number
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
        peer.end()


def test_a_slow_producer_to_nc(tmp_path: Path) -> None:
    """``nc -N -l </dev/null`` ends its direction at once, and continues to read."""
    words = [require_program("nc"), "-N", "-l", "-U", tmp_path / "socket"]
    with contextlib.ExitStack() as stack:
        nc = stack.enter_context(
            subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
        )
        stack.callback(nc.kill)
        asyncio.run(until((tmp_path / "socket").exists, PATIENCE))
        process = stack.enter_context(start(f"unix:{tmp_path}/socket", stdin=subprocess.PIPE, bufsize=0))
        assert process.stdin is not None
        assert nc.stdout is not None
        for number in range(6):
            process.stdin.write(b"part %d" % number)
            assert nc.stdout.read(6) == b"part %d" % number
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
        assert nc.wait(PATIENCE) == 0


def lost(address: str, errors: bytes) -> bool:
    """Whether it is one line, which says that the connection was lost."""
    start_of_line = f"aionet: the connection to {address} was lost: "
    return errors.decode().startswith(start_of_line) and len(errors.splitlines()) == 1


@both_loops
@pytest.mark.parametrize("number", [0, 2], ids=["first", "third"])
def test_what_a_peer_that_has_closed_does_not_take_is_an_error(
    listener: socket.socket, loop: str, number: int
) -> None:
    """It greets and closes. The last part is the first one that it refuses, or one later."""
    peer = Peer(listener, lambda sock: sock.sendall(b"hello"))
    with start(name_of(listener), "--loop", loop, stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(5) == b"hello"
        peer.end()
        with contextlib.suppress(BrokenPipeError):  # it ends as soon as it knows
            for _ in range(number + 1):
                process.stdin.write(b"late")
            process.stdin.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(PATIENCE) == 1
    assert lost(name_of(listener), errors), errors
    assert b"not connected" not in errors


@both_loops
def test_input_that_the_peer_leaves_unread_is_an_error(listener: socket.socket, loop: str) -> None:
    """All of it is written before the peer closes, which leaves it unread."""
    read = threading.Event()

    def greet(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        assert read.wait(PATIENCE)
        assert receive_exactly(sock, 1) == b"x"

    peer = Peer(listener, greet)
    with start(name_of(listener), "--loop", loop, stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(5) == b"hello"
        process.stdin.write(b"x and more")
        process.stdin.close()
        read.set()
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        errors = process.stderr.read()
    peer.end()
    assert lost(name_of(listener), errors), errors


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_peer_leaves_unread_in_a_unix_socket_is_an_error(tmp_path: Path, engine: str) -> None:
    """The peer ends its direction, and closes when the input has arrived, without reading it."""

    def end_then_close(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1, socket.MSG_PEEK)

    address = f"unix:{tmp_path}/socket"
    with (
        serve_over_unix(tmp_path / "socket") as listener,
        start(address, stdin=subprocess.PIPE, bufsize=0, env={"AIONET_ENGINE": engine}) as process,
    ):
        peer = Peer(listener, end_then_close)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(5) == b"hello"
        process.stdin.write(b"one\n")
        peer.end()
        process.stdin.close()
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        errors = process.stderr.read()
    assert lost(address, errors), errors


@both_loops
def test_nothing_sent_to_a_peer_that_greets_and_closes_is_no_loss(listener: socket.socket, loop: str) -> None:
    peer = Peer(listener, lambda sock: sock.sendall(b"hello"))
    done = aionet("connect", name_of(listener), "--loop", loop)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")
    peer.end()


@both_loops
def test_what_is_ready_is_sent_to_a_peer_that_ended_first(
    listener: socket.socket, tmp_path: Path, loop: str
) -> None:
    """The end of the peer's stream does not mean that it has stopped reading."""
    data = random.Random(4).randbytes(8 << 20)
    (tmp_path / "file").write_bytes(data)
    peer = Peer(listener, end_then_read)
    with (tmp_path / "file").open("rb") as file:
        done = aionet("connect", name_of(listener), "--loop", loop, stdin=file)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"goodbye", b"")
    assert peer.end() == data


@both_loops
def test_a_lost_connection_is_told_after_its_last_bytes(listener: socket.socket, loop: str) -> None:
    def leave(sock: socket.socket) -> None:
        sock.sendall(b"last words")
        receive_exactly(sock, 1)
        reset(sock)

    peer = Peer(listener, leave)
    with start(name_of(listener), "--loop", loop, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(10) == b"last words"
        output, errors = process.communicate(b"x", timeout=PATIENCE)
    peer.end()
    assert (process.returncode, output) == (1, b"")
    assert (
        errors.decode()
        == f"aionet: the connection to {name_of(listener)} was lost: Connection reset by peer\n"
    )


def test_a_peer_that_is_gone_while_we_send_is_told(listener: socket.socket, tmp_path: Path) -> None:
    def leave(sock: socket.socket) -> None:
        receive_exactly(sock, 1)
        reset(sock)

    peer = Peer(listener, leave)
    with open("/dev/zero", "rb") as endless:
        done = aionet("connect", name_of(listener), stdin=endless)
    peer.end()
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"aionet: the connection to {name_of(listener)} was lost: ")
    assert len(done.stderr.splitlines()) == 1


@both_loops
@pytest.mark.parametrize("output", ["read", "blocked"])
def test_control_c(listener: socket.socket, loop: str, output: str) -> None:
    connected = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"x" if output == "read" else bytes(1 << 20))
        connected.set()
        try:
            while sock.recv(65536):
                pass
        except ConnectionResetError:
            pass

    peer = Peer(listener, serve)
    with start(name_of(listener), "--loop", loop, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        assert connected.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    peer.end()


# Addresses ----------------------------------------------------------------------------------------------


def test_a_unix_address(tmp_path: Path) -> None:
    with AionetServer("echo", "--bind", f"unix:{tmp_path}/echo") as server:
        done = aionet("connect", server.address, input=b"over Unix")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"over Unix", b"")


@pytest.mark.parametrize("kind", ["TCP", "UNIX"])
def test_a_socat_server(kind: str, tmp_path: Path) -> None:
    socat = require_program("socat")
    data = random.Random(5).randbytes(1 << 20)
    digest = require_program("sha256sum")
    listen = "TCP-LISTEN:0,bind=127.0.0.1" if kind == "TCP" else f"UNIX-LISTEN:{tmp_path}/sock"
    server = subprocess.Popen([socat, "-d", "-d", "-t10", listen, f"EXEC:{digest}"], stderr=subprocess.PIPE)
    try:
        assert server.stderr is not None
        line = server.stderr.readline().decode()
        assert "listening on" in line
        address = line.split()[-1] if kind == "TCP" else f"unix:{tmp_path}/sock"
        done = aionet("connect", address, input=data)
    finally:
        server.kill()
        server.communicate()
    assert done.returncode == 0
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:1", "Connection refused"), ("unix:/nowhere/at/all", "No such file or directory")],
)
def test_nobody_there_is_one_line(address: str, reason: str) -> None:
    done = aionet("connect", address)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"aionet: cannot connect to {address}: {reason}\n"


def test_a_name_without_address_is_one_line() -> None:
    done = aionet("connect", "no-such-host.invalid:80")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith("aionet: cannot resolve 'no-such-host.invalid': ")
    assert len(done.stderr.splitlines()) == 1


def test_connecting_takes_no_longer_than_the_timeout(tmp_path: Path) -> None:
    """A Unix server whose queue is full lets connecting wait."""
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(str(tmp_path / "sock"))
        full.listen(0)
        first.connect(str(tmp_path / "sock"))
        done = aionet("connect", f"unix:{tmp_path}/sock", "--timeout", "0.1")
    assert done.returncode == 1
    assert done.stderr.decode() == f"aionet: cannot connect to unix:{tmp_path}/sock: no answer within 0.1 s\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: ADDRESS"),
        (["localhost"], "argument ADDRESS: 'localhost' lacks a port"),
        (["::1:80"], "an IPv6 address goes in brackets"),
        (["127.0.0.1:0"], "'127.0.0.1:0': expected a port in 1..65535 to connect to"),
        (["unix:"], "'unix:' lacks a path"),
        ([":80", "--timeout", "0"], "'0': expected more than 0 seconds"),
        ([":80", "--timeout", "nan"], "'nan': expected a number of seconds"),
        ([":80", "--json"], "unknown option --json"),
    ],
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    done = aionet_here("connect", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode()
