"""What a server's process holds for its connections, seen from outside."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

    def connect_one(self, hello: bytes = b"", *, receive_buffer: int = 0) -> socket.socket:
        """One more, whose handshake is over."""
        sock = super().connect_one(receive_buffer=receive_buffer)
        self._sockets[-1] = wrapped = self._context.wrap_socket(sock, server_hostname=HOST)
        wrapped.sendall(hello)
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


def exchange(sock: socket.socket, data: bytes) -> None:
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
        for sock in clients.connect(50):  # what a process takes once
            exchange(sock, LARGE)
        before = server.watch.private_bytes()
        for sock in clients.connect(TLS_CLIENTS):
            exchange(sock, LARGE)

        held = float("inf")
        deadline = time.monotonic() + PATIENCE
        while held > AT_REST and time.monotonic() < deadline:
            time.sleep(0.1)
            held = (server.watch.private_bytes() - before) / TLS_CLIENTS
        print(f"{held:.0f} bytes for each connection at rest")
        assert held <= AT_REST


# Clients that stall -----------------------------------------------------------------------------------------

MIB = 1 << 20
STALLING = 4_000
LIMIT = 16 * MIB
SOME = 131072  # bytes, of which most find no way back
LINE = 60_000  # bytes of a line that does not end
ROUNDS = 10


@contextmanager
def growth(server: ServerUnderTest) -> Iterator[list[int]]:
    """By how much the private memory of `server` has grown at the most."""
    before = server.watch.private_bytes()
    grown, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            grown[0] = max(grown[0], server.watch.private_bytes() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield grown
    finally:
        over.set()
        watching.join()


def send_without_reading(socks: list[socket.socket], data: bytes) -> None:
    """Send as much of `data` on each as finds room, until none takes any more."""
    left = dict.fromkeys(socks, len(data))
    for sock in socks:
        sock.setblocking(False)
    idle = 0
    while left and idle < ROUNDS:
        idle += 1
        for sock, count in list(left.items()):
            try:
                left[sock] -= sock.send(data[:count])
                idle = 0
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                continue
            except OSError:  # it was cut
                left[sock] = 0
            if not left[sock]:
                del left[sock]
        if idle:
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("tls", "handler", "size"),
    [(False, "echo", SOME), (False, "lines", LINE), (True, "echo", SOME)],
    ids=["plain-echo", "plain-lines", "tls-echo"],
)
def test_what_is_held_for_clients_that_stall_is_bounded(
    engine: str, tls: bool, handler: str, size: int, authority: Authority
) -> None:
    certificate = authority.certificate if tls else None
    with (
        ServerUnderTest(
            handler, engine=engine, certificate=certificate, send_buffer=4096, max_pending_bytes=LIMIT
        ) as server,
        TlsClients(server.port, authority.context) if tls else RawClients(server.port) as clients,
    ):
        stalling = [clients.connect_one(b"x\n", receive_buffer=4096) for _ in range(STALLING)]
        for sock in stalling:
            assert sock.recv(2) == b"x\n"
        honest = clients.connect_one(b"x\n")
        assert honest.recv(2) == b"x\n"
        with growth(server) as grown:
            send_without_reading(stalling, bytes(size))
            exchange(honest, b"an honest line\n")
            stats = server.stats()
        print(f"grew by {grown[0] / MIB:.1f} MiB, {stats['causes']}, {stats['active']} remain")
        assert grown[0] <= LIMIT * 1.2
        assert set(stats["causes"]) == {"PENDING_BYTES"}
        assert stats["active"] > LIMIT // (4 * size)
        assert not server.warnings()
