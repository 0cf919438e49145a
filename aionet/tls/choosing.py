"""Which context a handshake of a `ServerTls` is done with.

Theory of operation
-------------------
The context is chosen before the TLS object is made, from the ClientHello: everything that is set in it
holds for the handshake, verification and versions included, and its session tickets are its own. So a
session that began in another context cannot be resumed in this one.

In this order: the application protocols, because a client with which none is shared has to be refused (RFC
7301, 3.2), and `ssl` would continue without one; the caller's function; the names of the certificates.
"""

from __future__ import annotations

import inspect
import ssl
from typing import TYPE_CHECKING

from ..announcing import Log
from ..errors import Ends
from ..tls_failure import TlsFailure
from ..wires.tls.choice import RefusedHandshakeError
from .client_hello import ClientHello, HelloReader

if TYPE_CHECKING:
    from .server import Choose, ServerTls

__all__ = ["ServerChoice"]

_log = Log("aionet.tls")

_NO_APPLICATION_PROTOCOL = 120  # no_application_protocol (RFC 7301, 3.2): ssl has no name for it
_INTERNAL_ERROR = ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR
_SHOWN = 3  # of what a client offers, in a message


class ServerChoice:
    """The choice for one connection. It is a `ContextChoice`."""

    __slots__ = ("_ends", "_hello", "_reader", "_tls")

    def __init__(self, tls: ServerTls, ends: Ends) -> None:
        """`ends` knows the address that the client has connected to."""
        self._tls = tls
        self._ends = ends
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
        assert self._hello is not None
        name, offered = self._hello
        self._refuse_other_protocols(offered)
        chosen = None if self._tls.choose is None else await self._chosen_by(self._tls.choose, name)
        if chosen is not None:
            return chosen
        return self._tls.context_for(name, self._ends.local_address if name is None else None)

    def _refuse_other_protocols(self, offered: tuple[str, ...]) -> None:
        known = self._tls.alpn
        if known and offered and not set(offered) & set(known):
            shown = ", ".join(map(repr, offered[:_SHOWN])) + (", ..." if offered[_SHOWN:] else "")
            failure = TlsFailure.NO_COMMON_PROTOCOL
            message = f"{failure}: the client offers {shown}"
            raise RefusedHandshakeError(failure, message, _NO_APPLICATION_PROTOCOL)

    async def _chosen_by(self, choose: Choose, name: str | None) -> ssl.SSLContext | None:
        try:
            found = choose(name)
            if inspect.isawaitable(found):
                found = await found
            return None if found is None else _checked(found)
        except Exception:
            _log.exception("the choice of a certificate for %r failed", name)
        failure = TlsFailure.UNKNOWN_NAME
        raise RefusedHandshakeError(failure, f"{failure}: choose({name!r}) failed", _INTERNAL_ERROR)


def _checked(found: object) -> ssl.SSLContext:
    if not isinstance(found, ssl.SSLContext):
        raise TypeError(f"choose must return an ssl.SSLContext or None, not {found!r}")
    if found.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("choose returned a context for clients; a server's is ssl.PROTOCOL_TLS_SERVER")
    return found
