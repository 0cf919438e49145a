"""What all wires and listeners of one event loop share.

Theory of operation
-------------------
*Fairness.* A socket that is always ready would let its task run for ever: an operation that completes at
once never gives the loop a turn. So every such operation takes one from a budget that the whole loop shares;
when it is used up, the next operation yields one turn of the loop before it starts. An operation that had to
wait refills the budget, because waiting gave everybody else their turn.

*Loops differ* in what a reader (`loop.add_reader`) does after it fired, and the wires have to know:

- The stock selector loop is level-triggered and polls once more between a wake-up and the woken task's step:
  the reader fires a second time for bytes that the task is just taking. `fires_again` says so; the wire
  ignores that one call. Ignoring one can never lose an event: what is still unread fires on the next turn.
- libuv (uvloop) silently drops a descriptor that reports an error, a reset after the last bytes for instance,
  and afterwards refuses it until it was removed. `drops_readers` says so; the wire then registers anew, with
  `watch_reads` or `watch_writes`, before each wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

__all__ = ["BUDGET", "EventLoopState", "state_of"]

BUDGET = 64
"""How many operations may complete at once before a task yields a turn of the loop."""


class EventLoopState:
    """One per event loop: the fairness budget, and how this loop treats readers."""

    __slots__ = ("budget", "drops_readers", "fires_again", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        stock = isinstance(loop, asyncio.SelectorEventLoop)
        self.loop = loop
        self.budget = BUDGET
        self.fires_again = stock
        self.drops_readers = not stock

    def watch_reads(self, fd: int, callback: Callable[[], None]) -> None:
        """Have `callback` called while `fd` is readable."""
        try:
            self.loop.add_reader(fd, callback)
        except RuntimeError:  # uvloop dropped it and does not take it back before it was removed
            self.loop.remove_reader(fd)
            self.loop.add_reader(fd, callback)

    def watch_writes(self, fd: int, callback: Callable[[], None]) -> None:
        """Have `callback` called while `fd` is writable."""
        try:
            self.loop.add_writer(fd, callback)
        except RuntimeError:
            self.loop.remove_writer(fd)
            self.loop.add_writer(fd, callback)

    async def yield_turn(self) -> None:
        """Let everybody else have a turn, and refill the budget."""
        self.budget = BUDGET
        await asyncio.sleep(0)


_states: WeakKeyDictionary[asyncio.AbstractEventLoop, EventLoopState] = WeakKeyDictionary()


def state_of(loop: asyncio.AbstractEventLoop) -> EventLoopState:
    """Return the state that belongs to `loop`, made at the first call."""
    state = _states.get(loop)
    if state is None:
        state = _states[loop] = EventLoopState(loop)
    return state
