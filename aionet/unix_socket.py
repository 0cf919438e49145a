"""`AsyncUnixSocket`: a stream socket to another process of this machine (unix(7))."""

from __future__ import annotations

import os
import ssl
from typing import Self

from .addresses import UnixAddress
from .dialing import dial_unix
from .options import UnixOptions
from .scope import current_scope
from .stream_socket import AsyncStreamSocket
from .tls.client import client_tls

__all__ = ["AsyncUnixSocket", "as_unix_address"]


class AsyncUnixSocket(AsyncStreamSocket[UnixAddress]):
    """A Unix stream connection whose operations are awaited: `AsyncTcpSocket` less what only TCP has.

    Args:
        options: for this socket; by default those of the loop's `NetworkToolkit`, or `UnixOptions()`.
    """

    __slots__ = ()

    def __init__(self, *, options: UnixOptions | None = None) -> None:
        if options is not None and not isinstance(options, UnixOptions):
            raise TypeError(f"options must be UnixOptions, not {options!r}")
        super().__init__(options or current_scope().unix_options)

    async def connect_to(
        self,
        address: UnixAddress | str | os.PathLike[str],
        *,
        tls: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        accept_truncation: bool = False,
    ) -> Self:
        """Connect to the server at `address` (a path, or ``unix:PATH``), and return this socket.

        Waits while the server's queue is full.

        Args:
            address: where the server listens.
            tls: a context for TLS, taken as it is; ``True`` for the default one, which verifies the server's
                certificate by the system's trust store.
            server_hostname: the name to ask for and to find in the certificate; a path has none.
            accept_truncation: take an end of the connection without close_notify for a clean end of the
                stream, which gives up knowing whether somebody has cut it off.

        Raises:
            ConnectError: nobody answers there.
            TlsError: the handshake failed; `failure` says why.
            ResourceExhaustedError: no descriptors, memory or epoll watches are left for the handshake.
            SocketBusyError: this socket is connected already, or about to be.
            SocketClosedError: it was closed, before or meanwhile.
            TypeError, ValueError: a bad address or context, or no `server_hostname` for a context that
                compares it, before any I/O.

        Cancel safety: nothing is left open or registered.
        """
        target = as_unix_address(address)
        wanted_tls = client_tls(tls, server_hostname, None, accept_truncation)
        options = self._options
        assert isinstance(options, UnixOptions)
        await self._connect(dial_unix(target, options=options), target, wanted_tls)
        return self


def as_unix_address(address: UnixAddress | str | os.PathLike[str]) -> UnixAddress:
    """Return `address` as a `UnixAddress` that has a name."""
    if isinstance(address, str) and address.startswith("unix:"):
        address = UnixAddress.parse(address)
    found = address if isinstance(address, UnixAddress) else UnixAddress(address)
    if not found.path:
        raise ValueError("a Unix address to connect to or to listen on needs a path")
    return found
