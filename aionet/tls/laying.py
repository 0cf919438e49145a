"""Laying TLS over a wire: for clients that connect, for servers, and for protocols with STARTTLS.

Theory of operation
-------------------
The handshake runs in the task that asks for it. When it fails, the alert that tells the peer why is on its
way; the wire's owner closes it, gracefully enough for the alert to arrive, or aborts it.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

from ..wires.tls.wire import TlsWire
from .choosing import CheckedName, ServerChoice
from .server import ServerTls, TlsForServer
from .sessions import keep_session, session_key, take_session

__all__ = ["make_tls"]


def make_tls(
    wire: Any,
    tls: TlsForServer,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    patience: float,
    accept_truncation: bool = False,
    initial: bytes = b"",
) -> TlsWire:
    """Return TLS over `wire`, whose handshake is still to be done: `TlsWire.shake_hands`.

    Args:
        wire: what it lies over, from then on its own.
        tls: a context, taken as it is; or a server's `ServerTls`, which chooses one.
        server_side: whether this side is the server.
        server_hostname: a client's: what it asks for, and what it wants to see in the certificate.
        patience: seconds for which closing waits for the peer's close_notify.
        accept_truncation: whether an end of the stream below counts as the end of the TLS stream.
        initial: ciphertext that was read already.
    """
    if isinstance(tls, ServerTls) or server_side:
        context, choice = _context_or_choice(tls, wire)
        return TlsWire(
            wire,
            context,
            server_side=True,
            choice=choice,
            patience=patience,
            accept_truncation=accept_truncation,
            initial=initial,
        )
    key = session_key(tls, server_hostname, wire.peer_address)
    return TlsWire(
        wire,
        tls,
        server_side=False,
        server_hostname=server_hostname,
        patience=patience,
        accept_truncation=accept_truncation,
        session=take_session(tls, key),
        keep_session=functools.partial(keep_session, tls, key),
        initial=initial,
    )


def _context_or_choice(
    tls: TlsForServer, wire: Any
) -> tuple[ssl.SSLContext, None] | tuple[None, CheckedName]:
    """Return the context of a server's handshake, or what has to read the ClientHello first."""
    if isinstance(tls, ServerTls):
        tls.look()
        return None, ServerChoice(tls, wire)
    return (tls, None) if tls.sni_callback is None else (None, CheckedName(tls))
