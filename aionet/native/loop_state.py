"""`NativeLoopState`: what all wires and listeners of one event loop share, on the compiled engine.

It has the members of `wires.event_loop.EventLoopState`, whose theory of operation holds here, too; the
reactor and the budget are one object, so that C finds both in one place.
"""

from __future__ import annotations

import asyncio
from typing import Self

from ..native._compiled import Reactor
from ..wires.budget import BUDGET
from ..wires.slices import Slices

__all__ = ["NativeLoopState"]


class NativeLoopState(Reactor):
    """One per event loop in use."""

    __slots__ = ("ends",)

    one_shot = False
    tells_errors = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ends = Slices(loop)

    @property
    def reactor(self) -> Self:
        return self

    async def yield_turn(self) -> None:
        """Let everybody else have a turn, and refill the budget."""
        self.budget = BUDGET
        await asyncio.sleep(0)
