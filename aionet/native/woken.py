"""`WOKEN`: what a task is told that waited for one of our streams, when it may go on.

`asyncio.Task` asks whatever wakes it for its result. It looks right into a future of asyncio's own, and calls
a method of anything else by its name, which takes a thousand instructions. So all are woken with this one
future, which ended long ago with ``None``. It belongs to no loop: an ended future has no use for one.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

__all__ = ["WOKEN"]

_NO_LOOP: Any = SimpleNamespace(get_debug=bool)

WOKEN: asyncio.Future[None] = asyncio.Future(loop=_NO_LOOP)
WOKEN.set_result(None)
