"""Ending connections: in good order while there is time, and for certain when there is none left.

Theory of operation
-------------------
Three steps, each for those whom the one before did not end: wait for the time of grace; cancel the task,
whose connection then closes gracefully, or is reset in the middle of a write; abort the connection. The last
step cannot make a handler return that swallows its cancellation, but it takes its connection away, and the
drain waits for it no longer: the report shows where it was.

Cancelling all at once would send all clients back at once, to whatever takes over. So it may be spread over
the last seconds of the grace.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from .announcing import Log
from .close_reason import CloseCause
from .connection import Connection

__all__ = ["Drain", "DrainReport", "Straggler", "leave_behind"]

_log = Log("aionet.server")

_LAST_CHANCE = 0.5  # seconds for handlers to end whose connection was taken away


@dataclass(frozen=True, slots=True)
class Straggler:
    """A handler that did not end when it was cancelled."""

    peer: str
    """Whom it served."""
    stack: str
    """Where it was, as a traceback."""


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
    stragglers: tuple[Straggler, ...] = ()
    """Those of the aborted."""

    def __str__(self) -> str:
        return (
            f"{self.finished} finished, {self.cancelled} cancelled, {self.aborted} aborted"
            f" in {self.seconds:.2f} s"
        )


class Drain:
    """One drain of a set of connections: `grace` seconds, cancel, `hard` seconds, abort.

    The cancellations are spread over the last `spread` seconds of the grace. `note(connection, cause)` is
    called before a connection is aborted, while its facts are still known.
    """

    def __init__(
        self,
        connections: Iterable[Connection[Any]],
        grace: float,
        hard: float,
        spread: float = 0.0,
        *,
        note: Callable[[Connection[Any], CloseCause], object],
    ) -> None:
        self._note = note
        self._connections = {connection.task: connection for connection in connections}
        self._cancelled: set[asyncio.Task[None]] = set()
        self._running = len(self._connections)
        self._all_ended = asyncio.Event()
        for task in self._connections:  # once, and not at each of the many waits of a spread
            task.add_done_callback(self._on_end)
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._grace_ends = self._began + grace
        self._hard = hard
        self._spread = min(spread, grace)
        self._in_grace = True
        self._deadline: asyncio.Timeout | None = None  # of the wait that is going on
        self.done = False
        """Whether nobody waits for these connections any longer."""

    async def run(self) -> DrainReport:
        """Go through the steps; return as soon as all have ended. Cancel safety: it stops where it is."""
        try:
            await self._wait(self._grace_ends - self._spread)
            await self._cancel_the_rest()
            self._in_grace = False
            await self._wait(self._loop.time() + self._hard)
            stragglers = self._left()
            return DrainReport(
                finished=len(self._connections) - len(self._cancelled),
                cancelled=len(self._cancelled) - len(stragglers),
                aborted=len(stragglers),
                seconds=self._loop.time() - self._began,
                stragglers=tuple(self._abort(task) for task in stragglers),
            )
        finally:  # even if it fails: serving waits for it
            self.done = True

    def hurry(self, grace: float, hard: float) -> None:
        """Let the grace end in `grace` seconds and what follows take `hard`, where that is sooner."""
        now = self._loop.time()
        self._grace_ends = min(self._grace_ends, now + grace)
        self._spread = min(self._spread, grace)
        self._hard = min(self._hard, hard)
        if self._deadline is not None:
            ends = self._grace_ends if self._in_grace else now + hard
            self._deadline.reschedule(min(ends, self._deadline.when() or ends))

    async def _cancel_the_rest(self) -> None:
        tasks = self._left()
        for number, task in enumerate(tasks):
            if number and self._spread:
                await self._wait(self._grace_ends - self._spread * (1 - number / len(tasks)))
            if not task.done():
                self._cancel(task)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        connection = self._connections[task]
        if connection._cause is None:
            connection._cause = CloseCause.DRAINED
        self._cancelled.add(task)
        task.cancel("the server is draining")

    def _abort(self, task: asyncio.Task[None]) -> Straggler:
        connection = self._connections[task]
        straggler = Straggler(str(connection.socket.peer_address), _stack_of(task))
        if connection._cause is CloseCause.DRAINED:
            connection._cause = CloseCause.ABORTED
            self._note(connection, CloseCause.ABORTED)
        connection.socket.abort()
        _log.warning(
            "handler for %s did not end when it was cancelled:\n%s",
            straggler.peer,
            straggler.stack,
            extra={"connection": connection.id},
        )
        return straggler

    def _left(self) -> list[asyncio.Task[None]]:
        return [task for task in self._connections if not task.done()]

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._running -= 1
        if not self._running:
            self._all_ended.set()

    async def _wait(self, until: float) -> None:
        """Wait for all to end, to the loop's time `until` at the longest."""
        if not self._running:
            return
        self._deadline = asyncio.timeout_at(until)
        try:
            async with self._deadline:
                await self._all_ended.wait()
        except TimeoutError:
            pass
        finally:
            self._deadline = None


async def leave_behind(
    connections: Iterable[Connection[Any]], last_words: Callable[[str], object], status: int = 0
) -> None:
    """End the process where handlers ignore even the loss of their connection, after some `last_words`.

    Closing the loop would cancel them once more and then wait for them, for ever. Cancel safety: it goes on.
    """
    tasks = [connection.task for connection in connections]
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=_LAST_CHANCE)
        if left:
            try:
                last_words(f"{len(left)} handlers ignored their cancellation and are left behind")
            finally:  # whatever they fail with
                os._exit(status)


def _stack_of(task: asyncio.Task[None]) -> str:
    """All of what `task` awaits, outermost first; its own `get_stack` shows the first frame only."""
    frames: list[tuple[FrameType, int]] = []
    rest = ""
    try:
        frames.extend((frame, frame.f_lineno) for frame in _frames_of(task.get_coro()))
    except Exception as error:  # of an awaitable with attributes of its own; the drain must not fail by it
        rest = f"  (the rest cannot be shown: {error!r})\n"
    return "".join(traceback.StackSummary.extract(frames).format()) + rest


def _frames_of(awaited: Any) -> Iterator[FrameType]:
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
