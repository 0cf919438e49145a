"""`Signal`: something that happens once, and that a handler may ask about or wait for."""

from __future__ import annotations

import asyncio
from typing import Literal

__all__ = ["NEVER", "Signal"]


class Signal(asyncio.Event):
    """An `asyncio.Event` that is true once it is set: ``if socket.draining: …``."""

    async def wait(self) -> Literal[True]:
        """Return when it is set. Cancel safety: nothing is lost."""
        return await super().wait()

    def __bool__(self) -> bool:
        return self.is_set()


NEVER = Signal()
"""Of sockets that nobody supervises; it is not set, and waiting for it is waiting to be cancelled."""
