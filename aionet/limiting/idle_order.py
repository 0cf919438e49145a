"""`IdleOrder`: which connection gives way when its place is needed.

Theory of operation
-------------------
*The rule.* The connection goes whose idle time, multiplied by the number of connections that its peer holds,
is the largest. Among peers that hold as many, it is the connection that has been idle for the longest. A peer
that holds a hundred connections gives way a hundred times as soon as a peer that holds one, so the one that
fills the table pays for it with its own connections.

*Second chance.* Bytes are not noted when they move (`deadlines.py`). What is known of a connection is when
the latest look found that it had moved bytes, so its idle time is that at most. The first of the order is
looked at again. If it has moved nothing since, its idle time is exact, no other connection can have a larger
product, and it goes. Otherwise it takes the place that it deserves, and the next one is looked at.

*Cost.* A look finds that a connection has moved bytes at most once for each time that it does, so evictions
cost one look each, and one for a message now and then. If `_LOOKS` connections in a row have moved bytes, the
one of them with the largest product goes.

*Structure.* A heap for each peer has its connections, and a heap for each number of connections has the peers
that hold so many, both by the time of the last movement. Only the first peer of each number can have the
largest product, and among n connections there are at most √(2n) such numbers. Peers are counted as by
`max_per_peer` (`peers.py`); on Unix sockets each connection is a peer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

from ..connection import Connection
from ..peers import peer_of

__all__ = ["IdleOrder"]

_LOOKS = 128  # at connections, for one eviction
_SPARE = 16  # entries of a heap that may be out of date, beside as many as are valid

T = TypeVar("T", bound=Hashable)

_AnyConnection: TypeAlias = Connection[Any]


class IdleOrder:
    """The connections that may be evicted, by when each is known to have moved bytes for the last time."""

    def __init__(self) -> None:
        self._peers: dict[object, _Peer] = {}
        self._peer_of: dict[_AnyConnection, _Peer] = {}
        self._holding: dict[int, _ByTime[_Peer]] = {}
        """The peers by the number of connections that each holds."""

    def add(self, connection: _AnyConnection, moved_at: float) -> None:
        """`connection` may be evicted from now on; it has moved bytes at `moved_at`, or began then."""
        found = peer_of(connection.socket.peer_address)
        key = connection if found is None else found
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = _Peer(key)
        self._peer_of[connection] = peer
        self._take_out(peer)
        peer.connections.put(connection, moved_at)
        self._put_in(peer)

    def discard(self, connection: _AnyConnection) -> float | None:
        """Leave `connection` out; return when it moved bytes, or ``None`` if it was not there."""
        peer = self._peer_of.pop(connection, None)
        if peer is None:
            return None
        self._take_out(peer)
        moved_at = peer.connections.discard(connection)
        self._put_in(peer)
        return moved_at

    def update(self, connection: _AnyConnection, moved_at: float) -> None:
        """`connection`, if it is there, has moved bytes since the latest look, at about `moved_at`."""
        peer = self._peer_of.get(connection)
        if peer is not None:
            was_first = peer.connections.first()[1] is connection
            peer.connections.put(connection, max(moved_at, peer.connections.time_of(connection)))
            if was_first:
                self._put_in(peer)

    def move(self, connection: _AnyConnection) -> None:
        """`connection` is another peer's than it seemed to be: a proxy has passed it on."""
        moved_at = self.discard(connection)
        if moved_at is not None:
            self.add(connection, moved_at)

    def pick(self, now: float, look: Callable[[_AnyConnection], object]) -> _AnyConnection | None:
        """Return the connection that goes, and leave it out; ``None`` if there is none.

        `look(connection)` calls `update` if it has moved bytes since the latest look. A connection that is
        ending already is left out.
        """
        best, largest = None, -1.0
        looks = 0
        while looks < _LOOKS and (first := self._first(now)) is not None:
            connection, known = first
            if connection._cause is not None:
                self.discard(connection)
                continue
            looks += 1
            look(connection)
            peer = self._peer_of[connection]
            moved_at = peer.connections.time_of(connection)
            product = (now - moved_at) * len(peer.connections)
            if product > largest:
                best, largest = connection, product
            if moved_at <= known:
                break
        if best is not None:
            self.discard(best)
        return best

    def _first(self, now: float) -> tuple[_AnyConnection, float] | None:
        """Return the connection with the largest product, as far as is known, and when it moved bytes."""
        found, largest = None, -1.0
        for number, peers in self._holding.items():
            moved_at, peer = peers.first()
            if (now - moved_at) * number > largest:
                found, largest = peer, (now - moved_at) * number
        if found is None:
            return None
        moved_at, connection = found.connections.first()
        return connection, moved_at

    def _take_out(self, peer: _Peer) -> None:
        """Before the number of its connections changes."""
        number = len(peer.connections)
        peers = self._holding.get(number)
        if peers is not None:
            peers.discard(peer)
            if not peers:
                del self._holding[number]

    def _put_in(self, peer: _Peer) -> None:
        """After the number of its connections, or the time of the first one, has changed."""
        number = len(peer.connections)
        if not number:
            del self._peers[peer.key]
            return
        peers = self._holding.get(number)
        if peers is None:
            peers = self._holding[number] = _ByTime()
        peers.put(peer, peer.connections.first()[0])


class _ByTime(Generic[T]):
    """Items by a time each, the earliest first: a heap whose entries may be out of date."""

    __slots__ = ("_entries", "_heap", "_numbers")

    def __init__(self) -> None:
        self._entries: dict[T, tuple[float, int, T]] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = count()  # items of the same time are in the order in which they came

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, item: T, time: float) -> None:
        """Enter `item`, or change its time."""
        entry = self._entries[item] = (time, next(self._numbers), item)
        heappush(self._heap, entry)
        self._shrink()

    def discard(self, item: T) -> float | None:
        """Take `item` out, if it is there; return its time."""
        entry = self._entries.pop(item, None)
        if entry is None:
            return None
        self._shrink()  # here, too: else `first` removes the entries of thousands that have ended, one by one
        return entry[0]

    def _shrink(self) -> None:
        if len(self._heap) > 2 * len(self._entries) + _SPARE:
            self._heap = list(self._entries.values())
            heapify(self._heap)

    def time_of(self, item: T) -> float:
        """Return the time of `item`, which is there."""
        return self._entries[item][0]

    def first(self) -> tuple[float, T]:
        """Return the earliest time and its item; there must be one."""
        heap = self._heap
        while self._entries.get(heap[0][2]) is not heap[0]:
            heappop(heap)
        return heap[0][0], heap[0][2]


class _Peer:
    """A peer and its connections."""

    __slots__ = ("connections", "key")

    def __init__(self, key: object) -> None:
        self.key = key
        self.connections: _ByTime[_AnyConnection] = _ByTime()
