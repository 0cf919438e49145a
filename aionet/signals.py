"""`Signal`: something that happens once, and that a handler may ask about or wait for.

`Draining` is the one that a spawner shares with all its sockets. It also carries what a socket needs of its
spawner's policy where the handler closes it with ``async with``.
"""

from __future__ import annotations

import asyncio
from typing import Literal

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


NEVER = Draining()
"""Of sockets that nobody supervises; it is not set, and waiting for it is waiting to be cancelled."""
