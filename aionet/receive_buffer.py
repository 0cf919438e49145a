"""Bytes that were received and not yet asked for: the sans-I/O half of the buffered reads.

Theory of operation
-------------------
Bytes enter with `feed` and leave with `take`, `take_into` or `take_until`; nothing is dropped in between,
so a read that is cancelled, or that finds no separator, leaves them for the next one.

*Searching* goes in windows of growing size, in which all separators are looked for before any is in the next
one: a record costs a few times its own length, however much lies behind it and whichever separator is rare.
How far all of them were looked for is remembered, so input that trickles in byte by byte is searched once,
not once per byte.

*Taking* copies what is taken and little else: a `bytearray` gives up bytes at its front by moving its start,
and moves the rest only when that has become less than half of its memory.
"""

from __future__ import annotations

__all__ = ["ReceiveBuffer"]

_FIRST_WINDOW = 64
_SMALL = 4096  # what is cheaper to copy twice than to make a view for


class ReceiveBuffer:
    """A queue of bytes that can be searched."""

    __slots__ = ("_data", "_searched", "_separators", "counted")

    def __init__(self) -> None:
        self._data = bytearray()
        self._separators: tuple[bytes, ...] = ()
        self.counted = False
        """Whether limits know that there are bytes in it."""
        self._searched = 0  # no separator of `_separators` starts before this place

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        self._data += data

    def peek(self, count: int) -> bytes:
        """Return up to `count` bytes and leave them."""
        if count <= _SMALL:
            return bytes(self._data[:count])
        with memoryview(self._data) as data:
            return data[:count].tobytes()

    def take(self, count: int) -> bytes:
        """Remove and return up to `count` bytes."""
        taken = self.peek(count)
        self._drop(len(taken))
        return taken

    def take_into(self, buffer: memoryview) -> int:
        """Move as many bytes as fit into `buffer`; return how many."""
        count = min(len(self._data), buffer.nbytes)
        with memoryview(self._data) as data:
            buffer[:count] = data[:count]
        self._drop(count)
        return count

    def take_until(self, separators: tuple[bytes, ...], max_bytes: int) -> bytes | None:
        """Remove and return everything up to and with the separator that ends first; ``None`` if none does.

        A result longer than `max_bytes` does not count as found.
        """
        if separators != self._separators:
            self._separators, self._searched = separators, 0
        end = self._end_of_first(separators, min(len(self._data), max_bytes))
        return None if end is None else self.take(end)

    def _end_of_first(self, separators: tuple[bytes, ...], limit: int) -> int | None:
        if len(separators) == 1:
            window, longest = limit, len(separators[0])
        else:
            window, longest = _FIRST_WINDOW, max(map(len, separators))
        while True:
            end = min(self._searched + window, limit)
            found = False
            for separator in separators:
                start = self._data.find(separator, self._searched, end)
                if start >= 0:
                    found, end = True, start + len(separator)
            if found:
                return end
            # The longest separator may already have begun in the last bytes.
            self._searched = max(self._searched, end - longest + 1)
            if end == limit:
                return None
            window *= 2

    def _drop(self, count: int) -> None:
        searched = max(0, self._searched - count)  # first: it may lack memory
        del self._data[:count]
        self._searched = searched
