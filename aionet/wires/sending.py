"""The writes of one socket that wait for room in the kernel's buffer, first in, first out.

Theory of operation
-------------------
A write that did not go at once stands in this queue as an `Outgoing`. The reactor's event, not the waiting
task, hands the bytes to the kernel: a task that is cancelled meanwhile takes nothing with it. What was not
begun is withdrawn with its task; what was begun goes on alone, and if it is lost then, `torn` remembers it
until somebody is told.

*Shortage.* A write is in the queue only if an event or a callback will advance it. Where none can be had
(epoll_ctl(2) fails), or the kernel has no memory for the bytes, the write raises and is withdrawn; if a part
of it was sent, the stream is broken.

*Interrupted* by the handler of a signal, a write in the queue continues. If a part of a write may be with the
kernel and the rest can neither be sent nor queued, for want of memory, the stream is broken, too.

However many writes wait, each change costs the same: the sums (`remaining`, `held`) are kept up to date, and
an entry can leave from any place of the queue.

While something is in the queue, the reactor keeps the wire alive, and with it the queue and the tasks that
wait: what was written is sent even if the program holds neither the socket nor the task. Whatever closes the
descriptor meanwhile, the peer sees a reset.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import OrderedDict
from collections.abc import Callable

from ..accept_errors import is_shortage
from ..errors import without_traceback
from .budget import BUDGET
from .event_loop import EventLoopState
from .outgoing import Outgoing, OutgoingBuffers, SourceError

__all__ = ["OutgoingQueue", "hold_nothing", "nothing"]

_STEPS_PER_TURN = 16  # how often one event advances the queue before the loop gets its turn

_SOURCE = "a file that was being sent could not be read to its end"
_INTERRUPTED = "a write was broken off in the middle"
_SHORTAGE = "a write that had begun could not be finished for lack of resources"


class OutgoingQueue:
    """Made by the first write of a socket that has to wait."""

    __slots__ = (
        "_await_room",
        "_awaited",
        "_enqueued",
        "_entries",
        "_hold",
        "_on_change",
        "_state",
        "_tally",
        "_translate",
        "_waits",
        "above",
        "before_reset",
        "broken",
        "failed",
        "held",
        "interrupted_at",
        "sock",
        "torn",
    )

    def __init__(
        self,
        sock: socket.SocketType,
        state: EventLoopState,
        translate: Callable[[str, OSError], Exception],
        await_room: Callable[[bool], None],
        hold: Callable[[bool, bool], None],
        on_change: Callable[[], None],
    ) -> None:
        """How the wire serves its queue.

        `translate(operation, error)` makes the error that a task is told of what the system raised;
        `await_room(blocked)` has `on_writable` called by the reactor, at the next event or, if not `blocked`,
        in its next turn; `on_change()` is called when `held` may have changed.

        `hold(unsent, torn)` has the wire kept alive while something is `unsent`, and has the connection end
        in a reset, whatever closes it, while something is unsent or the stream is `torn`.
        """
        self.sock = sock
        self._state = state
        self._translate = translate
        self._entries: OrderedDict[Outgoing, int] = OrderedDict()
        """And how many bytes were left of each when it came."""
        self._await_room = await_room
        self._awaited: set[Outgoing] = set()
        """Those whose tasks wait, or were woken and have not made a step since."""
        self._hold = hold
        self._on_change = on_change
        self._enqueued = 0
        """The sum of these."""
        self.held = 0
        """Bytes of memory that the waiting writes hold, which they do until their tasks have gone on.

        What is sent from a file holds none to speak of.
        """
        self._waits = False
        self.above = (False, False)
        """What a wire above has said last, as of `hold`."""
        self.before_reset: bytes | None = None
        """What a close would have done, had the wire not asked for a reset; ``None`` if it has not."""
        self._tally: tuple[int, Outgoing | None, int] = (0, None, 0)
        """Bytes of earlier writes; the one that is being sent; and how much of that others had sent."""
        self.broken = False
        """Whether a write was lost of which a part had been sent: the peer must see a reset, not an end."""
        self.failed = 0
        """Bytes of begun writes that were never handed to the kernel, because the connection was lost."""
        self.torn = 0
        """How many of those belonged to writes whose task had been cancelled: nobody was told yet."""
        self.interrupted_at: int | None = None
        """How many bytes had been sent past this queue when a write was cancelled; ``None`` without that."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def sent(self) -> int:
        """Bytes that this queue has handed to the kernel."""
        before, entry, others = self._tally
        return before if entry is None else before + entry.sent - others

    @property
    def remaining(self) -> int:
        """Bytes not yet handed to the kernel."""
        if not self._entries:
            return 0
        first = next(iter(self._entries))  # of the others nothing was sent since they came
        return self._enqueued - self._entries[first] + first.remaining

    async def send(self, entry: Outgoing, operation: str) -> None:
        """Send `entry` at once if it is its turn and it fits, else behind the others as room comes."""
        waiter = self.push(entry, operation)
        if waiter is None:
            if self._state.spend(entry.sent):
                await self._state.yield_turn(entry.sent)
            return
        self._awaited.add(entry)
        try:
            await waiter
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError | GeneratorExit) or entry in self._entries:
                self._abandon(entry)
            raise
        finally:  # an error that holds its traceback, and so this frame, must not be held by it
            entry.waiter = None
            del waiter
            self._awaited.discard(entry)
            if entry not in self._entries:
                self.held -= _held_by(entry)
                self._on_change()
        self._state.budget = BUDGET

    def push(self, entry: Outgoing, operation: str) -> asyncio.Future[None] | None:
        """As `send`, for somebody who does not wait: return what completes with `entry`, or ``None``."""
        blocked = False
        try:
            if not self._entries:
                finished, blocked = self._advance_at_once(entry, operation)
                if finished:
                    return None
            return self._enqueue(entry, operation, blocked)
        except BaseException:
            if not self.broken and _is_torn(entry) and entry not in self._entries:
                self._count_failed(entry, told=True)
                self._break(_INTERRUPTED)
            raise

    async def flush(self, operation: str) -> None:
        """Return when everything that stands in the queue now has been handed to the kernel."""
        if self._entries:
            await self.send(OutgoingBuffers(()), operation)

    def fail(self, make_error: Callable[[], Exception], cause: BaseException | None = None) -> None:
        """Nothing more will be sent: empty the queue and tell every waiting task."""
        while self._entries:
            entry = self._remove_first()
            if entry.begun:
                self._count_failed(entry, told=entry.waiter is not None)
            try:
                error = make_error()
                error.__cause__ = cause
            except MemoryError as lack:
                error = lack
            _complete(entry, error)
        self._tally = (self.sent, None, 0)
        self._changed()

    def _changed(self) -> None:
        waits = bool(self._entries)
        if waits is not self._waits:
            self._hold(waits, self.broken)
            self._waits = waits  # afterwards: what is interrupted here is done once more
        self._on_change()

    def forget(self) -> None:
        """The wire, which holds this, is closed, and is no longer held."""
        self._translate = _as_it_is
        self._await_room = self._on_change = nothing
        self._hold = hold_nothing

    def _count_failed(self, entry: Outgoing, *, told: bool) -> None:
        self._mark_broken()
        self.failed += max(entry.remaining, 1)  # of a file whose length nobody named, one at least
        if not told:
            self.torn += max(entry.remaining, 1)

    def _mark_broken(self) -> None:
        if not self.broken:
            self.broken = True
            self._hold(bool(self._entries), True)

    def _break(self, why: str) -> None:
        """A part of something went out and the rest cannot follow: no later write may make it look whole."""
        self._mark_broken()
        cause = OSError(errno.EIO, why)
        self.fail(lambda: self._translate("write", cause), cause)
        self._translate("write", cause)

    def _break_off(self, entry: Outgoing, error: OSError) -> None:
        """`entry`, whose task is told of `error`, had begun."""
        self._count_failed(entry, told=True)
        if is_shortage(error):  # any other error is the connection's end by itself
            self._break(_SHORTAGE)

    def _advance_at_once(self, entry: Outgoing, operation: str) -> tuple[bool, bool]:
        """Return whether `entry` is finished, and whether it is blocked."""
        try:
            for _ in range(_STEPS_PER_TURN):
                if self._advance(entry):
                    return True, False
        except BlockingIOError:
            return False, True
        except SourceError as error:
            if entry.begun:
                self._break(_SOURCE)
            entry.release()
            raise error.reason from None
        except OSError as error:
            if entry.begun:
                self._break_off(entry, error)
            entry.release()
            raise self._translate(operation, error) from error
        return False, False

    def _enqueue(self, entry: Outgoing, operation: str, blocked: bool) -> asyncio.Future[None]:
        if not self._entries:
            try:
                self._go_on_later(blocked)
            except OSError as error:
                if entry.begun:
                    self._break_off(entry, error)
                entry.release()
                raise self._translate(operation, error) from error
        entry.waiter = waiter = self._state.loop.create_future()
        self._entries[entry] = left = entry.remaining
        self._enqueued += left
        self.held += _held_by(entry)
        try:
            self._changed()
        except BaseException:
            if entry in self._entries:
                self._remove(entry)
            raise
        return waiter

    def _go_on_later(self, blocked: bool) -> None:
        """Arrange for `on_writable`."""
        self._await_room(blocked)

    def _abandon(self, entry: Outgoing) -> None:
        """Its task was cancelled: withdraw it if nothing of it went out, else see it through."""
        waiter, entry.waiter = entry.waiter, None
        if entry not in self._entries:  # it was finished or failed in the same turn
            failed = waiter is not None and not waiter.cancelled() and waiter.exception() is not None
            if failed and entry.begun:
                self.torn += max(entry.remaining, 1)
            return
        if not entry.begun:
            self._remove(entry)
            entry.release()
            self._changed()
            return
        try:
            entry.keep()
        except BaseException as error:  # the caller may change now what would be sent
            self._remove(entry)
            entry.release()
            self._count_failed(entry, told=False)
            self._break(_INTERRUPTED)
            if not isinstance(error, (OSError, ValueError)):  # no descriptor, or the file was closed
                raise

    def _remove(self, entry: Outgoing) -> None:
        self._enqueued -= self._entries.pop(entry)
        if entry not in self._awaited:  # else its task holds it until its next step
            self.held -= _held_by(entry)

    def _remove_first(self) -> Outgoing:
        entry = next(iter(self._entries))
        self._remove(entry)
        return entry

    def on_writable(self) -> None:
        """There is room: hand over what fits, for as long as one turn of the loop may take."""
        if self._state.inherited:  # what waits is the parent's to send
            return
        try:
            self._send_what_fits()
            self._changed()
        except BaseException:  # of the handler of a signal, or for want of memory
            if self._entries or self._waits:
                self._go_on_later(blocked=False)
            raise

    def _send_what_fits(self) -> None:
        entries = self._entries
        blocked = False
        try:
            for _ in range(_STEPS_PER_TURN):
                first = next(iter(entries), None)
                # The file that is read may have closed the socket, which empties the queue.
                if first is not None and self._advance(first) and first in entries:
                    _complete(first)  # before it leaves: what is interrupted here is done once more
                    self._remove(first)
        except BlockingIOError:
            blocked = True
        except SourceError as error:
            if first in entries:
                self._fail_source(self._remove_first(), error)
        except OSError as error:
            self._fail_by(without_traceback(error))
        if entries:
            try:
                self._go_on_later(blocked)
            except OSError as error:
                self._fail_by(without_traceback(error))

    def _fail_source(self, entry: Outgoing, error: SourceError) -> None:
        if entry.begun:
            self._count_failed(entry, told=entry.waiter is not None)
            self._break(_SOURCE)
        _complete(entry, error.reason)

    def _fail_by(self, error: OSError) -> None:
        self.fail(lambda: self._translate("write", error), error)
        if self.broken:
            self._break(_SHORTAGE)  # unless it was lost: the first error is kept

    def _advance(self, entry: Outgoing) -> bool:
        if self._tally[1] is not entry:
            self._tally = (self.sent, entry, entry.sent)
        try:
            finished = entry.advance(self.sock)
        except MemoryError:  # how much of it has gone is not known
            if entry not in self._entries:
                self._count_failed(entry, told=True)
            self._break(_INTERRUPTED)
            raise
        if finished:
            self._tally = (self.sent, None, 0)
        return finished


def _held_by(entry: Outgoing) -> int:
    return entry.sent + entry.remaining if isinstance(entry, OutgoingBuffers) else 0


def _is_torn(entry: Outgoing) -> bool:
    """Whether a part of `entry` may be with the kernel, but not all of it."""
    return entry.begun and not (isinstance(entry, OutgoingBuffers) and entry.remaining == 0)


def hold_nothing(unsent: bool, torn: bool) -> None:
    """What a queue without a wire does for it."""


def nothing(*_: object) -> None:
    """What is not done."""


def _as_it_is(operation: str, error: OSError) -> Exception:
    """After closing nothing is sent that could fail."""
    return error


def _complete(entry: Outgoing, error: Exception | None = None) -> None:
    """`entry` has left the queue: tell its task, if it still has one."""
    entry.release()
    waiter = entry.waiter
    if waiter is None or waiter.done():
        return
    if error is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(error)
