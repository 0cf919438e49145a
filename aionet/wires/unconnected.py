"""The wire of a socket that is not connected: it refuses everything.

It keeps the question "am I connected?" out of every method of a socket, and off the hot path.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import IO, NoReturn

from ..errors import SocketClosedError
from .contract import Buffer, WireObserver

__all__ = ["NEVER_CONNECTED", "UNCONNECTED", "UnconnectedWire"]


class UnconnectedWire:
    """Stands where a wire will be, or, `closed`, where none will ever be."""

    local_address = None
    peer_address = None
    lost: OSError | None = None
    peer_ended = False
    _observer: WireObserver | None = None
    bytes_read = 0
    bytes_written = 0
    waits_for_input = False
    waits_for_room = False
    unfinished = False
    eof_sent = False

    def __init__(self, *, closed: bool) -> None:
        self.closed = closed

    async def receive(self, max_bytes: int) -> bytes:
        self._refuse("read")

    async def receive_into(self, buffer: memoryview) -> int:
        self._refuse("read")

    async def send(self, data: Buffer) -> int:
        self._refuse("write")

    async def send_vectored(self, buffers: Sequence[Buffer]) -> int:
        self._refuse("write")

    async def send_file(self, file: IO[bytes], offset: int, count: int | None) -> int:
        self._refuse("write")

    async def send_eof(self) -> None:
        self._refuse("send_eof")

    async def wait_acknowledged(self) -> None:
        self._refuse("wait_acknowledged")

    def begin_close(self, linger: float) -> None:
        pass

    def abort(self) -> None:
        pass

    def watch_peer(self) -> None:
        pass

    def note_interruption(self) -> None:
        pass

    def note_gap(self) -> None:
        pass

    def facts(self) -> tuple[int | None, float | None]:
        return None, None

    async def reader_turn(self) -> None:
        self._refuse("read")

    def fileno(self) -> int:
        return -1

    @property
    def unacknowledged(self) -> int:
        self._refuse("unacknowledged")

    @property
    def raw_socket(self) -> socket.socket:
        self._refuse("raw_socket")

    def _refuse(self, operation: str) -> NoReturn:
        if self.closed:
            raise SocketClosedError(operation=operation)
        raise SocketClosedError(
            errno.ENOTCONN,
            "not connected: connect_to() or accept() comes first",
            operation=operation,
        )


UNCONNECTED = UnconnectedWire(closed=False)
NEVER_CONNECTED = UnconnectedWire(closed=True)
