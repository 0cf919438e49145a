"""What every connection server has: accepting, iterating, pausing, closing.

Theory of operation
-------------------
A server owns an `Acceptor` (`accepting.py`), which owns the listening sockets. What it adds is making sockets
of accepted connections. Options were set on the listening sockets; where the system lets accepted sockets
inherit them (Linux, for TCP) an accepted connection costs no setsockopt at all.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, Self, TypeVar

from .accepting import Acceptor, room_for_one
from .addresses import SocketAddress, UnixAddress
from .errors import SocketClosedError
from .no_copies import refuse_to_be_copied
from .options import StreamOptions, inherits_options
from .scope import current_scope
from .stream_socket import AsyncStreamSocket
from .tls.server import TlsForServer
from .tls_handshakes import TlsAcceptor

__all__ = ["AsyncStreamConnectionServer"]

AddressT = TypeVar("AddressT", SocketAddress, UnixAddress)
SocketT = TypeVar("SocketT", bound=AsyncStreamSocket[Any])


class AsyncStreamConnectionServer(Generic[AddressT, SocketT]):
    """Accepts connections. Use `AsyncTcpConnectionServer` or `AsyncUnixConnectionServer`.

    ``async with`` closes it at the end; ``async for socket in server`` accepts until it is closed.

    In a fork's child its operations refuse with `SocketInheritedError`, and closing it only drops the child's
    descriptors. A child that is to accept makes a server of copies of them: ``from_fd(os.dup(fd))``.
    """

    __reduce__ = refuse_to_be_copied

    _socket_class: type[SocketT]
    _acceptor: Acceptor
    _options: StreamOptions

    @property
    def address(self) -> AddressT:
        """Where it listens."""
        raise NotImplementedError

    def _open(
        self, sockets: Sequence[socket.socket], options: StreamOptions, tls: TlsForServer | None
    ) -> None:
        self._options = options
        self._tls = tls
        self._tls_acceptor = None if tls is None else TlsAcceptor(self._next, tls)
        self._set_up_per_socket = not inherits_options(sockets[0].family)
        self._ledger = current_scope().ledger
        self._acceptor = Acceptor(
            sockets,
            self.address,
            _common_local_address(sockets),
            self._socket_class,
            options,
            self._ledger,
        )
        if self._ledger is not None:
            self._ledger.add(self)

    async def accept(self, socket: SocketT | None = None) -> SocketT:
        """Wait for a connection and return a socket for it: a new one, or the unconnected one passed in.

        Several tasks may wait; they are served first come, first served. Transient failures (accept(2)) are
        passed over; while descriptors or memory are exhausted it waits, 0.1 s doubling to 1 s, or until this
        process closes a socket. With `tls` the socket's handshake is done: that of several connections go on
        side by side, 10 seconds each, and those that fail are passed over.

        Raises:
            SocketClosedError: the server is closed, or closes meanwhile.
            SocketBusyError: the socket passed in is connected already.
            TypeError: what was passed in is no socket of this server's kind.
            OSError: the listening socket has become unusable; it names the address.

        Cancel safety: no connection is lost.
        Yields when it has to wait, and now and then (see `wires.event_loop`) when it does not.
        """
        if socket is None:
            if self._tls_acceptor is None or self.closed:
                return await self._next()
            self._acceptor.refuse_if_inherited("accept")
            connected: SocketT = await self._tls_acceptor.accept()
            return connected
        if not isinstance(socket, self._socket_class):
            raise TypeError(f"accept() connects a {self._socket_class.__name__}, not {socket!r}")
        with socket._connecting("accept"):
            accepted = await self.accept()
        socket._take_over(accepted)
        if socket._options is not self._options:
            socket._options.apply_to_stream(socket.raw_socket, connected=True)
        return socket

    async def _next(self) -> SocketT:
        """Accept a connection as it is, before any handshake."""
        return (await self._take())[0]

    async def _take(self, room: Callable[[], int] = room_for_one) -> list[SocketT]:
        """Accept the next connections, as they are; see `Acceptor.take`."""
        accepted: list[SocketT] = await self._acceptor.take(room)
        if self._set_up_per_socket:  # where accepted sockets do not inherit the options
            try:
                for socket in accepted:
                    self._options.apply_to_stream(socket.raw_socket, connected=True)
            except BaseException:
                for socket in accepted:
                    socket.abort()
                raise
        return accepted

    def pause(self) -> None:
        """Stop accepting; the kernel's queue holds new connections. Waiting `accept` calls go on waiting."""
        self._acceptor.hold(self)

    def resume(self) -> None:
        """Accept again; a spawner that has no room for more connections may still hold the server."""
        self._acceptor.release(self)

    @property
    def paused(self) -> bool:
        """Whether connections are left in the kernel's queue: by `pause`, or by a spawner that is full."""
        return self._acceptor.held

    @property
    def closed(self) -> bool:
        """Whether the server is closed."""
        return self._acceptor.closed

    def close(self) -> None:
        """Close the listening sockets now. Connections that were given out are not touched.

        In a fork's child the parent continues to listen.
        """
        self._acceptor.close()
        if self._tls_acceptor is not None:
            self._tls_acceptor.close(partial(self._acceptor.refusal, "accept"))
        if self._ledger is not None:
            self._ledger.discard(self)

    async def aclose(self) -> None:
        """Close the listening sockets; waiting `accept` calls raise `SocketClosedError`. Idempotent.

        Accepted connections are not touched. Never waits for anybody else. Cancel safety: it is closed.
        """
        self.close()
        handshakes_end = not self._acceptor.inherited  # else it is the parent's loop that would end them
        if self._tls_acceptor is not None and handshakes_end:
            await self._tls_acceptor.wait_closed()

    @property
    def raw_sockets(self) -> tuple[socket.socket, ...]:
        """The standard library's listening sockets, for options, not to accept from; none once closed."""
        if not self.closed:
            self._acceptor.refuse_if_inherited("raw_sockets")
        return self._acceptor.sockets

    def filenos(self) -> list[int]:
        """Return the descriptors of the listening sockets; empty once closed."""
        return [sock.fileno() for sock in self._acceptor.sockets]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SocketT:
        try:
            return await self.accept()
        except SocketClosedError:
            raise StopAsyncIteration from None


def _common_local_address(sockets: Sequence[socket.socket]) -> SocketAddress | UnixAddress | None:
    """Return the local end that every accepted connection will have, if that is known beforehand."""
    if len(sockets) != 1:
        return None
    name = sockets[0].getsockname()
    if not isinstance(name, tuple):
        return UnixAddress.from_sockaddr(name)
    address = SocketAddress.from_sockaddr(name)
    return None if address.is_wildcard else address
