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
    """One drain of a set of connections; `done` from the moment that nobody waits for them any longer."""

    def __init__(self, connections: Iterable[Connection[Any]]) -> None:
        self._connections = {connection.task: connection for connection in connections}
        self._loop = asyncio.get_running_loop()
        self._timeout: asyncio.Timeout | None = None
        self.done = False

    async def run(self, grace: float, hard: float) -> DrainReport:
        """Wait `grace` seconds, cancel, wait `hard` seconds, abort; return as soon as all have ended."""
        started = self._loop.time()
        total = len(self._connections)
        pending = await self._wait(set(self._connections), grace)
        finished = total - len(pending)
        for task in pending:
            task.cancel("the server is draining")
        stragglers = await self._wait(pending, hard)
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
        """Let the step that is under way end in `grace` seconds, if that is sooner."""
        deadline = self._loop.time() + grace
        if self._timeout is not None and deadline < (self._timeout.when() or deadline):
            self._timeout.reschedule(deadline)

    async def _wait(self, tasks: set[asyncio.Task[None]], seconds: float) -> set[asyncio.Task[None]]:
        """Wait for all of `tasks`; return those that are left after `seconds`."""
        if not tasks:
            return tasks
        try:
            async with asyncio.timeout(seconds) as self._timeout:
                await asyncio.wait(tasks)
        except TimeoutError:
            pass
        return {task for task in tasks if not task.done()}
