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
    """Makes calls, first come, first served: those of the first slice at once, the others in later turns.

    Each counts as the end of a connection. What one raises comes out of `add`, or is the error of a callback
    of the loop; the calls behind it are made all the same. One that is interrupted by a signal is made again.
    """

    __slots__ = ("_loop", "_next", "_queue", "_slice")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[Callable[[], object]] = deque()
        self._slice = Slice()
        self._next: asyncio.Handle | None = None
        """The look in the loop's next turn; ``None`` where no slice has begun in this one."""

    def add(self, call: Callable[[], object]) -> None:
        """Make `call` now, or when its turn comes."""
        if self._next is None:
            self._begin()
        if self._queue or self._slice.over:
            self._queue.append(call)
        else:
            self._slice.take(END_UNITS)
            call()

    def _begin(self) -> None:
        self._next = self._loop.call_soon(self._turn)
        self._slice.begin()

    def _turn(self) -> None:
        self._next = None
        if not self._queue:
            return
        self._begin()
        while self._queue and not self._slice.over:
            self._slice.take(END_UNITS)
            call = self._queue.popleft()
            try:
                call()
            except (KeyboardInterrupt, SystemExit):
                self._queue.appendleft(call)
                raise
