"""Sessions that a client may resume: a small cache for each context.

Theory of operation
-------------------
A session that is resumed spares both sides the certificates and what they cost. It vouches for the peer as
the first handshake did; so what that was checked for is part of the key: the name, whether it was compared,
and whether the certificate was verified. Port or path are, too: another service of the same host knows
nothing of the session. A session is of one context and no other can use it. It holds that context, so the
cache is an attribute of the context: a table beside them would keep every context for ever.

In TLS 1.3 a ticket is for one use (RFC 8446, C.4), or an onlooker could tell that two connections are of one
client. So a session is taken out when it is used; the new connection brings new ones. They come after the
handshake, with the first data, so a session is kept when its connection ends.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeAlias

from ..addresses import SocketAddress, UnixAddress

__all__ = ["MOST_SESSIONS", "keep_session", "session_key", "take_session"]

MOST_SESSIONS = 64
"""Peers of one context that are remembered, the last ones used."""

_Cache: TypeAlias = OrderedDict[Hashable, ssl.SSLSession]
_CACHE = "_aionet_sessions"  # the attribute


def session_key(
    context: ssl.SSLContext, server_hostname: str | None, peer: SocketAddress | UnixAddress | None
) -> Hashable:
    """Return what has to be equal for a session to be resumed."""
    place: object = peer
    if server_hostname is not None and isinstance(peer, SocketAddress):
        place = peer.port  # a name may have several addresses
    return server_hostname, place, context.verify_mode, context.check_hostname


def take_session(context: ssl.SSLContext, key: Hashable) -> ssl.SSLSession | None:
    """Return a session to resume, which is then no longer in the cache."""
    cache: _Cache | None = getattr(context, _CACHE, None)
    return None if cache is None else cache.pop(key, None)


def keep_session(context: ssl.SSLContext, key: Hashable, session: ssl.SSLSession) -> None:
    """Keep `session`, if it can be resumed at all."""
    if session.has_ticket or session.id:
        cache: _Cache | None = getattr(context, _CACHE, None)
        if cache is None:
            cache = OrderedDict()
            setattr(context, _CACHE, cache)
        cache[key] = session
        cache.move_to_end(key)
        if len(cache) > MOST_SESSIONS:
            cache.popitem(last=False)
