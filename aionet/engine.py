"""Which engine runs, and what it makes: wires, the base of sockets, what begins and ends connections.

Everything above is written against these few names and runs on either engine (`native/__init__.py` chooses).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .native import compiled
from .wires.portable import PortableWire

if TYPE_CHECKING or compiled is None:
    _wire = PortableWire
else:
    from .wires.native import NativeWire as _wire  # noqa: N813

__all__ = [
    "ConnectionBase",
    "Implementation",
    "Roster",
    "SocketBase",
    "accept",
    "implementation",
    "short_cut",
    "stream_wire",
]

Implementation = Literal["native", "portable"]

F = TypeVar("F", bound=Callable[..., Any])


def implementation() -> Implementation:
    """Return the engine that runs: ``"native"``, where aionet was compiled, or ``"portable"``.

    The environment variable ``AIONET_ENGINE`` forces one; importing aionet fails if that cannot be had.
    """
    return "portable" if compiled is None else "native"


stream_wire = _wire
"""Makes a wire of a connected, non-blocking socket."""

accept = _wire.accept
"""Takes connections off the queue of a listening socket; see `wires.portable.PortableWire.accept`."""

Roster: Any = None if compiled is None else compiled.Roster
"""Begins and ends connections that have nothing special about them (`native/roster.c`); or ``None``."""

_SocketBase: Any = object if compiled is None else compiled.SocketBase
_ConnectionBase: Any = object if compiled is None else compiled.ConnectionBase


class SocketBase(_SocketBase):  # type: ignore[misc]
    """The attributes of a socket, which an engine makes and looks at."""

    __slots__ = ("_dialing", "_ledger", "_options", "_received", "_wire") if compiled is None else ()

    if compiled is None:

        def _close_at_once(self) -> bool:
            """Close, if that takes no waiting and nobody has to be told; whether it did."""
            return False


class ConnectionBase(_ConnectionBase):  # type: ignore[misc]
    """The attributes of every connection that is being served, where an engine finds them."""

    __slots__ = ("_cause", "_reason", "_task", "socket", "started") if compiled is None else ()


def short_cut(method: F) -> F:
    """Mark a method of sockets that an engine may take a short cut around (`native/methods.c`)."""
    if compiled is None:
        return method
    shortened: F = compiled.Method(method)
    return shortened
