"""`Traffic`: how many bytes all connections of a spawner have carried.

Theory of operation
-------------------
Nothing is counted per message that a wire does not count anyway. What a connection has carried is added when
it ends, and that of those who live is added up by whoever asks; it takes time in proportion to their number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .connection import Connection

__all__ = ["Traffic"]


class Traffic:
    """The bytes of connections that have ended."""

    __slots__ = ("_read", "_written")

    def __init__(self) -> None:
        self._read = self._written = 0

    def add(self, connection: Connection[Any]) -> None:
        """`connection` has ended."""
        wire = connection.socket._wire
        self._read += wire.bytes_read
        self._written += wire.bytes_written

    def total(self, live: Iterable[Connection[Any]]) -> tuple[int, int]:
        """Bytes read and written by those who have ended and those who `live`."""
        read, written = self._read, self._written
        for connection in live:
            wire = connection.socket._wire
            read += wire.bytes_read
            written += wire.bytes_written
        return read, written
