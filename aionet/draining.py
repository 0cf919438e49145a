"""Ending connections: in good order while there is time, and for certain when there is none left.

Theory of operation
-------------------
Three steps, each for those whom the one before did not end: wait for the time of grace; cancel the task,
whose connection then closes gracefully; abort the connection. The last step cannot make a handler return that
swallows its cancellation, but it takes its connection away, and nobody waits for it any longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .connection import Connection

__all__ = ["Drain", "DrainReport"]


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How the connections ended that were being served when the drain began."""

    finished: int
    """Handlers that ended by themselves within the grace."""
    cancelled: int
    """Handlers that ended after being cancelled."""
    aborted: int
    """Connections that were reset, because their handler did not end even then."""
    seconds: float
    """How long it all took."""

    def __str__(self) -> str:
        return (
            f"{self.finished} finished, {self.cancelled} cancelled, {self.aborted} aborted"
            f" in {self.seconds:.2f} s"
        )


class Drain:
    """One drain of a set of connections: `grace` seconds, cancel, `hard` seconds, abort."""

    def __init__(self, connections: Iterable[Connection[Any]], grace: float, hard: float) -> None:
        self._connections = {connection.task: connection for connection in connections}
        self._loop = asyncio.get_running_loop()
        self._grace_ends = self._loop.time() + grace
        self._hard = hard
        self._grace: asyncio.Timeout | None = None  # while it lasts
        self.done = False
        """Whether nobody waits for these connections any longer."""

    async def run(self) -> DrainReport:
        """Go through the steps; return as soon as all have ended. Cancel safety: it stops where it is."""
        started = self._loop.time()
        pending = set(self._connections)
        self._grace = asyncio.timeout_at(self._grace_ends)
        pending = await _wait(pending, self._grace)
        self._grace = None
        finished = len(self._connections) - len(pending)
        for task in pending:
            task.cancel("the server is draining")
        stragglers = await _wait(pending, asyncio.timeout(self._hard))
        for task in stragglers:
            self._connections[task].socket.abort()
        self.done = True
        return DrainReport(
            finished=finished,
            cancelled=len(pending) - len(stragglers),
            aborted=len(stragglers),
            seconds=self._loop.time() - started,
        )

    def hurry(self, grace: float) -> None:
        """Let the time of grace end in `grace` seconds, if that is sooner."""
        ends = self._loop.time() + grace
        if ends < self._grace_ends:
            self._grace_ends = ends
            if self._grace is not None:
                self._grace.reschedule(ends)


async def _wait(tasks: set[asyncio.Task[None]], timeout: asyncio.Timeout) -> set[asyncio.Task[None]]:
    """Wait for all of `tasks`; return those that are left after the time-out."""
    try:
        async with timeout:
            if tasks:
                await asyncio.wait(tasks)
    except TimeoutError:
        pass
    return {task for task in tasks if not task.done()}
