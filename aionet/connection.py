"""`Connection`: a connection that is being served, and the task that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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

    def belongs_to(
        self, task: asyncio.Task[None], never_began: Callable[[asyncio.Task[None]], object]
    ) -> None:
        """Called by whoever made the task. `never_began` is called if it ends before its first step."""
        if self._task is None:  # an eager task has begun already, and may even have ended
            self._task = task
            task.add_done_callback(never_began)

    def begin(self, never_began: Callable[[asyncio.Task[None]], object]) -> None:
        """Called by its task first of all; from now on the task itself sees to the end of the connection."""
        if self._task is None:
            self._task = asyncio.current_task()
        else:
            self._task.remove_done_callback(never_began)

    def __repr__(self) -> str:
        return f"<Connection {self.socket!r}>"
