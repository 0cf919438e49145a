"""The load process against servers that are not ours: what it counts as an error; how it takes bad input."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from aionet.bench.payloads import message_maker
from aionet.bench.polling import READABLE, WRITABLE, SelectorPoller, make_poller


@contextmanager
def threaded_server(reply: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """A server of plain threads that hands every piece it receives to ``reply``; its port."""
    threads: list[threading.Thread] = []

    def serve_one(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    reply(connection, data)
            except OSError:
                pass

    def accept_all() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve_one, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept_all)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


def load(*arguments: str) -> dict[str, Any]:
    """The final record of a short run."""
    command = [sys.executable, "-m", "aionet.bench.load_process", "--wait", "--connections", "3"]
    command += ["--seconds", "0.3", "--warm-up", "0.05", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert record["event"] == "result"
    return record


def send_all(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)


def flip_the_last_byte(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data[:-1] + bytes([data[-1] ^ 1]))


def send_too_much(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data + b"!")


def leave(connection: socket.socket, data: bytes) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def say_nothing(connection: socket.socket, data: bytes) -> None:
    pass


@pytest.mark.parametrize("workload", ["echo", "accept"])
def test_a_true_echo_has_no_errors(workload: str) -> None:
    with threaded_server(send_all) as port:
        record = load("--workload", workload, "--port", str(port), "--size", "100")
    assert record["errors"] == {}
    assert record["requests"] > 0
    assert record["bytes_compared"] >= record["requests"] * (100 if workload == "echo" else 1)
    assert record["closed_loop"] is True
    assert 0 <= record["busy_share"] <= 1


def test_messages_larger_than_the_socket_buffers_are_sent_and_compared_whole() -> None:
    with threaded_server(send_all) as port:
        record = load("--workload", "echo", "--port", str(port), "--size", str(16 << 20), "--seconds", "1.5")
    assert record["errors"] == {}
    assert record["requests"] > 0


@pytest.mark.parametrize("workload", ["echo", "accept"])
@pytest.mark.parametrize("wrong", [flip_the_last_byte, send_too_much])
def test_a_wrong_byte_is_a_mismatch(workload: str, wrong: Callable[[socket.socket, bytes], None]) -> None:
    with threaded_server(wrong) as port:
        record = load("--workload", workload, "--port", str(port), "--size", "1000")
    assert record["errors"].keys() == {"mismatch"}
    assert record["errors"]["mismatch"] > 0
    assert record["requests"] == 0


def test_an_end_before_the_reply_is_counted_and_survived() -> None:
    with threaded_server(leave) as port:
        record = load("--workload", "echo", "--port", str(port))
    assert record["errors"]["early end"] > 1  # it came back after the first


def test_a_refused_connection_is_counted_under_its_errno() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    record = load("--workload", "accept", "--port", str(port))
    assert record["errors"].keys() == {"ECONNREFUSED"}
    assert record["requests"] == 0


def test_a_request_that_is_never_answered_is_an_error() -> None:
    with threaded_server(say_nothing) as port:
        record = load("--workload", "echo", "--port", str(port))
    assert record["errors"] == {"no answer": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "70000 is not from 1 to 65,535"),
        (["--port", "http"], "'http' is not a whole number"),
        (["--connections", "0"], "0 is not from 1 to"),
        (["--seconds", "-1"], "-1 is not above 0"),
        (["--seconds", "nan"], "nan is not above 0"),
        (["--seconds", "soon"], "'soon' is not a number of seconds"),
        (["--workload", "dance"], "'dance'"),
    ],
)
def test_bad_input_is_named(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "aionet.bench.load_process", "--workload", "echo", "--port", "1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert message in done.stderr


def test_no_two_messages_are_alike() -> None:
    for size in (3, 8, 9, 1000):
        next_message = message_maker(size)
        messages = [next_message() for _ in range(2000)]
        assert len(set(messages)) == 2000
        assert {len(message) for message in messages} == {size}


def test_both_pollers_tell_the_same() -> None:
    for poller in (make_poller(), SelectorPoller()):
        left, right = socket.socketpair()
        with left, right, closing(poller):
            poller.register(left.fileno(), READABLE)
            assert poller.poll(0, 10) == []
            right.send(b"x")
            assert poller.poll(1, 10) == [(left.fileno(), READABLE)]
            poller.modify(left.fileno(), READABLE | WRITABLE)
            assert poller.poll(1, 10) == [(left.fileno(), READABLE | WRITABLE)]
            poller.unregister(left.fileno())
            assert poller.poll(0, 10) == []


def test_it_ends_when_nobody_reads_its_lines() -> None:
    with threaded_server(send_all) as port:
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "aionet.bench.load_process", "--workload", "echo", "--wait"]
        process = subprocess.Popen([*command, "--port", str(port), "--seconds", "60"], stdout=writing)
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        assert process.wait(20) == 1
