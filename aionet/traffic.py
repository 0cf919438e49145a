"""`Traffic`: how many bytes all connections of a spawner have carried.

Theory of operation
-------------------
Nothing is counted per message that a wire does not count anyway. What a connection has carried is added when
it ends, and that of those who live is added up by whoever asks; it takes time in proportion to their number.

*In slices* the loop has a turn between every few hundred of them. A connection that ends meanwhile is counted
once, at the place where it stood when the sum began; one that begins meanwhile is counted by the next sum. So
a sum is never less than an earlier one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from .connection import Connection

__all__ = ["Traffic"]


_SLICE = 256  # connections; about a tenth of a millisecond


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

    async def total_in_slices(self, live: Iterable[Connection[Any]]) -> tuple[int, int]:
        """Return what `total` does; the loop has a turn between slices. Cancel safety: nothing is lost."""
        read, written = self._read, self._written
        for number, connection in enumerate(tuple(live), 1):
            wire = connection.socket._wire
            read += wire.bytes_read
            written += wire.bytes_written
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        return read, written
