"""What a server's process holds for its connections, seen from outside."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from .raw_clients import RawClients
from .server_under_test import PATIENCE, ServerUnderTest

HOST = "server.example"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.usefixtures("most_descriptors")]


class TlsClients(RawClients):
    """The same over TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self._context = context

    def shake_hands(self, count: int) -> list[ssl.SSLSocket]:
        """`count` more, whose handshakes are over."""
        wrapped = []
        for sock in self.connect(count):
            wrapped.append(self._context.wrap_socket(sock, server_hostname=HOST))
            self._sockets[self._sockets.index(sock)] = wrapped[-1]
        return wrapped


class Authority:
    """Makes the server's certificate, and trusts it."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert(HOST)
        path = directory / "server.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
        self.certificate = str(path)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self.context)


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    return Authority(tmp_path)


def exchange(sock: ssl.SSLSocket, data: bytes) -> None:
    sock.sendall(data)
    received = bytearray()
    while len(received) < len(data):
        received += sock.recv(len(data) - len(received))
    assert received == data


# TLS at rest ----------------------------------------------------------------------------------------------

TLS_CLIENTS = 1_000
AT_REST = 25_000  # bytes of a connection
LARGE = os.urandom(65536)


def test_a_tls_connection_at_rest_gives_back_the_memory_of_a_large_message(
    engine: str, authority: Authority
) -> None:
    with (
        ServerUnderTest(engine=engine, certificate=authority.certificate) as server,
        TlsClients(server.port, authority.context) as clients,
    ):
        for sock in clients.shake_hands(50):  # what a process takes once
            exchange(sock, LARGE)
        before = server.watch.private_bytes()
        for sock in clients.shake_hands(TLS_CLIENTS):
            exchange(sock, LARGE)

        held = float("inf")
        deadline = time.monotonic() + PATIENCE
        while held > AT_REST and time.monotonic() < deadline:
            time.sleep(0.1)
            held = (server.watch.private_bytes() - before) / TLS_CLIENTS
        print(f"{held:.0f} bytes for each connection at rest")
        assert held <= AT_REST
