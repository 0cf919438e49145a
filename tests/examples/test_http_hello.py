"""``http_hello.py``, spoken to by curl and by blocking sockets."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest
from example_process import PATIENCE, Example, connect
from helpers import require_program

GREETING = b"Hello from aionet\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with Example("http_hello", 0) as example:
        yield example.port()


def curl(*arguments: str) -> tuple[str, list[str]]:
    """Return what curl printed, and the lines that it wrote of how it went."""
    command = [require_program("curl"), "--noproxy", "*", "-sv", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout, [line.strip() for line in done.stderr.splitlines()]


def ask(port: int, request: bytes) -> bytes:
    """Send `request`, end the stream and return everything that comes."""
    with connect(port) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return receive_to_end(sock)


def receive_to_end(sock: socket.socket) -> bytes:
    received = bytearray()
    while data := sock.recv(65536):
        received += data
    return bytes(received)


def test_curl_gets_a_greeting_twice_over_one_connection(port: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    output, course = curl(url, f"{url}again")
    assert output.encode() == GREETING * 2
    assert course.count("< HTTP/1.1 200 OK") == 2
    assert sum("Re-using existing" in line for line in course) == 1


def test_head_has_the_headers_of_get_and_no_body(port: int) -> None:
    output, course = curl("--head", f"http://127.0.0.1:{port}/")
    assert f"Content-Length: {len(GREETING)}" in output
    assert "< HTTP/1.1 200 OK" in course
    assert not output.rstrip().endswith("aionet")


def test_other_methods_are_not_allowed_and_the_connection_goes_on(port: int) -> None:
    request = (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na=b" + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    answer = ask(port, request)
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"Allow: GET, HEAD\r\n" in answer
    assert b"HTTP/1.1 200 OK\r\n" in answer
    assert answer.endswith(GREETING)


def test_pipelined_requests_are_answered_in_turn(port: int) -> None:
    answer = ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    assert answer.count(b"HTTP/1.1 200 OK") == answer.count(GREETING) == 50


def test_http_1_0_and_connection_close_end_the_connection(port: int) -> None:
    for request in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        with connect(port) as sock:
            sock.sendall(request)
            answer = receive_to_end(sock)  # the server ends it
        assert b"Connection: close\r\n" in answer
        assert answer.endswith(GREETING)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without a Host
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    ],
    ids=["nonsense", "no host", "two hosts", "bad chunk", "TLS"],
)
def test_a_bad_request_gets_400_and_the_connection_ends(port: int, request_bytes: bytes) -> None:
    answer = ask(port, request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Connection: close\r\n" in answer


def test_headers_that_are_too_long_are_refused(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 17_000)
        assert receive_to_end(sock).startswith(b"HTTP/1.1 431 ")


def test_a_client_that_leaves_in_the_middle_disturbs_nobody(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHo")
    assert ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").endswith(GREETING)


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_slow_client_is_hung_up_on(beginning: bytes) -> None:
    code = "import asyncio, http_hello; http_hello.PATIENCE = 0.2; asyncio.run(http_hello.main(0))"
    with Example("http_hello", code=code) as example, connect(example.port()) as sock:
        sock.sendall(beginning)
        answer = receive_to_end(sock)
        assert answer.endswith(GREETING) if beginning.endswith(b"\r\n") else answer == b""
        assert example.interrupt() == 0
