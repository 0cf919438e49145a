"""`Connection`: a connection that is being served, and the task that serves it."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any, Generic, Protocol, TypeVar

from .close_reason import CloseCause, CloseReason, Phase
from .engine import ConnectionBase
from .errors import SocketClosedError
from .no_copies import refuse_to_be_copied
from .stream_socket import AsyncStreamSocket
from .tls_failure import TlsFailure
from .wires.lingering import RESET_HERE

__all__ = ["Connection", "WatchesConnections", "close_reason_of"]

_numbers = itertools.count(1)

_OF_HANDSHAKES = (CloseCause.HANDSHAKE_FAILED, CloseCause.HANDSHAKE_TIMEOUT)

SocketT = TypeVar("SocketT", bound=AsyncStreamSocket[Any])


class WatchesConnections(Protocol):
    """Who is told of connections what their wires tell."""

    def on_peer_gone(self, connection: Connection[Any]) -> None:
        """Its peer has left; may be told several times."""

    def on_unsent(self, connection: Connection[Any], count: int) -> None:
        """Its wire holds so many bytes for the peer."""

    def on_buffered(self, connection: Connection[Any], count: int) -> None:
        """Its socket's buffer holds so many bytes."""


class Connection(ConnectionBase, Generic[SocketT]):
    """A connection that is being served."""

    # Only what every connection needs is set at once, by the engine's base: servers make very many of them.
    __slots__ = ("_enforcer", "_id", "_phase", "_tls_failure")

    socket: SocketT
    started: float
    """When it was accepted, by the loop's clock, in seconds."""
    _reason: CloseReason | None
    _task: asyncio.Task[None] | None
    _cause: CloseCause | None
    """Of its end, where its spawner decided that."""
    _enforcer: WatchesConnections
    _id: str
    _phase: Phase
    _tls_failure: TlsFailure | None

    __reduce__ = refuse_to_be_copied

    def __init__(self, socket: SocketT, started: float) -> None:
        self.socket = socket
        self.started = started
        self._reason = None
        self._task = None
        self._cause = None

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
        return self._reason

    # As its wire's observer: for the enforcer of limits, if there is one.

    def on_peer_gone(self) -> None:
        """The peer has left."""
        self._enforcer.on_peer_gone(self)

    def on_unsent(self, count: int) -> None:
        """The wire holds so many bytes for the peer."""
        self._enforcer.on_unsent(self, count)

    def on_buffered(self, count: int) -> None:
        """The socket's buffer holds so many bytes."""
        self._enforcer.on_buffered(self, count)

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
    unacknowledged, idle = wire.facts()
    number = None
    if error is not None or wire.lost is not None:
        number = _errno_of(error) or (None if wire.lost is RESET_HERE else _errno_of(wire.lost))
    if idle is not None and idle > age:  # the kernel's clock ticks, and began earlier
        idle = age
    failure = getattr(connection, "_tls_failure", None) if cause in _OF_HANDSHAKES else None
    return CloseReason(
        cause,
        connection.phase,
        number,
        wire.bytes_read,
        wire.bytes_written,
        unacknowledged,
        age,
        idle,
        failure,
    )


def _errno_of(error: BaseException | None) -> int | None:
    """What the system said; that the socket was closed by this side is not of that kind."""
    return None if isinstance(error, SocketClosedError) else getattr(error, "errno", None)
