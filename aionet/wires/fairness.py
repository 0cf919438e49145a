"""`Fairness`: how much is done at once before the event loop has a turn.

Theory of operation
-------------------
A socket that is always ready would let its task run for ever: an operation that completes at once never gives
the loop a turn. So every such operation takes from a budget that the whole loop shares; when it is used up,
the next operation yields one turn of the loop before it starts (a write afterwards, because writes go in the
order of their calls). An operation that had to wait refills the budget, because waiting gave the others their
turn.

*What an operation takes* is one unit, and one more for each full 16 KiB that it moved (`budget.py`). By
number alone, 64 operations of one task that floods are 4 MiB and more to copy while all others wait; by the
byte it is a megabyte. What moves less than 16 KiB costs one unit: there the time goes into the handler, not
into copying. An operation may take more than is left. It is not cut up, and what it owes is forgiven with the
next turn. (With 4 KiB in place of 16 the others wait less still, but a stream of large messages then gives so
many turns that their cost can be measured.)

*Large operations*, of 16 KiB and more, of many tasks share what one turn may move as well (`pacing.py`).

*What is not counted* is what the reactor's events do for writes that wait (`sending.py`, which has a bound of
its own), and reads out of a socket's buffer are counted by number: their bytes were, when they came in.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .budget import BUDGET, UNIT_BITS
from .pacing import Pacing

__all__ = ["Fairness"]


class Fairness:
    """The part of an event loop's state that is about turns."""

    if not TYPE_CHECKING:  # which would not see the attributes in the slots of the whole state's class
        __slots__ = ()

    budget: int
    pacing: Pacing
    room: int

    def spend(self, size: int) -> bool:
        """An operation has moved `size` bytes at once; return whether it has to yield a turn."""
        units = size >> UNIT_BITS
        self.budget -= 1 + units
        if units:
            self.room -= size
            if self.room < 0:
                self.budget = min(self.budget, -1)
        return self.budget < 0

    async def yield_turn(self, size: int = 0) -> None:
        """Let the other tasks have a turn, and refill the budget.

        `size` is how many bytes the operation has moved, or will probably move: a large one may wait further.
        """
        if size >> UNIT_BITS and self.room < 0:
            await self.pacing.turn(self)
            self.budget = BUDGET
        else:
            self.budget = BUDGET
            await asyncio.sleep(0)
