"""A limit on the memory that all connections of a spawner hold together.

Theory of operation
-------------------
*What counts* for a connection, in bytes:

    waiting writes    what its wire's queue holds, over TLS encrypted or not
    TLS               buffers that a large message has enlarged (`wires/tls/memory.py`), ciphertext that was
                      not decrypted yet, and OpenSSL's buffer for a record of which a part has come
    buffered reads    what `read_line` and the like have received and not yet returned, from 4 KiB on
    overhead          `_OVERHEAD`, where there is any of these
    in hand           what the last read has returned, until the next read or write of the connection begins

A waiting write counts until its task has gone on: until then the task's frames hold the data. What a handler
keeps after that is its own affair. Wires and sockets say when one of the first three changes;
the last is a number in the wire (`wires/allowance.py`). So it is always known how much of the limit is free.

*Cutting.* When more is held than the limit allows, connections of those that hold the most are reset. They
stand in classes by the logarithm of their size, so that one is found at once, however many there are; of a
class, the one that has been in it for the longest goes. What a connection held counts until its handler has
ended: only then is the memory free. Before a connection is cut for what its TLS buffers hold, these are
shrunk.

*Admission.* All connections that become ready in one turn of the loop would read before any that is cut has
ended. So a read takes no more than what is free. Where that is too little to be worth while, the reader waits
in a line, connections that hold waiting writes or buffered reads are cut, and a few readers at a time are let
in as memory becomes free. If none was let in for `_PATIENCE` seconds, handlers keep it: those that were cut
and have not ended count no longer, and if there are none, the connections with the most in hand are cut.

*Small reads* have a reserve beyond the limit, of one part in `_RESERVE`. Connections that send much and read
little use the limit up. A client whose messages are small does not stand in the line behind a thousand of
them; one of which nothing is known yet does.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

from ..connection import Connection
from ..wires.allowance import Allowance

__all__ = ["PendingBytes"]

_LEAST = 4096  # bytes for which it is worth while to read
_OVERHEAD = 4096  # bytes of what is around a waiting write or read: its task's frames, a queue, a future
_RESERVE = 16  # one part of so many, for small reads
_SPARE = 8  # by the eighth part a bytearray takes more than it needs
_AT_ONCE = 8  # readers that are let in in one turn: how much their handlers will write is not known
_PATIENCE = 1.0  # seconds

_AnyConnection = Connection[Any]


class _Holding:
    """What one connection holds, but for what is in hand."""

    __slots__ = ("buffered", "waiting")

    def __init__(self) -> None:
        self.waiting = self.buffered = 0

    @property
    def size(self) -> int:
        if not self.waiting and not self.buffered:
            return 0
        return self.waiting + self.buffered + self.buffered // _SPARE + _OVERHEAD


class PendingBytes(Allowance):
    """The bytes that connections hold, of which there may be `most`."""

    __slots__ = (
        "_classes",
        "_coming",
        "_cut",
        "_cut_bytes",
        "_holdings",
        "_let_in",
        "_line",
        "_loop",
        "_making_room",
        "_most",
        "_offered",
        "_short_line",
        "_timer",
        "_wires",
    )

    def __init__(self, most: int, cut: Callable[[_AnyConnection], object]) -> None:
        """`cut(connection)` resets it, which lets go of its bytes."""
        self.free = self._most = most
        self.least = min(_LEAST, most)
        self.reserve = most // _RESERVE
        self.crowded = False
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._wires: dict[_AnyConnection, Any] = {}
        self._holdings: dict[_AnyConnection, _Holding] = {}
        """Of those that hold something and were not cut."""
        self._classes: list[dict[_AnyConnection, None]] = [{} for _ in range(64)]
        """By the number of bits of their size."""
        self._cut_bytes: dict[_AnyConnection, int] = {}
        """What those held that were cut and have not ended."""
        self._coming = 0
        """The sum of these, which will be free."""
        self._line: dict[Any, None] = {}
        """The wires whose readers wait for room."""
        self._short_line: dict[Any, None] = {}
        """Those of them whose last read was small."""
        self._making_room = False
        self._let_in = 0
        """How many were let in so far."""
        self._offered = False
        """Whether `_admit_some` will be called in the next turn."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        """Bytes that count."""
        return self._most - self.free

    def add(self, connection: _AnyConnection) -> None:
        """Count what `connection`, whose wire is plain as yet, holds from now on."""
        self._wires[connection] = wire = connection.socket._wire
        wire.allowance = self

    def discard(self, connection: _AnyConnection) -> None:
        """`connection` has ended, and holds nothing any more."""
        wire = self._wires.pop(connection, None)
        if wire is None:
            return
        wire.allowance = None
        cut = self._cut_bytes.pop(connection, 0)
        self._coming -= cut
        self.free += wire.in_hand + self._forget(connection) + cut
        wire.in_hand = 0
        if self.crowded:
            self.offer_room()

    def note(self, connection: _AnyConnection, count: int) -> None:
        """The wire of `connection` holds `count` bytes from now on."""
        self._note(connection, "waiting", count)

    def note_buffered(self, connection: _AnyConnection, count: int) -> None:
        """The socket's buffer of `connection`, into which the last read has gone, holds `count` bytes."""
        if wire := self._wires.get(connection):
            self.let_go(wire)
        self._note(connection, "buffered", count)

    def _note(self, connection: _AnyConnection, part: str, count: int) -> None:
        holding = self._holdings.get(connection)
        if holding is None:
            if not count or connection in self._cut_bytes or connection not in self._wires:
                return
            holding = self._holdings[connection] = _Holding()
        before = holding.size
        setattr(holding, part, count)
        self._resize(connection, before, holding.size)
        if not holding.size:
            del self._holdings[connection]
        self._make_room(0)
        if self._may_admit:
            self.offer_room()

    def _resize(self, connection: _AnyConnection, before: int, after: int) -> None:
        self.free -= after - before
        old, new = before.bit_length(), after.bit_length()
        if old != new:
            self._classes[old].pop(connection, None)
            if after:
                self._classes[new][connection] = None

    def _forget(self, connection: _AnyConnection) -> int:
        """Strike it off those that may be cut; return what it held."""
        holding = self._holdings.pop(connection, None)
        if holding is None:
            return 0
        size = holding.size
        self._classes[size.bit_length()].pop(connection, None)
        return size

    # Cutting ------------------------------------------------------------------------------------------

    def _make_room(self, wanted: int) -> None:
        """Cut the largest until so many bytes will be free once they have ended."""
        if self._making_room:  # this is what the one that was shrunk or cut had to say
            return
        self._making_room = True
        try:
            self._cut_largest(wanted)
        finally:
            self._making_room = False

    def _cut_largest(self, wanted: int) -> None:
        while self.free + self._coming < wanted:
            largest = self._largest()
            if largest is None:
                return
            size = self._holdings[largest].size
            largest.socket._wire.shrink()
            if (holding := self._holdings.get(largest)) is not None and holding.size == size:
                self._count_as_cut(largest, size)
                self._forget(largest)
                self._cut(largest)

    def _largest(self) -> _AnyConnection | None:
        for members in reversed(self._classes):
            if members:
                return next(iter(members))
        return None

    def _count_as_cut(self, connection: _AnyConnection, size: int) -> None:
        self._cut_bytes[connection] = self._cut_bytes.get(connection, 0) + size
        self._coming += size

    # Admission ----------------------------------------------------------------------------------------

    def wait_for_room(self, wire: Any) -> None:
        """Put the reader of `wire` into the line; see `Allowance`."""
        (self._short_line if wire._reads_little else self._line)[wire] = None
        self.crowded = True
        self._make_room(self.least)
        if self._may_admit:
            self.offer_room()
        if self._timer is None:
            self._wait_patiently()

    @property
    def _may_admit(self) -> bool:
        """Whether there is room for a reader that waits for it."""
        room = self.free - self.least
        return bool((self._line and room >= 0) or (self._short_line and room + self.reserve >= 0))

    def offer_room(self) -> None:
        """Let readers in in the next turn."""
        if not self._offered and not self._loop.is_closed():
            self._offered = True
            self._loop.call_soon(self._admit_some)

    def _admit_some(self) -> None:
        self._offered = False
        admitted = self._admit_from(self._short_line, self.reserve)
        admitted += self._admit_from(self._line, 0)
        self._let_in += admitted
        self.crowded = bool(self._line or self._short_line)
        if not self.crowded:
            return
        self._make_room(self.least)
        if self._may_admit:
            self.offer_room()

    def _admit_from(self, line: dict[Any, None], reserve: int) -> int:
        """Wake some readers of `line` that fit into what is free and `reserve`; return how many."""
        admitted = 0
        while line and self.free + reserve >= self.least and admitted < _AT_ONCE:
            wire = next(iter(line))
            del line[wire]
            if wire.allowance is self and wire.waits_for_input:
                self.take_in_hand(wire, self.least)
                wire._wake_reader()
                admitted += 1
        return admitted

    def _wait_patiently(self) -> None:
        self._timer = self._loop.call_later(_PATIENCE, self._lose_patience, self._let_in)

    def _lose_patience(self, let_in: int) -> None:
        self._timer = None
        if not self.crowded:
            return
        if self._let_in == let_in:
            self._take_from_handlers()
        self._wait_patiently()

    def _take_from_handlers(self) -> None:
        """No memory became free, though readers wait for it."""
        if self._coming:
            self.free += self._coming
            self._coming = 0
            self._cut_bytes.clear()
        else:
            in_hand = {connection: wire.in_hand for connection, wire in self._wires.items() if wire.in_hand}
            for connection in heapq.nlargest(_AT_ONCE, in_hand, key=in_hand.__getitem__):
                self._count_as_cut(connection, in_hand[connection])
                self._wires[connection].in_hand = 0
                self._cut(connection)
        if self._may_admit:
            self.offer_room()

    def close(self) -> None:
        """All have ended."""
        if self._timer is not None:
            self._timer.cancel()
