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

    __slots__ = ("begun", "socket", "started", "task")

    task: asyncio.Task[None]
    """The task that runs the handler."""

    def __init__(self, socket: SocketT, started: float) -> None:
        self.socket = socket
        self.started = started
        """When it was accepted, by the loop's clock, in seconds."""
        self.begun = False
        """Whether its task has run at all."""

    def begin(self, never_began: Callable[[asyncio.Task[None]], object]) -> None:
        """Called by its task first of all; from now on the task itself sees to the end of the connection."""
        self.begun = True
        task = asyncio.current_task()
        assert task is not None
        task.remove_done_callback(never_began)
        self.task = task

    def __repr__(self) -> str:
        return f"<Connection {self.socket!r}>"
