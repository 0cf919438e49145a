"""``--proxy-protocol``: the handler sees the client, and nobody else gets in."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import AionetServer, aionet, connect_raw, receive_to_end

from aionet import ProxyHeader, SocketAddress

APP = """\
async def who(socket):
    name = await socket.read_line()
    await socket.write(f"{name.decode().strip()} from {socket.peer_address}".encode())
"""

HEADER = ProxyHeader(source=SocketAddress("192.0.2.7", 1234), destination=SocketAddress("192.0.2.1", 80))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("more", [(), ("--workers", 2)], ids=["alone", "workers"])
@pytest.mark.parametrize("version", [1, 2])
def test_the_handler_sees_the_client(directory: Path, more: tuple[object, ...], version: int) -> None:
    header = ProxyHeader(version=version, source=HEADER.source, destination=HEADER.destination)
    options = ("serve", "app:who", "--bind", "127.0.0.1:0", "--proxy-protocol", "127.0.0.0/8", *more)
    with AionetServer(*options, cwd=directory) as server, connect_raw(server.address) as sock:
        sock.sendall(header.to_bytes() + b"me\n")
        assert receive_to_end(sock) == b"me from 192.0.2.7:1234"


@pytest.mark.parametrize("first", [b"me\n", b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 99999\r\nme\n"])
def test_who_does_not_send_a_header_is_refused(directory: Path, first: bytes) -> None:
    options = ("serve", "app:who", "--bind", "127.0.0.1:0", "--proxy-protocol", "127.0.0.1/32")
    with AionetServer(*options, cwd=directory) as server:
        with connect_raw(server.address) as sock:
            sock.sendall(first)
            with pytest.raises(ConnectionResetError):
                receive_to_end(sock)
        server.signal()
        _, _, errors = server.ended()
    assert "handshake with 127.0.0.1:" in errors
    assert "Traceback" not in errors


def test_a_slow_header_is_cut_off(directory: Path) -> None:
    options = ("serve", "app:who", "--bind", "127.0.0.1:0", "--proxy-protocol", "127.0.0.1")
    with AionetServer(*options, "--handshake-timeout", "0.2", cwd=directory) as server:
        with connect_raw(server.address) as sock:
            sock.sendall(HEADER.to_bytes()[:-1])
            with pytest.raises(ConnectionResetError):
                receive_to_end(sock)
        server.signal()
        assert "cut: handshake took too long" in server.ended()[2]


def test_what_is_no_network_is_an_error(directory: Path) -> None:
    done = aionet("serve", "app:who", "--proxy-protocol", "10.0.0.1/8", cwd=directory)
    assert done.returncode == 2
    assert b"10.0.0.1/8" in done.stderr
