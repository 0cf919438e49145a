"""A limit on the memory that all connections' waiting writes hold together.

Theory of operation
-------------------
A write that the peer does not take holds its data. One such write is the handler's own affair; thousands of
peers that do not read are memory that nobody counted. Every wire says how much its queue holds whenever that
changes, so the sum is always known, and when it exceeds the limit the connections that hold the most are
reset until it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..connection import Connection

__all__ = ["PendingBytes"]


class PendingBytes:
    """The bytes that waiting writes hold, by connection."""

    def __init__(self, most: int, cut: Callable[[Connection[Any]], object]) -> None:
        """`cut(connection)` resets it, which lets go of its bytes."""
        self._most = most
        self._cut = cut
        self._held: dict[Connection[Any], int] = {}
        self._sum = 0

    def note(self, connection: Connection[Any], count: int) -> None:
        """`connection` holds `count` bytes from now on."""
        self._sum += count - self._held.pop(connection, 0)
        if count:
            self._held[connection] = count
        while self._sum > self._most and self._held:
            largest = max(self._held, key=self._held.__getitem__)
            self.discard(largest)  # before it is cut, which may come back to here
            self._cut(largest)

    def discard(self, connection: Connection[Any]) -> None:
        """`connection` holds nothing any more."""
        self._sum -= self._held.pop(connection, 0)
