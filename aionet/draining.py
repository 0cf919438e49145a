"""Ending connections: in good order while there is time, and for certain when there is none left.

Theory of operation
-------------------
Three steps, each for those whom the one before did not end: wait for the time of grace; cancel the task,
whose connection then closes gracefully, or is reset in the middle of a write; abort the connection. The last
step cannot make a handler return that swallows its cancellation, but it takes its connection away, and the
drain waits for it no longer: the report shows where it was.

*A connection that closes* is no handler that does not end: its handler has returned, or is itself in the
socket's `aclose`, which may have to wait for a slow peer (`linger`, `close_notify_wait`). It is not cancelled
at the end of the grace, and counts as what its handler did. The time for it ends before that for handlers
does, whatever the options of the socket say: three quarters into the hard limit its task is cancelled, by
which `aclose` closes at once, cleanly if all was sent. So what is left at the hard limit is a handler.

*Act, then announce*: everything is aborted before anything of it is logged.

*In slices.* Each step goes through its connections in slices (`wires/slices.py`), so that the loop has turns
in between. The hard limit counts from the end of the grace, however long the work takes. Only where so many
are cancelled that little of it is left, the last ones have a quarter of it.

Cancelling all at once would send all clients back at once, to whatever takes over. So it may be spread over
the last seconds of the grace.
"""

from __future__ import annotations

import asyncio
import math
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import CodeType, FrameType
from typing import Any, TypeAlias

from .announcing import Log
from .close_reason import CloseCause
from .connection import Connection
from .wires.budget import END_UNITS
from .wires.slices import Slice

__all__ = ["Drain", "DrainReport", "Straggler", "leave_behind"]

_log = Log("aionet.server")

_OWN_FILES = os.path.dirname(__file__) + os.sep
_CLOSING_SHARES = (0.75, 0.95)  # of the hard limit: when connections that close have had enough time
_LEAST_SHARE = 0.25  # of the hard limit, for those that are cancelled last
_LAST_CHANCE = 0.5  # seconds for handlers to end whose connection was taken away


