"""``echo.py``, ``thread_per_client.py`` and ``task_per_client.py``, spoken to by blocking sockets and nc."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess

import pytest
from example_process import PATIENCE, Example, connect
from helpers import require_program

both_ways = pytest.mark.parametrize("name", ["thread_per_client", "task_per_client"])


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        data = sock.recv(count - len(received))
        assert data, f"the stream ended after {bytes(received)!r}"
        received += data
    return bytes(received)


def through_nc(port: int, text: bytes) -> bytes:
    command = [require_program("nc"), "-N", "127.0.0.1", str(port)]
    return subprocess.run(command, input=text, capture_output=True, timeout=PATIENCE, check=True).stdout


# echo.py ----------------------------------------------------------------------------------------------


def test_echo_answers_nc() -> None:
    with Example("echo", 0) as example:
        assert through_nc(example.port(), b"hello\n") == b"hello\n"


def test_echo_serves_many_clients_at_once_and_drains() -> None:
    with Example("echo", 0) as example:
        port = example.port()
        clients = [connect(port) for _ in range(20)]
        for number, client in enumerate(clients):
            client.sendall(b"%02d" % number)
        for number, client in enumerate(clients):
            assert receive_exactly(client, 2) == b"%02d" % number
            client.close()
        assert example.interrupt() == 0
        assert example.read_line() == ""  # below the ^C of the terminal
        assert example.read_line().startswith("drained: ")


def test_a_second_interrupt_ends_the_grace_of_echo() -> None:
    with Example("echo", 0) as example:
        port = example.port()
        with connect(port) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            example.process.send_signal(signal.SIGINT)
            while can_connect(port):  # the first one closes the server
                pass
            assert example.interrupt() == 0
            assert client.recv(1) == b""
        assert example.read_line() == ""
        assert "1 cancelled, 0 aborted" in example.read_line()


def can_connect(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionError:
        return False
    return True


# The same service both ways ---------------------------------------------------------------------------


@both_ways
def test_nc_is_answered_in_capital_letters(name: str) -> None:
    with Example(name, 0) as example:
        assert through_nc(example.port(), b"hello\n") == b"HELLO\n"
        came, left = example.read_line(), example.read_line()
        assert came.startswith("127.0.0.1:")
        assert came.endswith(" came")
        assert left == came.replace(" came", " left")


@both_ways
def test_a_client_does_not_wait_for_the_one_before(name: str) -> None:
    with Example(name, 0) as example:
        port = example.port()
        with connect(port) as first, connect(port) as second:
            second.sendall(b"second")
            assert receive_exactly(second, 6) == b"SECOND"
            first.sendall(b"first")
            assert receive_exactly(first, 5) == b"FIRST"


@both_ways
def test_a_client_that_is_lost_takes_nobody_with_it(name: str) -> None:
    with Example(name, 0) as example:
        port = example.port()
        with connect(port) as other:
            other.sendall(b"x")
            assert other.recv(1) == b"X"
            lost = connect(port)
            peer = "{}:{}".format(*lost.getsockname())
            lost.sendall(b"x")
            assert lost.recv(1) == b"X"
            lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            lost.close()  # a reset
            printed = [example.read_line() for _ in range(3)]
            assert printed[1] == f"{peer} came"
            assert printed[2].startswith(f"{peer} was lost: ")
            other.sendall(b"still here")
            assert receive_exactly(other, 10) == b"STILL HERE"


@both_ways
def test_an_interrupt_ends_it_without_a_traceback(name: str) -> None:
    with Example(name, 0) as example, connect(example.port()) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"X"
        assert example.interrupt() == 0
        assert client.recv(1) == b""
