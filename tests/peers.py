"""The other end of the line: plain blocking sockets, which know nothing of aionet.

A network test that used our own client against our own server would pass where both are wrong in the same
way.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Self

__all__ = ["PATIENCE", "RawListener", "RawPeer", "flood"]

PATIENCE = 10.0
"""Seconds after which a peer gives up, so that a broken test ends."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class RawPeer:
    """A connected blocking socket. Awaited calls run in a thread; the others do not block."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock

    @classmethod
    async def connect(cls, address: Any, family: int = socket.AF_INET, *, receive_buffer: int = 0) -> Self:
        """Connect to `address`, as the socket module writes it."""
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(PATIENCE)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await asyncio.to_thread(sock.connect, address)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        await asyncio.to_thread(self.sock.sendall, data)

    def send_now(self, data: bytes) -> None:
        """Send `data`, which must fit into the kernel's buffer."""
        self.sock.sendall(data)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive some bytes; ``b""`` at the end of the stream."""
        return await asyncio.to_thread(self.sock.recv, max_bytes)

    async def receive_exactly(self, n: int) -> bytes:
        """Receive `n` bytes; `EOFError` if the stream ends first."""
        return await asyncio.to_thread(self.receive_exactly_now, n)

    def receive_exactly_now(self, n: int) -> bytes:
        """The same of bytes that are on their way already."""
        received = bytearray()
        while len(received) < n:
            data = self.sock.recv(min(n - len(received), 1 << 20))
            if not data:
                raise EOFError(f"{len(received)} of {n} bytes")
            received += data
        return bytes(received)

    async def receive_to_end(self) -> bytes:
        """Receive until the stream ends; `ConnectionResetError` if it is reset."""
        return await asyncio.to_thread(self._receive_to_end)

    def _receive_to_end(self) -> bytes:
        received = bytearray()
        while data := self.sock.recv(1 << 20):
            received += data
        return bytes(received)

    async def end(self) -> str:
        """Receive to the end, and return what it is: ``"end"``, or ``"reset"``."""
        try:
            await self.receive_to_end()
        except ConnectionResetError:
            return "reset"
        return "end"

    def half_close(self) -> None:
        """End this direction (FIN)."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.sock.close()

    def close(self) -> None:
        """Close."""
        self.sock.close()

    def stop(self) -> None:
        """Close, and end what runs in threads."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def in_thread(self, function: Callable[[socket.socket], Any]) -> asyncio.Future[Any]:
        """Run `function(sock)` in a thread."""
        return asyncio.ensure_future(asyncio.to_thread(function, self.sock))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class RawListener:
    """A listening socket for our clients to connect to."""

    def __init__(
        self, address: Any = ("127.0.0.1", 0), family: int = socket.AF_INET, backlog: int = 16
    ) -> None:
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if family != socket.AF_UNIX:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.bind(address)
            self.sock.listen(backlog)
            self.sock.settimeout(PATIENCE)
        except BaseException:
            self.sock.close()
            raise

    @property
    def address(self) -> Any:
        """Where it listens, as the socket module writes it: host and port, or a path."""
        name = self.sock.getsockname()
        return name[:2] if isinstance(name, tuple) else name

    @property
    def port(self) -> int:
        """The port, if it has one."""
        return int(self.address[1])

    async def accept(self) -> RawPeer:
        """Accept one connection."""
        sock, _ = await asyncio.to_thread(self.sock.accept)
        return RawPeer(sock)

    def close(self) -> None:
        """Close."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def flood(sock: socket.socket) -> None:
    """Send until that is no longer possible; for `RawPeer.in_thread`."""
    try:
        while True:
            sock.sendall(bytes(100_000))
    except OSError:
        pass
