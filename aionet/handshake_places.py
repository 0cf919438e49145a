"""`HandshakePlaces`: which handshakes may be in progress, and which one ends when another needs its place.

Theory of operation
-------------------
A handshake that is not finished holds its place until its deadline, and costs its client nothing. So the
number of places alone protects memory, and lets a few addresses that say nothing shut out all others.

*A share for each peer.* A peer may have eight handshakes in progress, as a browser has, and more up to half
of the places that are free. Of a thousand places one address alone comes to a third, and forty addresses,
whatever they do, leave one in twenty free. (The rule is that of dynamic thresholds for shared buffers:
A. K. Choudhury, E. L. Hahne, 1998.) A fixed number takes the place of the rule where it is given.

*The oldest gives way.* Many peers together can still take all places. Then a newcomer gets the place of the
oldest handshake of the peer with the most, if that is old enough: an honest handshake takes one to three
round trips, so one that has been in progress for a second hardly is. As long as it is younger, newcomers
wait.

Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from .peers import PeerGroups

__all__ = ["MIN_AGE", "HandshakePlaces"]

MIN_AGE = 1.0
"""Seconds in which a handshake does not give way."""

_FEW = 8  # of a peer, however many places are free
_ROUNDING = 0.001  # seconds by which timers may be early

T = TypeVar("T", bound=Hashable)


class HandshakePlaces(Generic[T]):
    """The handshakes in progress, each of a peer. Times are seconds of one clock.

    Args:
        most: how many there may be; ``None`` for any number.
        most_of_peer: how many of one peer; by default its share of `most`.
        min_age: seconds in which a handshake does not give way.
    """

    def __init__(self, most: int | None, most_of_peer: int | None = None, min_age: float = MIN_AGE) -> None:
        self._most = most
        self._most_of_peer = most_of_peer
        self._min_age = min_age
        self._groups: PeerGroups[T] = PeerGroups()

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return self._most is not None and len(self._groups) >= self._most

    def seconds_to_next(self, now: float) -> float:
        """How long a newcomer would have to wait for a place, if no handshake ends by itself; 0 for not."""
        found = self._groups.oldest_of_largest()
        if not self.full or found is None:
            return 0.0
        seconds = found[1] + self._min_age - now
        return seconds if seconds > _ROUNDING else 0.0

    def allows(self, peer: Hashable) -> bool:
        """Whether `peer` may have one more."""
        size = self._groups.size(peer)
        if self._most_of_peer is not None:
            return size < self._most_of_peer
        return self._most is None or size < max(_FEW, (self._most - len(self._groups)) // 2)

    def gives_way(self) -> T | None:
        """Return the handshake that has to end for a newcomer; ``None`` if there is a free place."""
        found = self._groups.oldest_of_largest()
        return found[0] if self.full and found is not None else None

    def begin(self, handshake: T, peer: Hashable, now: float) -> None:
        """`handshake` begins, and is one of `peer`."""
        self._groups.add(handshake, peer, now)

    def rename(self, handshake: T, peer: Hashable, now: float) -> None:
        """`handshake`, if it is in progress, turns out to be one of `peer`; its age counts from now on."""
        if self.end(handshake):
            self.begin(handshake, peer, now)

    def end(self, handshake: T) -> bool:
        """`handshake` has ended; whether it was in progress."""
        return self._groups.discard(handshake)
