"""What the end of a handler means: why its connection ends, what is logged, and what its peer must see.

Theory of operation
-------------------
Whoever decided before that the connection ends was right, whatever the handler made of it. Otherwise a peer
that left is a DEBUG line, because servers see that all day long; a handler that crashed is an ERROR, with the
peer; and a peer that does not know how to begin is in between. A lack of resources is not the handler's fault
and meets many connections at once: the spawner writes one line for all of them (`limiting/shortage.py`).

The peer must not take half a reply for all of it: where the handler may have left one (`unfinished.py`), the
connection is reset. It is also reset where nothing can be waited for any more, and after a bad handshake,
unless an alert says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from .announcing import Log
from .close_reason import CloseCause
from .connection import Connection
from .errors import (
    AionetError,
    ConnectionLostError,
    IncompleteReadError,
    ResourceExhaustedError,
    SocketClosedError,
    TlsError,
)
from .stream_socket import AsyncStreamSocket
from .tls_failure import TlsFailure
from .unfinished import OnUnfinished, leaves_unfinished
from .wires.contract import Wire
from .wires.lingering import RESET_HERE

__all__ = ["OnCrash", "cause_of_return", "must_reset", "shortage_in", "verdict_on"]

_log = Log("aionet.server")

_Kinds: TypeAlias = tuple[type[AionetError], ...]

_PEER_LEFT: _Kinds = (ConnectionLostError, SocketClosedError, IncompleteReadError)
_TLS_BROKE: _Kinds = (*_PEER_LEFT, TlsError)  # asked for second: the first is asked for every day
_PEER_LOST = CloseCause.PEER_LOST  # an enumeration takes as long to find a member as two calls of a function

OnCrash = Callable[[Any, Exception], object]


def cause_of_return(wire: Wire) -> CloseCause:
    """Return why a connection ends on `wire` whose handler has returned."""
    if wire.lost is not None:  # which the handler, a relay for instance, has dealt with
        return CloseCause.RESET if wire.lost is RESET_HERE else _cause_of_loss(wire.lost)
    return CloseCause.PEER_ENDED if wire.peer_ended else CloseCause.COMPLETED


def verdict_on(
    connection: Connection[Any], error: BaseException | None, on_crash: OnCrash | None
) -> CloseCause:
    """Report what the handler of `connection` raised, if anything; return why the connection ends.

    `on_crash` is called with the socket and the exception of a handler, or a preface, that crashed.
    """
    socket, decided = connection.socket, connection._cause
    if error is None:
        return CloseCause.COMPLETED if decided in (None, CloseCause.DRAINED) else decided
    lost = isinstance(error, ConnectionLostError) and error._ends is socket._wire  # the everyday case
    if lost or _peer_left(error, socket):
        if _log.isEnabledFor(logging.DEBUG):  # making its address takes longer than asking
            _log.debug("connection from %s ended: %s", socket.peer_address, error)
        if decided is not None:
            return decided
        return _PEER_LOST if lost or not isinstance(error, SocketClosedError) else CloseCause.CLOSED
    if isinstance(error, asyncio.CancelledError):
        return decided or CloseCause.CANCELLED
    if not isinstance(error, Exception):
        return CloseCause.FAILED
    if shortage_in(error) is not None:
        return decided or CloseCause.EXHAUSTED
    if connection.phase == "handshake":
        return _handshake_failed(connection, error, on_crash)
    if _peer_left(error, socket, _TLS_BROKE):
        _log.debug("connection from %s ended: %s", socket.peer_address, error)
        return decided or _cause_of_loss(error)
    _report_crash(socket, error, on_crash)
    return decided or CloseCause.FAILED


def _cause_of_loss(error: BaseException) -> CloseCause:
    is_flood = isinstance(error, TlsError) and error.failure is TlsFailure.RECORD_FLOOD
    return CloseCause.TLS_RECORD_FLOOD if is_flood else CloseCause.PEER_LOST


def shortage_in(error: BaseException | None) -> ResourceExhaustedError | None:
    """Return the lack of resources that ended a handler; a group has to consist of such errors."""
    if isinstance(error, ResourceExhaustedError):
        return error
    if isinstance(error, ExceptionGroup):
        found = [shortage_in(member) for member in error.exceptions]
        return None if None in found else found[0]
    return None


def must_reset(connection: Connection[Any], error: BaseException | None, policy: OnUnfinished) -> bool:
    """Whether `connection` ends in a reset: its handler ended with `error`, and its cause is known."""
    if error is None:
        return False
    wire = connection.socket._wire
    if wire.closed or wire.lost is not None:  # by the handler, perhaps cleanly; or by the world
        return False
    if not isinstance(error, (Exception, asyncio.CancelledError)):
        return True  # KeyboardInterrupt, SystemExit: the loop is going down, and a close could not wait
    if connection.phase == "handshake" and isinstance(error, Exception):
        return not isinstance(error, TlsError)  # a reset would destroy the alert that tells the peer why
    if policy == "close":
        return False
    if connection._cause is CloseCause.HANDLER_TIMEOUT:
        return not wire.eof_sent
    return leaves_unfinished(error, wire)


def _peer_left(error: BaseException, socket: AsyncStreamSocket[Any], kinds: _Kinds = _PEER_LEFT) -> bool:
    """Whether `error` says that this very connection ended, and not another one that the handler uses."""
    if isinstance(error, kinds):
        return error._ends is socket._wire
    # A handler with a task group: all of it has to say so.
    return isinstance(error, ExceptionGroup) and all(
        _peer_left(member, socket, kinds) for member in error.exceptions
    )


def _handshake_failed(connection: Connection[Any], error: Exception, on_crash: OnCrash | None) -> CloseCause:
    if isinstance(error, AionetError | OSError):
        kind = error.failure if isinstance(error, TlsError) else type(error)
        _log.info("handshake with %s failed: %s", connection.socket.peer_address, error, kind=kind)
    else:
        _report_crash(connection.socket, error, on_crash)
    return connection._cause or CloseCause.HANDSHAKE_FAILED


def _report_crash(socket: AsyncStreamSocket[Any], error: Exception, on_crash: OnCrash | None) -> None:
    _log.error("handler for %s failed", socket.peer_address, exc_info=error)
    if on_crash is not None:
        try:
            on_crash(socket, error)
        except (Exception, asyncio.CancelledError):  # it was not cancelled: it does not wait
            _log.exception("on_error for %s failed", socket.peer_address)
