"""`AsyncUnixConnectionServer`: listens at a path and accepts Unix stream connections (unix(7))."""

from __future__ import annotations

import os
import socket
from typing import Self

from .addresses import UnixAddress
from .listening import adopt_listener, checked_backlog, listen_unix
from .options import UnixOptions
from .scope import current_scope
from .socket_file import FileAccess
from .stream_server import AsyncStreamConnectionServer
from .tls.server import TlsForServer, optional_server_tls
from .unix_socket import AsyncUnixSocket, as_unix_address

__all__ = ["AsyncUnixConnectionServer"]


class AsyncUnixConnectionServer(AsyncStreamConnectionServer[UnixAddress, AsyncUnixSocket]):
    """Listens from its construction on; `accept` returns connected sockets.

    A socket file that no process has bound any more is replaced; another server's is never removed, neither
    here nor at closing (`socket_file.py` says what that holds against). At closing the file is removed, also
    after the working directory has changed.

    Args:
        address: a path, or ``unix:PATH``, or an abstract name (``unix:@NAME``).
        backlog: connections that the kernel holds until they are accepted; by default as many as it allows.
        options: for the sockets that are accepted; by default those of the loop's `NetworkToolkit`.
        tls: a `ServerTls`, or an `ssl.SSLContext` of a server: every connection begins with a TLS handshake.
        mode: the permission bits of the socket file, as ``0o660``: to write is to connect (unix(7)).
            By default 0o777 less the process's umask.
        owner: the user that the file belongs to, by name or number; only root may give it to another one.
        group: the group that it belongs to, by name or number; one of the process's own, unless it is root.

    Mode, owner and group are set before the first connection can be made.

    Raises:
        TypeError, ValueError: a bad address, backlog, option or `tls`; a mode outside of 0o777, a user or
            group that is not known here, or any of these for an abstract name, which has no file. All of this
            before any I/O but the look-up of names.
        OSError: the path cannot be bound, or its file be given away; ``EADDRINUSE`` if another server has
            it, or if the file there is no socket.
    """

    _socket_class = AsyncUnixSocket

    def __init__(
        self,
        address: UnixAddress | str | os.PathLike[str],
        *,
        backlog: int | None = None,
        options: UnixOptions | None = None,
        tls: TlsForServer | None = None,
        mode: int | None = None,
        owner: str | int | None = None,
        group: str | int | None = None,
    ) -> None:
        wanted, chosen = as_unix_address(address), _checked_options(options)
        checked, access = optional_server_tls(tls), FileAccess(mode, owner, group)
        if access and wanted.is_abstract:
            raise ValueError(f"mode, owner and group are those of a file, which {wanted} does not have")
        backlog = checked_backlog(backlog)
        sock, self._file = listen_unix(wanted, backlog=backlog, options=chosen, access=access)
        self._adopt(sock, wanted, chosen, checked)

    @classmethod
    def from_fd(cls, fd: int, *, options: UnixOptions | None = None, tls: TlsForServer | None = None) -> Self:
        """Make a server of a listening Unix descriptor, which it owns from then on.

        The socket file stays where it is at closing: it belongs to whoever made it.

        Raises:
            ValueError: `fd` is not a listening Unix stream socket; it stays open and the caller's.
            TypeError, ValueError: a bad option or `tls`; as well.
            OSError: `fd` is no socket or not open.
        """
        server = cls.__new__(cls)
        chosen, checked = _checked_options(options), optional_server_tls(tls)
        sock = adopt_listener(fd, (socket.AF_UNIX,))
        server._adopt(sock, UnixAddress.from_sockaddr(sock.getsockname()), chosen, checked)
        server._file = None
        return server

    @property
    def address(self) -> UnixAddress:
        """Where it listens."""
        return self._address

    def close(self) -> None:
        """Close the listening socket now, and remove its file if it is still this server's.

        In a fork's child the parent continues to listen, and the file stays.
        """
        if not self.closed and self._file is not None:
            self._file.remove()
        super().close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address}{' closed' if self.closed else ''}>"

    def _adopt(
        self, sock: socket.socket, address: UnixAddress, options: UnixOptions, tls: TlsForServer | None
    ) -> None:
        self._address = address
        self._open([sock], options, tls)


def _checked_options(options: UnixOptions | None) -> UnixOptions:
    if options is not None and not isinstance(options, UnixOptions):
        raise TypeError(f"options must be UnixOptions, not {options!r}")
    return options or current_scope().unix_options
