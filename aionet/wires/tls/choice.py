"""What a wire asks for the context of a handshake, where that depends on what the client says first."""

from __future__ import annotations

import ssl
from typing import Protocol

from ...tls_failure import TlsFailure

__all__ = ["ContextChoice", "RefusedHandshakeError"]


class ContextChoice(Protocol):
    """The choice of a context for one handshake of a server."""

    @property
    def server_name(self) -> str | None:
        """The name that the client asks for (SNI), once it is known."""

    def feed(self, data: bytes) -> bool:
        """Take what the client says; whether that is enough to choose."""

    async def context(self) -> ssl.SSLContext:
        """Return the context. Raises `RefusedHandshakeError`. It may be cancelled."""


class RefusedHandshakeError(Exception):
    """A handshake ends before it has begun."""

    def __init__(self, failure: TlsFailure, message: str, alert: int) -> None:
        super().__init__(message)
        self.failure = failure
        self.alert = bytes((21, 3, 3, 0, 2, 2, alert))
        """The record of the fatal alert that the client gets (RFC 8446, 6)."""
