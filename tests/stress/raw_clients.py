"""Many clients that are plain blocking sockets."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

from .server_under_test import PATIENCE

__all__ = ["RawClients", "answers", "is_reset", "reset"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class RawClients:
    """Connects to a port of 127.0.0.1; at the end resets what is open, which leaves no port in TIME_WAIT."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._sockets: list[socket.socket] = []

    def connect(self, count: int, hello: bytes = b"") -> list[socket.socket]:
        """`count` more, each of which has said `hello`."""
        return [self.connect_one(hello) for _ in range(count)]

    def connect_one(self, hello: bytes = b"", *, receive_buffer: int = 0) -> socket.socket:
        """One more; closed, if it was reset meanwhile.

        The kernel completes the connection, whether the server accepts it or not.
        """
        sock = socket.socket()
        self._sockets.append(sock)
        sock.settimeout(PATIENCE)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            sock.connect(self._address)
            sock.sendall(hello)
        except ConnectionError:
            sock.close()
        return sock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sock in self._sockets:
            if sock.fileno() != -1:
                reset(sock)


def reset(sock: socket.socket) -> None:
    """Close `sock` with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def answers(sock: socket.socket, data: bytes = b"x") -> bool:
    """Whether an echo comes back; not, if the connection was reset."""
    try:
        sock.sendall(data)
        received = bytearray()
        while len(received) < len(data) and (some := sock.recv(len(data) - len(received))):
            received += some
    except ConnectionError:
        return False
    return received == data


def is_reset(sock: socket.socket) -> bool:
    """Whether the connection is reset, now or later, before anything else comes."""
    if sock.fileno() != -1:
        try:
            sock.recv(1)
        except ConnectionResetError:
            return True
    return sock.fileno() == -1
