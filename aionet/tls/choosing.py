"""Which context a handshake of a `ServerTls` is done with.

Theory of operation
-------------------
The context is chosen before the TLS object is made, from the ClientHello: everything that is set in it
holds for the handshake, verification and versions included, and its session tickets are its own. So a
session that began in another context cannot be resumed in this one.

In this order: the application protocols, because a client with which none is shared has to be refused (RFC
7301, 3.2), and `ssl` would continue without one; the caller's function; the names of the certificates. Of two
contexts with the same certificates, one that offers a single group is for clients that would have the server
do finite-field arithmetic (`key_exchange.py`).

*A name that is not ASCII* is no host's (RFC 6066, 3). `ssl` cannot decode it for an `sni_callback`, writes
the traceback to standard error and sends the alert "internal error". So where a context has such a callback,
the ClientHello is read first (`CheckedName` does nothing else), and the client is refused.

A function that raises has failed, also if it raises `asyncio.CancelledError`, as one does that awaits a task
of another connection that was cancelled. Only the cancellation of the connection's own task is one.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from itertools import islice
from typing import TYPE_CHECKING

from ..announcing import Log
from ..errors import Ends
from ..tls_failure import TlsFailure
from ..wires.tls.choice import RefusedHandshakeError
from .client_hello import ClientHello, HelloReader

if TYPE_CHECKING:
    from .server import Choose, ServerTls

__all__ = ["CheckedName", "ServerChoice"]

_log = Log("aionet.tls")

_NO_APPLICATION_PROTOCOL = 120  # no_application_protocol (RFC 7301, 3.2): ssl has no name for it
_DECODE_ERROR = ssl.AlertDescription.ALERT_DESCRIPTION_DECODE_ERROR
_UNRECOGNIZED_NAME = ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
_INTERNAL_ERROR = ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR
_SHOWN = 3  # of what a client offers, in a message


class CheckedName:
    """No choice: one context, for clients that ask for a host that there may be. It is a `ContextChoice`."""

    __slots__ = ("_context", "_hello", "_reader")

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._reader = HelloReader()
        self._hello: ClientHello | None = None

    @property
    def server_name(self) -> str | None:
        """The name that the client asks for (SNI), once it is known."""
        return None if self._hello is None else self._hello.server_name

    def feed(self, data: bytes) -> bool:
        """Take what the client says; whether that is enough to choose."""
        self._hello = self._reader.feed(data)
        return self._hello is not None

    async def context(self) -> ssl.SSLContext:
        """Return the context. Raises `RefusedHandshakeError`. It may be cancelled."""
        assert self._context is not None
        return self._checked(self._context)

    def _checked(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Return `context`, if its callback can be called. Raises `RefusedHandshakeError`."""
        hello = self._hello
        assert hello is not None
        if context.sni_callback is None or (hello.readable and hello.is_name_ascii):
            return context
        if hello.readable:
            failure, alert = TlsFailure.UNKNOWN_NAME, _UNRECOGNIZED_NAME
            message = f"{failure}: {hello.server_name!r} is not ASCII"
        else:
            failure, alert = TlsFailure.PROTOCOL, _DECODE_ERROR
            message = f"{failure}: the ClientHello cannot be read"
        raise RefusedHandshakeError(failure, message, alert)


class ServerChoice(CheckedName):
    """The choice of a `ServerTls` for one connection."""

    __slots__ = ("_ends", "_tls")

    def __init__(self, tls: ServerTls, ends: Ends) -> None:
        """`ends` knows the address that the client has connected to."""
        super().__init__(None)
        self._tls = tls
        self._ends = ends

    async def context(self) -> ssl.SSLContext:
        """Return the context. Raises `RefusedHandshakeError`. It may be cancelled."""
        hello = self._hello
        assert hello is not None
        self._refuse_other_protocols(hello)
        name = hello.server_name
        chosen = None if self._tls.choose is None else await self._chosen_by(self._tls.choose, name)
        if chosen is not None:
            self._tls.check_choice(chosen)
            return self._checked(chosen)
        found = self._tls.context_for(name, self._ends.local_address if name is None else None)
        return self._checked(self._tls.context_without_finite_field(found, hello))

    def _refuse_other_protocols(self, hello: ClientHello) -> None:
        known = self._tls.alpn
        if known and hello.alpn and not hello.offers_any(known):
            offered = list(islice(hello.protocols, _SHOWN + 1))
            shown = ", ".join(map(repr, offered[:_SHOWN])) + (", ..." if offered[_SHOWN:] else "")
            failure = TlsFailure.NO_COMMON_PROTOCOL
            message = f"{failure}: the client offers {shown}"
            raise RefusedHandshakeError(failure, message, _NO_APPLICATION_PROTOCOL)

    async def _chosen_by(self, choose: Choose, name: str | None) -> ssl.SSLContext | None:
        task = asyncio.current_task()
        assert task is not None
        asked_to_end = task.cancelling()
        try:
            found = choose(name)
            if inspect.isawaitable(found):
                found = await found
            return None if found is None else _servers(found)
        except (Exception, asyncio.CancelledError):
            if task.cancelling() > asked_to_end:
                raise
            _log.exception("the choice of a certificate for %r failed", name)
        failure = TlsFailure.UNKNOWN_NAME
        raise RefusedHandshakeError(failure, f"{failure}: choose({name!r}) failed", _INTERNAL_ERROR)


def _servers(found: object) -> ssl.SSLContext:
    if not isinstance(found, ssl.SSLContext):
        raise TypeError(f"choose must return an ssl.SSLContext or None, not {found!r}")
    if found.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("choose returned a context for clients; a server's is ssl.PROTOCOL_TLS_SERVER")
    return found
