"""`PeerRate`: how many connections a second each peer may begin.

Theory of operation
-------------------
Each peer has a token bucket, as in `admission.py`, but only one number is kept of it: the time at which it
is full again. A connection moves that by the time of one token, and there is a token as long as it is not
further away than an empty bucket takes to fill, less one token (the generic cell rate algorithm, ITU-T I.371,
in its form of virtual scheduling).

*Memory.* A full bucket and no entry mean the same. Entries stand in the order of their last connections, and
a timer forgets those that are full, so many at a time. So an entry lives for as long as its bucket takes to
fill, a second or the time of one token, whichever is longer, and for half of that again at the most until
the timer comes. There are never more than 65,536 entries: beyond that the oldest is forgotten, and its peer
has a full bucket again. A stranger with so many addresses gains nothing by that: each of them had one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["PeerRate"]

_MOST = 65536  # entries
_AT_A_TIME = 256  # entries that are forgotten in one step


class PeerRate:
    """So many connections a second of each peer, and as many at once (at least one)."""

    def __init__(self, rate: float, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._token = 1 / rate
        self._fills_in = max(rate, 1.0) * self._token
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()
        self._timer: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._full_at)

    def allows(self, peer: Hashable) -> bool:
        """Whether `peer` may begin one more now."""
        full_at = self._full_at.get(peer)
        rounding = self._token * 1e-6
        return full_at is None or full_at - self._loop.time() <= self._fills_in - self._token + rounding

    def take(self, peer: Hashable) -> None:
        """`peer` begins one, which was allowed."""
        now = self._loop.time()
        self._full_at[peer] = max(self._full_at.pop(peer, now), now) + self._token
        if len(self._full_at) > _MOST:
            self._full_at.popitem(last=False)
        if self._timer is None:
            self._timer = self._loop.call_later(self._fills_in, self._forget)

    def close(self) -> None:
        """Forget everything."""
        self._full_at.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        """Forget some of those that are full; come again for the others."""
        now, entries = self._loop.time(), self._full_at
        self._timer = None
        for _ in range(min(_AT_A_TIME, len(entries))):
            peer, full_at = next(iter(entries.items()))
            if full_at > now:
                self._timer = self._loop.call_at(max(full_at, now + self._fills_in / 2), self._forget)
                return
            del entries[peer]
        if entries:
            self._timer = self._loop.call_soon(self._forget)
