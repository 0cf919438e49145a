"""`Connection`: a connection that is being served, and the task that serves it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .stream_socket import AsyncStreamSocket

__all__ = ["Connection"]

SocketT = TypeVar("SocketT", bound=AsyncStreamSocket[Any])


@dataclass(slots=True, eq=False)
class Connection(Generic[SocketT]):
    """A connection that is being served."""

    socket: SocketT
    task: asyncio.Task[None]
    started: float
    """When it was accepted, by the loop's clock, in seconds."""
