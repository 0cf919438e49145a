"""`Connection`: a connection that is being served, and the task that serves it."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

from .stream_socket import AsyncStreamSocket

__all__ = ["Connection"]

SocketT = TypeVar("SocketT", bound=AsyncStreamSocket[Any])


class Connection(Generic[SocketT]):
    """A connection that is being served."""

    __slots__ = ("_task", "socket", "started")

    def __init__(self, socket: SocketT, started: float) -> None:
        self.socket = socket
        self.started = started
        """When it was accepted, by the loop's clock, in seconds."""
        self._task: asyncio.Task[None] | None = None

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that runs the handler."""
        assert self._task is not None
        return self._task

    def __repr__(self) -> str:
        return f"<Connection {self.socket!r}>"
