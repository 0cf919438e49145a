"""A write limit for the side of a relay that no spawner looks after: its target.

Theory of operation
-------------------
The socket is looked at a dozen times within the limit, as `limiting/deadlines.py` does with those of clients.
Progress is what the peer's TCP has acknowledged, and not only what the kernel has taken: a target that
vanished (its cable was cut) acknowledges nothing, while a short request is long in the kernel's buffer. Where
that cannot be known, on Unix sockets, it is what the kernel has taken of a write that waits.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import SocketClosedError
from ..stream_socket import AsyncStreamSocket
from ..tcp_socket import AsyncTcpSocket

__all__ = ["WriteWatch"]

_LOOKS = 12  # within the limit


class WriteWatch:
    """Aborts `socket` when it takes nothing of what was written to it for `limit` seconds.

    ``async with`` watches for as long as the block lasts. Without a limit it does nothing.
    """

    def __init__(self, socket: AsyncStreamSocket[Any], limit: float | None) -> None:
        self._socket = socket
        self._limit = limit
        self._task: asyncio.Task[None] | None = None
        self.stalled = False
        """Whether it was aborted."""

    async def __aenter__(self) -> WriteWatch:
        if self._limit is not None:
            self._task = asyncio.create_task(self._watch(self._limit))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self, limit: float) -> None:
        time = asyncio.get_running_loop().time
        before, since = None, time()
        while not self._socket.closed:
            taken = self._taken()
            if taken is None or taken != before:
                before, since = taken, time()
            elif time() - since >= limit:
                self.stalled = True
                self._socket.abort()
                return
            await asyncio.sleep(limit / _LOOKS)

    def _taken(self) -> int | None:
        """Return how many bytes the peer has taken, ``None`` if no others wait for it."""
        wire = self._socket._wire
        waiting = 0
        if isinstance(self._socket, AsyncTcpSocket):
            try:
                waiting = self._socket.unacknowledged
            except (NotImplementedError, SocketClosedError):
                pass
        return wire.bytes_written - waiting if waiting or wire.waits_for_room else None
