"""`Allowance`: how many bytes the connections of a spawner may hold; what wires need of it.

Theory of operation
-------------------
What counts, and what happens when there is no room, stands in `limiting/pending_bytes.py`, which subclasses
this. Here is what a message needs of it: a subtraction and an addition. A wire that counts has an
`allowance`; its `in_hand` says how many bytes its last read has brought, which count until its next read or
write begins. A read takes no more than what is free. Where less than `least` is free it waits, as if for
input, until the allowance wakes it; by then room is reserved for it, as its `in_hand`. A wire whose last read
was small (less than 16 KiB) need not wait as long as there is `reserve`: it reads `least` at a time then.

On the compiled engine the attributes are those of a type in C, and streams do the same there
(`native/allowance.c`).
"""

from __future__ import annotations

from typing import Any

from ..native import compiled

__all__ = ["Allowance"]

_Base: Any = object if compiled is None else compiled.Allowance


class Allowance(_Base):  # type: ignore[misc]
    """How many bytes connections may hold, and how many of them are free."""

    __slots__ = ("crowded", "free", "least", "reserve") if compiled is None else ()

    free: int
    """Less than 0 while connections that are to make room have not ended yet."""
    least: int
    """Bytes for which it is worth while to read."""
    reserve: int
    """Bytes beyond what is free, for small reads."""
    crowded: bool
    """Whether readers wait for room."""

    def let_go(self, wire: Any) -> None:
        """The caller of `wire` reads or writes again: what the last read has brought counts no longer."""
        self.free += wire.in_hand
        wire.in_hand = 0
        if self.crowded and self.free + self.reserve >= self.least:
            self.offer_room()

    def take_in_hand(self, wire: Any, count: int) -> None:
        """A read of `wire` has brought `count` bytes."""
        self.free -= count - wire.in_hand
        wire.in_hand = count

    def admit(self, wire: Any, max_bytes: int) -> int:
        """Return how many bytes a read of `wire` may take; 0: it has to wait, and will be woken."""
        room: int = self.free + wire.in_hand
        if room >= self.least:
            return min(max_bytes, room)
        if wire._reads_little and room + self.reserve >= self.least:
            return min(max_bytes, self.least)
        self.wait_for_room(wire)
        return 0

    def offer_room(self) -> None:
        """Bytes have become free, and readers wait for them."""
        raise NotImplementedError

    def wait_for_room(self, wire: Any) -> None:
        """Wake the reader of `wire` when there is room for its read."""
        raise NotImplementedError
