"""`NativeLoopState`: what all wires and listeners of one event loop share, on the compiled engine.

It has the members of `wires.event_loop.EventLoopState`, whose theory of operation holds here, too; the
reactor and the budget are one object, so that C finds both in one place.
"""

from __future__ import annotations

import asyncio
from typing import Self

from ..native._compiled import Reactor
from ..wires.fairness import Fairness
from ..wires.pacing import Pacing
from ..wires.slices import Slices

__all__ = ["NativeLoopState"]


class NativeLoopState(Fairness, Reactor):
    """One per event loop in use."""

    __slots__ = ("ends", "pacing")

    one_shot = False
    tells_errors = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ends = Slices(loop)
        self.pacing = Pacing(loop)  # of operations in Python; those in C have a queue of their own

    @property
    def reactor(self) -> Self:
        return self
