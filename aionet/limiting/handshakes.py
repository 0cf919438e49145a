"""Limits on the handshakes that are in progress.

Theory of operation
-------------------
A handshake costs more than anything that a client can ask for by a few bytes, and one that is not finished
holds its memory until its deadline. `HandshakePlaces` decides which handshake may begin, and which one ends
for another. While all places are taken and no handshake may be ended yet, the servers whose connections begin
with one are held, in the very step that took the last place: others wait in the kernel's queue, and the cap
is exact. A handshake that ends, however it ends, releases them, and so does the time at which one may be
ended. That one is cut only when a connection was accepted that may have its place.

*The peer* of a connection with a preface is known when that has ended, and until then a peer of its own: the
address is a proxy's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ..accepting import Acceptor
from ..connection import Connection
from ..handshake_places import MIN_AGE, HandshakePlaces
from ..peers import peer_of
from .limits import ConnectionLimits

__all__ = ["Handshakes"]


class Handshakes:
    """The handshakes in progress; holds `acceptors` while there is no place for another one."""

    def __init__(
        self,
        limits: ConnectionLimits,
        acceptors: Sequence[Acceptor],
        cut: Callable[[Connection[Any]], object],
    ) -> None:
        """`cut(connection)` ends the handshake of a connection for another one."""
        min_age = min(MIN_AGE, (limits.handshake_timeout or MIN_AGE * 2) / 2)
        most, most_of_peer = limits.max_handshakes, limits.max_handshakes_per_peer
        self._places: HandshakePlaces[Connection[Any]] = HandshakePlaces(most, most_of_peer, min_age)
        self._most = most
        self._acceptors = acceptors
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def needed(limits: ConnectionLimits) -> bool:
        """Whether `limits` has anything to say about handshakes, but for how long they take."""
        return limits.max_handshakes is not None or limits.max_handshakes_per_peer is not None

    def room(self, most: int) -> int:
        """How many may be accepted now, up to `most`; at least 1, because held acceptors accept none."""
        return most if self._most is None else max(1, min(most, self._most - len(self._places)))

    def allows(self, peer: Any) -> bool:
        """Whether one of `peer`, as `peer_of` has it, may begin."""
        if self._places.seconds_to_next(self._loop.time()) > 0:
            return False  # another server's connection has taken the place since
        return peer is None or self._places.allows(peer)

    def begin(self, connection: Connection[Any], *, named: bool) -> None:
        """That of `connection` begins, which is allowed; its peer is known if it is `named`."""
        evicted = self._places.gives_way()
        if evicted is not None:
            self._places.end(evicted)
            self._cut(evicted)
        now = self._loop.time()
        peer = peer_of(connection.socket.peer_address) if named else None
        self._places.begin(connection, connection if peer is None else peer, now)
        self._hold_for(self._places.seconds_to_next(now))

    def name(self, connection: Connection[Any]) -> bool:
        """The peer of `connection` is known now; whether it may have this one, too."""
        peer = peer_of(connection.socket.peer_address)
        if peer is None:
            return True
        allowed = self._places.allows(peer)
        self._places.rename(connection, peer, self._loop.time())
        return allowed

    def end(self, connection: Connection[Any]) -> None:
        """That of `connection` has ended; a second call does nothing."""
        if self._places.end(connection):
            self._release()

    def close(self) -> None:
        """No more will begin."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hold_for(self, seconds: float) -> None:
        if not seconds:
            return
        for acceptor in self._acceptors:
            acceptor.hold(self)
        self.close()
        self._timer = self._loop.call_later(seconds, self._release)

    def _release(self) -> None:
        self.close()
        for acceptor in self._acceptors:
            acceptor.release(self)
