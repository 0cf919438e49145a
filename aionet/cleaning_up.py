"""Cleaning up to the end, however often one is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["see_through"]


async def see_through(work: Coroutine[Any, Any, object]) -> None:
    """Run `work` to its end in a task of its own; being cancelled meanwhile changes nothing.

    For bounded work in an ``except`` or ``finally`` block whose caller is already on its way out: further
    cancellations ask for what is happening anyway, and are swallowed.

    Raises what `work` raises. Cancel safety: as said.
    """
    task = asyncio.create_task(work)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            pass
    task.result()
