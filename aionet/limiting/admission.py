"""Who gets in: how many from one peer, and how many a second.

Theory of operation
-------------------
What a peer is stands in `peers.py`. Peers without an IP address, on Unix sockets, are not counted.

The rate is a token bucket: it fills with `rate` tokens a second up to `rate` (at least one), and a connection
takes one. What is not accepted waits in the kernel's queue.

*Only what is served takes a token.* A connection that is turned away gives its token back, and one that its
peer has reset before it was accepted takes none. Otherwise a stranger that does nothing but connect, beyond
its own limits or only to leave again, would use up the rate of all others. A peer that has ended its side and
not reset the connection may wait for an answer, and takes one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..accepting import Acceptor
from ..connection import Connection
from ..peers import peer_of

__all__ = ["AcceptRate", "PeerCounts", "TokenBucket"]


class PeerCounts:
    """Counts the connections of each peer, up to a limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[Any] = Counter()
        self._peer_of: dict[Connection[Any], Any] = {}

    def allows(self, peer: Any) -> bool:
        """Whether `peer`, as `peer_of` has it, may have one more."""
        return peer is None or self._counts.get(peer, 0) < self._most

    def admit(self, connection: Connection[Any]) -> bool:
        """Count `connection`, unless its peer has as many as it may; whether it was."""
        peer = peer_of(connection.socket.peer_address)
        if peer is None:
            return True
        if not self.allows(peer):
            return False
        self._counts[peer] += 1
        self._peer_of[connection] = peer
        return True

    def discard(self, connection: Connection[Any]) -> None:
        """`connection` has ended; it may never have been counted."""
        peer = self._peer_of.pop(connection, None)
        if peer is not None:
            self._counts[peer] -= 1
            if not self._counts[peer]:
                del self._counts[peer]  # peers come and go: only those that are here take memory


class TokenBucket:
    """So many a second, and as many at once."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._capacity = max(rate, 1.0)
        self._tokens = self._capacity
        self._filled_at = now

    def fill(self, now: float) -> int:
        """Return how many may come at the time `now`."""
        self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return int(self._tokens)

    def take(self, count: int) -> None:
        """So many came; more than there was room for delay the next."""
        self._tokens -= count

    @property
    def seconds_to_next(self) -> float:
        """Seconds until one more may come."""
        return max(0.0, (1.0 - self._tokens) / self._rate)


class AcceptRate:
    """Holds `acceptors` while no more connections may come."""

    def __init__(self, rate: float, acceptors: Sequence[Acceptor]) -> None:
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(rate, self._loop.time())
        self._acceptors = acceptors
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def room(self) -> int:
        """How many may be accepted now; at least 1, because a held acceptor accepts none anyway."""
        return max(1, self._bucket.fill(self._loop.time()))

    def take(self, count: int) -> None:
        """So many were accepted."""
        self._bucket.take(count)
        if self._timer is None and not self._closed and self._bucket.fill(self._loop.time()) < 1:
            for acceptor in self._acceptors:
                acceptor.hold(self)
            self._timer = self._loop.call_later(self._bucket.seconds_to_next, self._release)

    def give_back(self) -> None:
        """One of those that were accepted was turned away."""
        self._bucket.take(-1)
        if self._timer is not None and self._bucket.fill(self._loop.time()) >= 1:
            self._timer.cancel()
            self._release()

    def close(self) -> None:
        """There will be no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _release(self) -> None:
        self._timer = None
        for acceptor in self._acceptors:
            acceptor.release(self)
