"""Whether code that ends may leave what it wrote unfinished, so that its peer has to see a reset.

Theory of operation
-------------------
A clean end of the stream says that all of it was sent. Code that returns has said what it had to say, and so
has code that ended the stream itself (`send_eof`). Code that raises has not: a message may be half written,
and its peer could not tell that from a whole one where messages end with the stream. So the connection is
reset. Three kinds of exceptions are no fault of the code:

    cancelled                   by state: at rest, with everything written, or in the middle of a write
    the peer ended too early    between two messages (nothing was read of the next one) likewise by state;
                                in the middle of one it is as any other exception
    the connection is lost      there is nothing to reset; after an error of TLS an alert is on its way,
                                which a reset would destroy, and no close_notify follows it
"""

from __future__ import annotations

import asyncio
from typing import Literal, TypeAlias

from .errors import (
    AionetError,
    ConnectionLostError,
    IncompleteReadError,
    SocketClosedError,
    TlsError,
    TlsTruncatedError,
)
from .wires.contract import Wire

__all__ = ["OnUnfinished", "leaves_unfinished"]

OnUnfinished: TypeAlias = Literal["reset", "close"]


def leaves_unfinished(error: BaseException | None, wire: Wire) -> bool:
    """Whether code that ended with `error`, or returned, may have left a message on `wire` unfinished."""
    if error is None or wire.eof_sent:
        return False
    if isinstance(error, asyncio.CancelledError):
        return wire.unfinished
    if isinstance(error, BaseExceptionGroup):  # of a task group
        return any(leaves_unfinished(member, wire) for member in error.exceptions)
    if isinstance(error, AionetError) and error._ends is wire:
        return _leaves_unfinished(error, wire)
    return True


def _leaves_unfinished(error: AionetError, wire: Wire) -> bool:
    """The same of what the connection itself ended with."""
    if isinstance(error, IncompleteReadError):
        return bool(error.partial) or wire.unfinished
    if isinstance(error, TlsTruncatedError):
        return True
    return not isinstance(error, (ConnectionLostError, SocketClosedError, TlsError))
