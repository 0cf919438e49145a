"""What the sockets of an event loop take from the toolkit that is open on it, if one is.

Theory of operation
-------------------
`NetworkToolkit` stands above the sockets and uses them; the sockets need its defaults, its resolver and its
ledger. So those three live here, beneath both: the toolkit sets the scope of its loop, sockets and servers
look it up when they are made or connected. Outside a toolkit a loop has the `BARE` scope, whose ledger is
``None``: nobody pays for bookkeeping that nobody reads.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from .options import TcpOptions, UnixOptions
from .resolving import Resolver

__all__ = ["BARE", "Scope", "current_scope", "set_scope"]


@dataclass(frozen=True)
class Scope:
    """Defaults for everything that is made on a loop."""

    tcp_options: TcpOptions = field(default_factory=TcpOptions)
    unix_options: UnixOptions = field(default_factory=UnixOptions)
    resolver: Resolver | None = None
    ledger: set[Any] | None = None
    """The open sockets and servers; ``None`` when nobody keeps account."""


BARE = Scope()

_scopes: WeakKeyDictionary[asyncio.AbstractEventLoop, Scope] = WeakKeyDictionary()


def current_scope() -> Scope:
    """Return the scope of the running loop; `BARE` outside of one."""
    if not _scopes:
        return BARE
    try:
        return _scopes.get(asyncio.get_running_loop(), BARE)
    except RuntimeError:
        return BARE


def set_scope(loop: asyncio.AbstractEventLoop, scope: Scope | None) -> Scope | None:
    """Make `scope` that of `loop`, or take it away; return the one before."""
    previous = _scopes.pop(loop, None)
    if scope is not None:
        _scopes[loop] = scope
    return previous
