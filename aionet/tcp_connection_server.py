"""`AsyncTcpConnectionServer`: binds a known address and accepts TCP connections."""

from __future__ import annotations

import socket
from typing import Self

from .addresses import AddressLike, SocketAddress, as_address
from .listening import adopt_listener, both_families, checked_backlog, listen_tcp
from .options import TcpOptions
from .resolving import resolve
from .scope import current_scope
from .stream_server import AsyncStreamConnectionServer
from .tcp_socket import AsyncTcpSocket
from .tls.server import TlsForServer, optional_server_tls

__all__ = ["AsyncTcpConnectionServer"]


class AsyncTcpConnectionServer(AsyncStreamConnectionServer[SocketAddress, AsyncTcpSocket]):
    """Listens from its construction on; `accept` returns connected sockets.

    A port alone means every interface on both address families; port 0 a free port, the same on both.

    Args:
        address: numeric, or a port alone. A host name takes ``await AsyncTcpConnectionServer.listen(...)``.
        backlog: connections that the kernel holds until they are accepted; by default as many as it allows.
        reuse_port: let other servers bind the same port; the kernel spreads connections (SO_REUSEPORT).
        options: for the sockets that are accepted; by default those of the loop's `NetworkToolkit`.
        tls: a `ServerTls`, or an `ssl.SSLContext` of a server: every connection begins with a TLS handshake.

    Raises:
        TypeError, ValueError: a bad address, backlog, option or `tls`, before any I/O.
        OSError: the address cannot be bound; the message names it.
    """

    _socket_class = AsyncTcpSocket

    def __init__(
        self,
        address: AddressLike,
        *,
        backlog: int | None = None,
        reuse_port: bool = False,
        options: TcpOptions | None = None,
        tls: TlsForServer | None = None,
    ) -> None:
        wanted = _checked_address(address)
        if wanted.host and wanted.ip is None:
            raise ValueError(
                f"{wanted} has a host name: use `await AsyncTcpConnectionServer.listen({str(wanted)!r})`"
            )
        addresses = [wanted] if wanted.host else both_families(wanted.port)
        self._listen(addresses, backlog, reuse_port, options, tls)

    @classmethod
    async def listen(
        cls,
        address: AddressLike,
        *,
        backlog: int | None = None,
        reuse_port: bool = False,
        options: TcpOptions | None = None,
        tls: TlsForServer | None = None,
    ) -> Self:
        """Make a server as the constructor does; a host name is resolved and every address of it bound.

        Addresses that this host does not have, such as ``::1`` for ``localhost`` where there is no IPv6, are
        passed over as long as one is left.

        Raises `ResolveError`, and what the constructor raises.
        Cancel safety: nothing is left open.
        """
        wanted = _checked_address(address)
        if not wanted.host or wanted.ip is not None:
            return cls(wanted, backlog=backlog, reuse_port=reuse_port, options=options, tls=tls)
        addresses = await resolve(wanted, current_scope().resolver)
        server = cls.__new__(cls)
        server._listen(addresses, backlog, reuse_port, options, tls)
        return server

    @classmethod
    def from_fd(cls, fd: int, *, options: TcpOptions | None = None, tls: TlsForServer | None = None) -> Self:
        """Make a server of a listening TCP descriptor, which it owns from then on.

        `options` apply to the sockets that are accepted, `tls` to their connections.

        Raises:
            ValueError: `fd` is not a listening TCP socket; it stays open and the caller's.
            TypeError, ValueError: a bad option or `tls`; as well.
            OSError: `fd` is no socket, not open, or does not take the options; it stays as it was.
        """
        server = cls.__new__(cls)
        chosen, checked = _checked_options(options), optional_server_tls(tls)
        sock = adopt_listener(fd, (socket.AF_INET, socket.AF_INET6))
        try:
            chosen.apply_to_listener(sock)
        except BaseException:
            sock.detach()
            raise
        server._adopt([sock], chosen, checked)
        return server

    @property
    def address(self) -> SocketAddress:
        """Where it listens; the port alone if it listens on every interface of both families."""
        return self._address

    @property
    def addresses(self) -> tuple[SocketAddress, ...]:
        """Every address that was bound."""
        return self._addresses

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address}{' closed' if self.closed else ''}>"

    def _listen(
        self,
        addresses: list[SocketAddress],
        backlog: int | None,
        reuse_port: bool,
        options: TcpOptions | None,
        tls: TlsForServer | None,
    ) -> None:
        chosen, checked = _checked_options(options), optional_server_tls(tls)
        sockets = listen_tcp(
            addresses, backlog=checked_backlog(backlog), reuse_port=reuse_port, options=chosen
        )
        self._adopt(sockets, chosen, checked)

    def _adopt(self, sockets: list[socket.socket], options: TcpOptions, tls: TlsForServer | None) -> None:
        self._addresses = tuple(SocketAddress.from_sockaddr(sock.getsockname()) for sock in sockets)
        everywhere = len(sockets) > 1 and all(address.is_wildcard for address in self._addresses)
        self._address = SocketAddress(self._addresses[0].port) if everywhere else self._addresses[0]
        self._open(sockets, options, tls)


def _checked_address(address: AddressLike) -> SocketAddress:
    found = as_address(address)
    if not isinstance(found, SocketAddress):
        raise TypeError(f"{found} is a Unix address: AsyncUnixConnectionServer listens there")
    return found


def _checked_options(options: TcpOptions | None) -> TcpOptions:
    if options is not None and not isinstance(options, TcpOptions):
        raise TypeError(f"options must be TcpOptions, not {options!r}")
    return options or current_scope().tcp_options
