"""Laying TLS over a wire: for clients that connect, for servers, and for protocols with STARTTLS.

Theory of operation
-------------------
A client verifies: the context that ``tls=True`` stands for is the standard library's default one, with the
system's trust store. Whoever wants anything else builds a context; nothing here loosens one.

The handshake runs in the task that asks for it. When it fails, the alert that tells the peer why is on its
way; the wire's owner closes it, gracefully enough for the alert to arrive, or aborts it.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

from ..wires.tls.wire import TlsWire
from .sessions import keep_session, session_key, take_session

__all__ = ["client_context", "lay_tls", "make_tls"]


def client_context(tls: ssl.SSLContext | bool | None) -> ssl.SSLContext | None:
    """Return the context that `tls` stands for: ``True`` for the default one, which verifies.

    Raises `TypeError`, and `ValueError` for a context that is for servers only.
    """
    if tls is None or tls is False:
        return None
    if tls is True:
        return _default_context()
    if not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls must be an ssl.SSLContext, True or None, not {tls!r}")
    if tls.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(f"tls={tls!r} is a context for servers: a client's is ssl.PROTOCOL_TLS_CLIENT")
    return tls


@functools.cache
def _default_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def make_tls(
    wire: Any,
    context: ssl.SSLContext,
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
        context: taken as it is.
        server_side: whether this side is the server.
        server_hostname: a client's: what it asks for, and what it wants to see in the certificate.
        patience: seconds for which closing waits for the peer's close_notify.
        accept_truncation: whether an end of the stream below counts as the end of the TLS stream.
        initial: ciphertext that was read already.
    """
    if server_side:
        return TlsWire(
            wire,
            context,
            server_side=True,
            server_hostname=None,
            patience=patience,
            accept_truncation=accept_truncation,
            initial=initial,
        )
    key = session_key(context, server_hostname, wire.peer_address)
    return TlsWire(
        wire,
        context,
        server_side=False,
        server_hostname=server_hostname,
        patience=patience,
        accept_truncation=accept_truncation,
        session=take_session(context, key),
        keep_session=functools.partial(keep_session, context, key),
        initial=initial,
    )


async def lay_tls(wire: Any, context: ssl.SSLContext, **how: Any) -> TlsWire:
    """Lay TLS over `wire`, see `make_tls`, and do the handshake.

    Raises:
        TlsError: the handshake failed; `failure` says why. The lower wire stays its owner's, who closes it:
            in good order, so that the alert arrives, or at once.
        SocketClosedError: this side closed meanwhile.

    Cancel safety: the lower wire is good for nothing but aborting.
    """
    made = make_tls(wire, context, **how)
    await made.shake_hands()
    return made
