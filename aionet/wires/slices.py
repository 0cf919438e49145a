"""Work for many connections, in slices: a part of it in each turn of the event loop.

Theory of operation
-------------------
Ten thousand connections may expire, be drained or be left by their peers at the same moment. Done in one
step, the work for all of them holds the loop for a second, and the other connections wait. So every loop over
many connections is cut into slices. A slice ends after `SLICE_SECONDS`, or once it has used up the loop's
budget (`budget.py`), whichever comes first; then the loop has a turn, and the next slice follows.

*Why both.* Time bounds what is done in the slice itself. Ending a connection is different: the slice only
cancels a task or wakes it, which takes microseconds, and the task's last step takes the next turn. So each
end costs `END_UNITS` of the budget as well, and the next turn has no more than 16 of these steps.

*A busy server* whose connections are short has more ends than that in a turn all the time, and further turns
for them cost it a fifth of its rate. So `Slices` measures: where the turn with the ends of a slice was short,
the next slice has twice as many, and half as many where it was long.

*Without epoll* (`CallbackReactor`) an end that the peer makes looks like a message until it is read. Many of
them in one turn are not cut into slices there.

A slice does at least one item, so the work always advances. The clock is the wall clock: where the machine is
busy, slices get shorter.

Three ways to use it: `Slice.turn` in a coroutine that goes through many items; `Slice.over` in a callback
that schedules its own next call (`limiting/timer_wheel.py`); `Slices` for calls that come one by one. The
compiled reactor has slices of its own (`native/reactor.c`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

from .budget import BUDGET, END_UNITS, SLICE_SECONDS

__all__ = ["Slice", "Slices"]

_LEAST, _MOST = BUDGET // END_UNITS, BUDGET  # calls in a slice of `Slices`


class Slice:
    """What is left of the current slice; it begins when this is made."""

    __slots__ = ("_ends", "_left")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin the next slice, in another turn of the loop."""
        self._left = BUDGET
        self._ends = perf_counter() + SLICE_SECONDS

    def take(self, units: int) -> None:
        """Note work that the next turn will have because of this slice."""
        self._left -= units

    @property
    def over(self) -> bool:
        """Whether the loop should have a turn now."""
        return self._left <= 0 or perf_counter() >= self._ends

    async def turn(self) -> None:
        """If this slice is over, give the loop a turn and begin the next. Cancel safety: nothing is lost."""
        if self.over:
            await asyncio.sleep(0)
            self.begin()


class Slices:
    """Makes calls, first come, first served: so many in `SLICE_SECONDS` at once, the others in later turns.

    Each is, or wakes what does, the end of a connection. What one raises comes out of `add`, or is the error
    of a callback of the loop; the calls behind it are made all the same. One that is interrupted by a signal
    is made again. Where few calls come, each costs a look at the clock, and the loop no turn.
    """

    __slots__ = ("_began", "_left", "_loop", "_next", "_queue", "_share")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[Callable[[], object]] = deque()
        self._share = self._left = _LEAST
        """How many calls a slice has, and how many more this one."""
        self._began = perf_counter()
        self._next: asyncio.Handle | None = None
        """The slice of the loop's next turn, while calls wait."""

    def add(self, call: Callable[[], object]) -> None:
        """Make `call` now, or when its turn comes."""
        if self._next is None:
            if (now := perf_counter()) >= self._began + SLICE_SECONDS:
                self._began, self._left = now, self._share
            if self._left > 0:
                self._left -= 1
                call()
                return
            self._next = self._loop.call_soon(self._turn)
        self._queue.append(call)

    def _turn(self) -> None:
        """Make the calls of the next slice; what those of the last one woke has had its step."""
        now = perf_counter()
        self._adapt(now - self._began)
        self._began, self._left = now, self._share
        try:
            while self._queue and self._left > 0:
                self._left -= 1
                self._make_next()
        finally:
            self._next = self._loop.call_soon(self._turn) if self._queue else None

    def _adapt(self, seconds: float) -> None:
        """The last slice and the turn after it took so long."""
        if seconds < 2 * SLICE_SECONDS:
            self._share = min(2 * self._share, _MOST)
        elif seconds > 4 * SLICE_SECONDS:
            self._share = max(self._share // 2, _LEAST)

    def _make_next(self) -> None:
        call = self._queue.popleft()
        try:
            call()
        except (KeyboardInterrupt, SystemExit):
            self._queue.appendleft(call)
            raise
