"""Bytes that were received and not yet asked for: the sans-I/O half of the buffered reads.

Theory of operation
-------------------
Bytes enter with `feed` and leave with `take`, `take_into` or `take_until`; nothing is dropped in between,
so a read that is cancelled, or that finds no separator, leaves them for the next one.

Searching remembers how far it looked: input that trickles in byte by byte is scanned once, not once per byte.
"""

from __future__ import annotations

__all__ = ["ReceiveBuffer"]


class ReceiveBuffer:
    """A queue of bytes that can be searched."""

    __slots__ = ("_data", "_searched", "_separators")

    def __init__(self) -> None:
        self._data = bytearray()
        self._separators: tuple[bytes, ...] = ()
        self._searched = 0  # no separator of `_separators` starts before this place

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        """Append `data`."""
        self._data += data

    def peek(self, count: int) -> bytes:
        """Return up to `count` bytes and leave them."""
        return bytes(self._data[:count])

    def take(self, count: int) -> bytes:
        """Remove and return up to `count` bytes."""
        taken = self.peek(count)
        self._drop(len(taken))
        return taken

    def take_into(self, buffer: memoryview) -> int:
        """Move as many bytes as fit into `buffer`; return how many."""
        count = min(len(self._data), buffer.nbytes)
        buffer[:count] = self._data[:count]
        self._drop(count)
        return count

    def take_until(self, separators: tuple[bytes, ...], max_bytes: int) -> bytes | None:
        """Remove and return everything up to and with the separator that ends first; ``None`` if none does.

        A result longer than `max_bytes` does not count as found.
        """
        end = self._end_of_first(separators)
        if end is None or end > max_bytes:
            return None
        return self.take(end)

    def _end_of_first(self, separators: tuple[bytes, ...]) -> int | None:
        if separators != self._separators:
            self._separators, self._searched = separators, 0
        ends = []
        for separator in separators:
            start = self._data.find(separator, self._searched)
            if start >= 0:
                ends.append(start + len(separator))
        if ends:
            return min(ends)
        # The longest separator may already have begun in the last bytes.
        self._searched = max(0, len(self._data) - max(map(len, separators)) + 1)
        return None

    def _drop(self, count: int) -> None:
        del self._data[:count]
        self._searched = max(0, self._searched - count)
