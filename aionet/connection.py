"""`Connection`: a connection that is being served, and the task that serves it."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any, Generic, TypeVar

from .close_reason import CloseCause, CloseReason, Phase
from .errors import SocketClosedError
from .stream_socket import AsyncStreamSocket

__all__ = ["Connection", "close_reason_of"]

_numbers = itertools.count(1)

SocketT = TypeVar("SocketT", bound=AsyncStreamSocket[Any])


class Connection(Generic[SocketT]):
    """A connection that is being served."""

    _id: str
    _phase: Phase
    _reason: CloseReason

    # Only what every connection needs is set at once: servers make very many of them.
    __slots__ = ("_cause", "_id", "_phase", "_reason", "_task", "socket", "started")

    def __init__(self, socket: SocketT, started: float) -> None:
        self.socket = socket
        self.started = started
        """When it was accepted, by the loop's clock, in seconds."""
        self._task: asyncio.Task[None] | None = None
        self._cause: CloseCause | None = None  # of its end, where its spawner decided that

    @property
    def id(self) -> str:
        """A short name for it in logs: ``"2f9c-00000001"``, the process and a running number, in hexadecimal.

        It is made when it is first asked for. Those of one process sort in the order in which they were made.
        """
        try:
            return self._id
        except AttributeError:
            self._id = f"{os.getpid():x}-{next(_numbers):08x}"
            return self._id

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        return getattr(self, "_phase", "serving")

    @property
    def close_reason(self) -> CloseReason | None:
        """Why it ended, once it has, if its spawner was given an `on_close`."""
        return getattr(self, "_reason", None)

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that runs the handler."""
        assert self._task is not None
        return self._task

    def __repr__(self) -> str:
        return f"<Connection {self.socket!r}>"


def close_reason_of(
    connection: Connection[Any], cause: CloseCause, error: BaseException | None, now: float
) -> CloseReason:
    """Return why `connection`, which is still open, ends at the loop's time `now`."""
    wire, age = connection.socket._wire, now - connection.started
    idle = wire.idle_seconds
    return CloseReason(
        cause=cause,
        phase=connection.phase,
        errno=_errno_of(error) or _errno_of(wire.lost),
        bytes_read=wire.bytes_read,
        bytes_written=wire.bytes_written,
        unacknowledged=_unacknowledged(connection.socket),
        age=age,
        idle=None if idle is None else min(idle, age),  # the kernel's clock ticks, and began earlier
    )


def _errno_of(error: BaseException | None) -> int | None:
    """What the system said; that the socket was closed by this side is not of that kind."""
    return None if isinstance(error, SocketClosedError) else getattr(error, "errno", None)


def _unacknowledged(socket: AsyncStreamSocket[Any]) -> int | None:
    try:
        return socket._wire.unacknowledged
    except OSError:  # closed already
        return None
