"""A limit on the handshakes that are in progress.

Theory of operation
-------------------
A handshake costs more than anything that a client can ask for by a few bytes, and one that is not finished
holds its memory until its deadline. When as many are in progress as may be, the servers whose connections
begin with one are held, in the very step that took the last of them: others wait in the kernel's queue, and
the cap is exact. Each that ends, however it ends, lets one more in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..accepting import Acceptor
from ..connection import Connection

__all__ = ["Handshakes"]


class Handshakes:
    """The handshakes in progress; holds `acceptors` while there are `most` of them."""

    def __init__(self, most: int, acceptors: Sequence[Acceptor]) -> None:
        self._most = most
        self._acceptors = acceptors
        self._going_on: set[Connection[Any]] = set()

    @property
    def room(self) -> int:
        """How many may begin now; at least 1, because a held acceptor accepts none anyway."""
        return max(1, self._most - len(self._going_on))

    def begin(self, connection: Connection[Any]) -> None:
        """That of `connection` begins."""
        self._going_on.add(connection)
        if len(self._going_on) == self._most:
            for acceptor in self._acceptors:
                acceptor.hold(self)

    def end(self, connection: Connection[Any]) -> None:
        """That of `connection` has ended; it may have been told before."""
        if connection in self._going_on:
            self._going_on.remove(connection)
            for acceptor in self._acceptors:
                acceptor.release(self)
