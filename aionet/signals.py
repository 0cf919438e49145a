"""`Signal`: something that happens once, and that a handler may ask about or wait for.

`Draining` is the one that a spawner shares with all its sockets. It also carries what a socket needs of its
spawner's policy where the handler closes it with ``async with``. A task of each connection may wait for it,
so these are woken in slices (`wires/slices.py`).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Literal

from .wires.slices import Slices

__all__ = ["NEVER", "Draining", "Signal"]


class Signal(asyncio.Event):
    """An `asyncio.Event` that is true once it is set: ``if socket.draining: …``."""

    async def wait(self) -> Literal[True]:
        """Return when it is set. Cancel safety: nothing is lost."""
        return await super().wait()

    def __bool__(self) -> bool:
        return self.is_set()


class Draining(Signal):
    """Set when a spawner drains."""

    def __init__(self, *, resets_unfinished: bool = True) -> None:
        """`resets_unfinished`: whether unfinished messages end in a reset; see `ConnectionLimits`."""
        super().__init__()
        self.resets_unfinished = resets_unfinished
        self._waiting: dict[asyncio.Future[None], None] = {}

    async def wait(self) -> Literal[True]:
        if not self.is_set():
            waiter = asyncio.get_running_loop().create_future()
            self._waiting[waiter] = None
            try:
                await waiter
            finally:
                self._waiting.pop(waiter, None)
        return True

    def set(self) -> None:
        super().set()
        waiting, self._waiting = self._waiting, {}
        if waiting:
            slices = Slices(asyncio.get_running_loop())
            for waiter in waiting:
                slices.add(partial(_wake, waiter))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


NEVER = Draining()
"""Of sockets that nobody supervises; it is not set, and waiting for it is waiting to be cancelled."""