@dataclass(frozen=True, slots=True)
class Straggler:
    """A handler that did not end when it was cancelled."""

    peer: str
    """Whom it served."""
    stack: str
    """Where it was, as a traceback, without the frames of this package."""


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How the connections ended that were being served when the drain began."""

    finished: int
    """Handlers that ended by themselves within the grace; their connections may have closed later."""
    cancelled: int
    """Handlers that ended after being cancelled."""
    aborted: int
    """Connections that were reset, because their handler did not end even then."""
    seconds: float
    """How long it all took."""
    stragglers: tuple[Straggler, ...] = ()
    """Those of the aborted."""
    closing: int = 0
    """Of the finished and the cancelled, connections that were still closing when the time for that was over,
    and were closed at once: in a reset where not all was sent, else cleanly."""

    def __str__(self) -> str:
        closing = f" ({self.closing} of them were still closing)" if self.closing else ""
        return (
            f"{self.finished} finished, {self.cancelled} cancelled{closing}, {self.aborted} aborted"
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
        self._given = tuple(connections)
        self._connections: dict[asyncio.Task[None], Connection[Any]] = {}
        self._cancelled: set[asyncio.Task[None]] = set()
        self._stacks: dict[_Place, str] = {}
        """What was formatted already: the stragglers of one handler mostly wait at one place."""
        self._running = len(self._given)
        self._all_ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._grace_ends = self._began + grace
        self._hard = hard
        self._hard_ends = math.inf
        """Known once the cancellations have begun."""
        self._spread = min(spread, grace)
        self._deadline: asyncio.Timeout | None = None  # of the wait that is in progress,
        self._until: Callable[[], float] = self._hard_limit  # and when it ends
        self.done = False
        """Whether nothing waits for these connections any longer."""

    async def run(self) -> DrainReport:
        """Go through the steps; return as soon as all have ended. Cancel safety: it stops where it is."""
        try:
            await self._follow()
            await self._wait(partial(self._grace_limit, 0.0))
            await self._cancel_the_rest()
            closing: set[asyncio.Task[None]] = set()
            for share in _CLOSING_SHARES:
                await self._wait(partial(self._hard_limit, share))
                closing |= await self._hurry_those_that_close()
            await self._wait(self._hard_limit)
            report, stragglers = await self._abort_the_rest(closing)
        finally:  # even if it fails: serving waits for it
            self.done = True
        slice = Slice()
        for straggler, connection in stragglers:
            await slice.turn()
            _log.warning(
                "handler for %s did not end when it was cancelled:\n%s",
                straggler.peer,
                straggler.stack,
                extra={"connection_id": connection.id},
            )
        return report

    def _hard_limit(self, share: float = 1.0) -> float:
        """When so much of the time between the cancellations and the end is over."""
        return self._hard_ends - self._hard * (1 - share)

    def _grace_limit(self, share: float) -> float:
        """When so much of the time in which the cancellations are spread is over."""
        return self._grace_ends - self._spread * (1 - share)

    def hurry(self, grace: float, hard: float) -> None:
        """Let the grace end in `grace` seconds and what follows take `hard`, where that is sooner."""
        now = self._loop.time()
        self._grace_ends = min(self._grace_ends, now + grace)
        self._spread = min(self._spread, grace)
        self._hard = min(self._hard, hard)
        self._hard_ends = min(self._hard_ends, max(now, self._grace_ends) + hard)
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(min(self._until(), self._deadline.when() or math.inf))

    async def _follow(self) -> None:
        """Have the end of each task noted: once, and not at each of the many waits of a spread."""
        slice = Slice()
        for connection in self._given:
            await slice.turn()
            self._connections[connection.task] = connection
            connection.task.add_done_callback(self._on_end)

    async def _cancel_the_rest(self) -> None:
        self._hard_ends = max(self._loop.time(), self._grace_ends) + self._hard
        tasks = self._left()
        slice = Slice()
        for number, task in enumerate(tasks):
            share = number / len(tasks)
            if self._spread and self._grace_limit(share) > self._loop.time():
                await self._wait(partial(self._grace_limit, share))
            else:
                await slice.turn()
            if not task.done() and not _is_closing(self._connections[task]):
                slice.take(END_UNITS)
                self._cancel(task)
        self._hard_ends = max(self._hard_ends, self._loop.time() + self._hard * _LEAST_SHARE)

    async def _hurry_those_that_close(self) -> set[asyncio.Task[None]]:
        """Have them close at once; return their tasks."""
        closing = set()
        slice = Slice()
        for task in self._left():
            await slice.turn()
            if task.done() or not _is_closing(self._connections[task]):
                continue
            slice.take(END_UNITS)
            closing.add(task)
            if self._connections[task].phase == "closing":
                task.cancel("the server is draining")
            else:
                self._cancel(task)
        return closing

    async def _abort_the_rest(
        self, closing: set[asyncio.Task[None]]
    ) -> tuple[DrainReport, list[tuple[Straggler, Connection[Any]]]]:
        """Take the connections of the handlers that are left away; return the report and the stragglers."""
        stragglers = []
        slice = Slice()
        for task in self._left():
            await slice.turn()
            connection = self._connections[task]
            if task.done():
                continue
            slice.take(END_UNITS)
            if _is_closing(connection):  # since a moment
                connection.socket.abort()
                closing.add(task)
            else:
                stragglers.append((self._abort(task), connection))
                closing.discard(task)
                self._cancelled.discard(task)
        report = DrainReport(
            finished=len(self._connections) - len(self._cancelled) - len(stragglers),
            cancelled=len(self._cancelled),
            aborted=len(stragglers),
            seconds=self._loop.time() - self._began,
            stragglers=tuple(straggler for straggler, _ in stragglers),
            closing=len(closing),
        )
        return report, stragglers

    def _cancel(self, task: asyncio.Task[None]) -> None:
        connection = self._connections[task]
        if connection._cause is None:
            connection._cause = CloseCause.DRAINED
        self._cancelled.add(task)
        task.cancel("the server is draining")

    def _abort(self, task: asyncio.Task[None]) -> Straggler:
        connection = self._connections[task]
        straggler = Straggler(str(connection.socket.peer_address), _stack_of(task, self._stacks))
        if connection._cause is CloseCause.DRAINED:
            connection._cause = CloseCause.ABORTED
            self._note(connection, CloseCause.ABORTED)
        connection.socket.abort()
        return straggler

    def _left(self) -> list[asyncio.Task[None]]:
        return [task for task in self._connections if not task.done()]

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._running -= 1
        if not self._running:
            self._all_ended.set()

    async def _wait(self, until: Callable[[], float]) -> None:
        """Wait for all to end, to the loop's time `until()` at the longest, which `hurry` may change."""
        if not self._running:
            return
        self._until = until
        self._deadline = asyncio.timeout_at(until())
        try:
            async with self._deadline:
                await self._all_ended.wait()
        except TimeoutError:
            pass
        finally:
            self._deadline = None


def _is_closing(connection: Connection[Any]) -> bool:
    """Whether its handler has ended, or has closed the socket, and that is still in progress."""
    socket = connection.socket
    return connection.phase == "closing" or (socket.closed and socket.fileno() != -1)


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


_Place: TypeAlias = tuple[tuple[CodeType, int], ...]
"""The code and the line of each frame of a stack."""


def _stack_of(task: asyncio.Task[None], known: dict[_Place, str]) -> str:
    """What `task` awaits, outermost first, without our frames; `get_stack` shows the first frame only."""
    frames: list[tuple[FrameType, int]] = []
    rest = ""
    try:
        frames.extend((frame, frame.f_lineno) for frame in _frames_of(task.get_coro()))
    except Exception as error:  # of an awaitable with attributes of its own; the drain must not fail by it
        rest = f"  (the rest cannot be shown: {error!r})\n"
    theirs = [(frame, line) for frame, line in frames if not frame.f_code.co_filename.startswith(_OWN_FILES)]
    place = tuple((frame.f_code, line) for frame, line in theirs or frames)
    if place not in known:
        known[place] = "".join(traceback.StackSummary.extract(theirs or frames).format())
    return known[place] + rest


def _frames_of(awaited: Any) -> Iterator[FrameType]:
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
