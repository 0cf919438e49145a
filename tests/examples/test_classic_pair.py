"""``socket1_server.py`` and ``socket1_client.py``: the classic sequence, with its output."""

from __future__ import annotations

import ast

import pytest
from example_process import EXAMPLES, Example, connect


def test_the_pair_prints_what_it_always_has() -> None:
    with Example("socket1_server", 0) as server:
        port = server.port()
        with Example("socket1_client", port) as client:
            assert client.read_line() == f"Client connected: 127.0.0.1:{port}"
            assert client.wait() == 0
        assert server.read_line().startswith("Server accepted: 127.0.0.1:")
        assert server.read_line() == "Server read: hello there"
        assert server.read_line() == ""
        assert server.wait() == 0


def test_the_server_reads_up_to_100_bytes() -> None:
    with Example("socket1_server", 0) as server, connect(server.port()) as client:
        client.sendall(b"x" * 150)
        host, port = client.getsockname()
        assert server.read_line() == f"Server accepted: {host}:{port}"
        assert server.read_line() == "Server read: " + "x" * 100
        assert server.wait() == 0


def test_the_server_reads_what_is_no_text_too() -> None:
    with Example("socket1_server", 0) as server, connect(server.port()) as client:
        client.sendall(b"\xff!")
        server.read_line()
        assert server.read_line() == "Server read: \N{REPLACEMENT CHARACTER}!"
        assert server.wait() == 0


@pytest.mark.parametrize("name", ["socket1_server", "socket1_client"])
def test_the_port_is_3000_unless_another_is_given(name: str) -> None:
    numbers = [
        node.value
        for node in ast.walk(ast.parse((EXAMPLES / f"{name}.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, int)
    ]
    assert 3000 in numbers
