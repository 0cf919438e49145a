"""Turning over a full table: newcomers that say nothing, each of which has a connection evicted.

Point 1 of what a server with ``on_full="evict_idle"`` has to stand. The attacker keeps the newest
connections open and forgets the older ones, which the server has evicted by then. An event is a newcomer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .attacker import Target


def attack(target: Target, slots: int = 200) -> Iterator[tuple[int, int]]:
    """Fill a table of `slots`, then turn it over."""
    newest = deque(target.connect() for _ in range(slots))
    try:
        yield 0, 0
        while True:
            newest.append(target.connect())
            newest.popleft().close()
            yield 1, 0
    finally:
        for sock in newest:
            sock.close()
