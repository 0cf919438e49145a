"""A handler forks: whatever the child does with its parent's loop and sockets, no connection notices."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from peers import RawPeer
from tls_peers import HOST, TlsOverSocket

import aionet

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

PROGRAM = Path(__file__).with_name("forking_server.py")
BIG = bytes(4 << 20)
TRANSPORTS = "tcp", "unix", "tls"

PLATFORMS = [("asyncio", "epoll"), ("uvloop", "epoll")]
if aionet.implementation() == "native":
    PLATFORMS.append(("aionet", "epoll"))
else:
    PLATFORMS.append(("asyncio", "callbacks"))

Connect = Callable[[str], RawPeer]


@pytest.fixture(params=PLATFORMS, ids=" ".join)
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """`connect(transport)`: a client of the server."""
    if request.param[0] == "uvloop":
        pytest.importorskip("uvloop")
    authority, trusting = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trusting)
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(tmp_path / "certificate")
    clients: list[RawPeer] = []

    def connect(transport: str) -> RawPeer:
        sock = socket.socket(socket.AF_UNIX if transport == "unix" else socket.AF_INET)
        clients.append(RawPeer(sock))
        sock.connect(str(tmp_path / "socket") if transport == "unix" else ("127.0.0.1", ports[transport]))
        if transport == "tls":
            clients[-1].sock = over_tls = TlsOverSocket(sock, trusting, server_side=False)
            over_tls.shake_hands_now()
        return clients[-1]

    command = [sys.executable, str(PROGRAM), *request.param, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            ports = dict(zip(("tcp", "tls"), map(int, server.stdout.readline().split()), strict=True))
            yield connect
        finally:
            for client in clients:
                client.stop()
            os.killpg(server.pid, signal.SIGKILL)  # its children, too
        assert server.stderr.read() == ""


def echoed(client: RawPeer, words: bytes = b"again") -> None:
    client.send_now(words)
    assert client.receive_exactly_now(len(words)) == words


def begun(client: RawPeer, words: bytes) -> RawPeer:
    """Ask for a large answer, and read its first byte."""
    client.send_now(words)
    assert client.receive_exactly_now(1) == BIG[:1]
    return client


LOSES_EXITS = sys.version_info >= (3, 14) and aionet.implementation() != "native"
"""In a child asyncio forgets its running loop there, so the task that forked cannot raise SystemExit."""


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("exits", marks=pytest.mark.skipif(LOSES_EXITS, reason="asyncio loses SystemExit")),
        "stays",
    ],
)
def test_no_connection_notices(connect: Connect, kind: str) -> None:
    clients = [connect(transport) for transport in TRANSPORTS for _ in range(2)]
    for client in clients:
        echoed(client)
    writing = [begun(connect(transport), b"big") for transport in TRANSPORTS]
    cancelled = [begun(connect(transport), b"begin big") for transport in TRANSPORTS]
    closing = [begun(connect(transport), b"big and close") for transport in TRANSPORTS]
    forker = clients[0]
    forker.send_now(f"fork {kind}".encode())
    assert forker.receive_exactly_now(6) == b"forked"
    for client in clients:
        echoed(client)
    for client in (*writing, *cancelled, *closing):
        assert client.receive_exactly_now(len(BIG) - 1) == BIG[1:]
    for client in closing:
        assert client.sock.recv(1) == b""
    clients += writing + cancelled + [connect(transport) for transport in TRANSPORTS]
    for client in clients:
        echoed(client)
    if kind == "stays":
        forker.send_now(b"end")
        assert forker.receive_exactly_now(5) == b"ended"
    for client in clients:
        echoed(client)
        client.half_close()
        assert client.sock.recv(1) == b""
