"""Our sockets and servers as anyio's streams and listeners (extra ``anyio``).

Theory of operation
-------------------
Code that was written for `anyio.abc.ByteStream` and `anyio.abc.Listener` runs on ours unchanged, under
anyio's asyncio backend; so where anyio's own sockets and ours differ, the adapters do what anyio's do:

- *Checkpoints.* Every operation is one, even if it completes at once. It comes before the operation, so that
  a cancellation that it lets through can lose nothing; closing alone checks afterwards, when all is closed.
- *Busy.* A second receiver, sender or acceptor gets `BusyResourceError`. Our sockets serve several senders
  and acceptors in turn, but a program that grew to need that would fail on every other stream.
- *Errors* become anyio's four; ours, which knows the errno and both addresses, is the cause.

They differ on purpose where anyio leaves it open: `send` is whole even when cancelled, `aclose` delivers what
was sent (for the `linger` of the socket's options, and at once when cancelled), and loss is told by
`send_eof` and `aclose` too.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from anyio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    ResourceGuard,
    TypedAttributeSet,
    create_task_group,
    typed_attribute,
)
from anyio.abc import ByteStream, Listener, SocketAttribute, TaskGroup
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSAttribute

from ..addresses import SocketAddress, UnixAddress
from ..errors import AionetError, SocketBusyError, SocketClosedError
from ..no_copies import refuse_to_be_copied
from ..stream_server import AsyncStreamConnectionServer
from ..stream_socket import AsyncStreamSocket
from ..wires.tls.info import TlsInfo

__all__ = ["AionetAttribute", "AionetByteStream", "AionetListener"]

_Attributes = dict[Any, Callable[[], Any]]

_LOCAL = (SocketAttribute.local_address, SocketAttribute.local_port)
_REMOTE = (SocketAttribute.remote_address, SocketAttribute.remote_port)


class AionetAttribute(TypedAttributeSet):
    """What our streams have beside anyio's `SocketAttribute`, through wrappers such as `TLSStream` too."""

    socket: AsyncStreamSocket[Any] = typed_attribute()
    """The socket beneath, for what anyio has no name for: ``wait_acknowledged``, ``tcp_info``, ``abort``."""


class AionetByteStream(ByteStream):
    """A connected socket as anyio's `ByteStream`, which owns it from then on.

    It has the attributes of `SocketAttribute`; addresses and ports outlive closing, ``raw_socket`` does not.
    Of a socket that speaks TLS by itself it has those of `TLSAttribute` that `TlsInfo` knows.
    """

    __reduce__ = refuse_to_be_copied

    def __init__(self, socket: AsyncStreamSocket[Any]) -> None:
        self._socket = socket
        self._receiving = ResourceGuard("reading from")
        self._sending = ResourceGuard("writing to")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive 1 to `max_bytes` bytes.

        Raises:
            EndOfStream: the peer ended the stream, in good order.
            BrokenResourceError: the connection was lost.
            ClosedResourceError: this side has closed, or closes meanwhile.
            BusyResourceError: another task is already receiving.
            ValueError: `max_bytes` is less than 1.

        Cancel safety: no byte is lost.
        """
        with self._receiving:
            await checkpoint()
            try:
                data = await self._socket.read(max_bytes)
            except (AionetError, OSError) as error:
                raise _as_anyio(error, "reading from") from error
        if not data:
            raise EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send all of `item`.

        Raises:
            BrokenResourceError: the connection was lost.
            ClosedResourceError: this side has closed, or ended the stream with `send_eof`.
            BusyResourceError: another task is already sending.

        Cancel safety: either nothing of `item` is sent or all of it, even if the task is cancelled meanwhile.
        """
        with self._sending:
            await checkpoint()
            try:
                await self._socket.write(item)
            except (AionetError, OSError) as error:
                raise _as_anyio(error, "writing to") from error

    async def send_eof(self) -> None:
        """End this direction, after all that was sent. A second call is idle.

        Raises `BrokenResourceError` and `ClosedResourceError` as `send`.
        Cancel safety: cancelled before its turn has come, the stream is not ended.
        """
        await checkpoint()
        try:
            await self._socket.send_eof()
        except (AionetError, OSError) as error:
            raise _as_anyio(error, "writing to") from error

    async def aclose(self) -> None:
        """Deliver what was sent, within the socket's ``linger``, and close; see `AsyncStreamSocket.aclose`.

        Raises:
            BrokenResourceError: the rest of a `send` that had been cancelled could not be delivered.

        Cancel safety: cancelled, as by `anyio.aclose_forcefully`, it closes at once.
        """
        try:
            await self._socket.aclose()
        except (AionetError, OSError) as error:
            raise _as_anyio(error, "closing") from error
        await checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes that are known, each with a function that returns it."""
        attributes: _Attributes = {AionetAttribute.socket: lambda: self._socket}
        _add_end(attributes, self._socket.local_address, *_LOCAL)
        _add_end(attributes, self._socket.peer_address, *_REMOTE)
        if self._socket.fileno() != -1:
            _add_raw_socket(attributes, self._socket.raw_socket)
        if self._socket.tls is not None:
            _add_tls(attributes, self._socket.tls)
        return attributes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._socket!r}>"


class AionetListener(Listener[AionetByteStream]):
    """A connection server as anyio's `Listener`, which owns it from then on.

    It has the attributes of `SocketAttribute` that a listener has, until it is closed. Of a server that
    listens on several addresses they are those of one.
    """

    __reduce__ = refuse_to_be_copied

    def __init__(self, server: AsyncStreamConnectionServer[Any, Any]) -> None:
        self._server = server
        self._accepting = ResourceGuard("accepting connections from")
        self._raw_socket = server.raw_sockets[0]

    async def accept(self) -> AionetByteStream:
        """Wait for a connection and return it.

        Raises:
            ClosedResourceError: the listener is closed, or closes meanwhile.
            BrokenResourceError: the listening socket has become unusable.
            BusyResourceError: another task is already accepting.

        Cancel safety: no connection is lost.
        """
        with self._accepting:
            await checkpoint()
            try:
                return AionetByteStream(await self._server.accept())
            except (AionetError, OSError) as error:
                raise _as_anyio(error, "accepting connections from") from error

    async def serve(
        self, handler: Callable[[AionetByteStream], Any], task_group: TaskGroup | None = None
    ) -> None:
        """Accept for ever, and start ``handler(stream)`` in `task_group` for each; the handler closes it.

        Without a task group it makes its own. As with anyio's own listeners a handler that raises ends its
        task group, and all the others with it; `aionet.ConnectionSpawner` keeps them apart.

        Raises as `accept`, in an `ExceptionGroup` if the task group is its own.
        Cancel safety: no connection is lost; with a task group of its own, the handlers are cancelled too.
        """
        if task_group is None:
            async with create_task_group() as own:
                await self.serve(handler, own)
        else:
            while True:
                task_group.start_soon(handler, await self.accept())

    async def aclose(self) -> None:
        """Close the server; accepted connections are not touched. Cancel safety: it closes first."""
        await self._server.aclose()
        await checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes that are known, each with a function that returns it."""
        if self._server.closed:
            return {}
        attributes: _Attributes = {}
        _add_end(attributes, _address_of(self._raw_socket), *_LOCAL)
        _add_raw_socket(attributes, self._raw_socket)
        return attributes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._server!r}>"


def _as_anyio(error: Exception, action: str) -> Exception:
    """Return what anyio calls `error`; `action` is what `BusyResourceError` says that another task does."""
    if isinstance(error, SocketClosedError):
        return ClosedResourceError(str(error))
    if isinstance(error, SocketBusyError):
        return BusyResourceError(action)
    return BrokenResourceError(str(error))


def _add_end(
    attributes: _Attributes, end: SocketAddress | UnixAddress | None, address_key: Any, port_key: Any
) -> None:
    if end is not None:
        attributes[address_key] = lambda: _as_anyio_address(end)
    if isinstance(end, SocketAddress):
        attributes[port_key] = lambda: end.port


def _add_raw_socket(attributes: _Attributes, raw_socket: socket.socket) -> None:
    attributes[SocketAttribute.raw_socket] = lambda: raw_socket
    attributes[SocketAttribute.family] = lambda: raw_socket.family


def _add_tls(attributes: _Attributes, tls: TlsInfo) -> None:
    attributes[TLSAttribute.tls_version] = lambda: tls.version
    attributes[TLSAttribute.alpn_protocol] = lambda: tls.alpn_protocol
    attributes[TLSAttribute.peer_certificate] = lambda: tls.peer_certificate
    attributes[TLSAttribute.peer_certificate_binary] = lambda: tls.peer_certificate_der
    attributes[TLSAttribute.standard_compatible] = lambda: True


def _address_of(listening: socket.socket) -> SocketAddress | UnixAddress:
    name = listening.getsockname()
    return SocketAddress.from_sockaddr(name) if isinstance(name, tuple) else UnixAddress.from_sockaddr(name)


def _as_anyio_address(address: SocketAddress | UnixAddress) -> Any:
    """Write `address` as anyio does: a host and a port, the scope by its number; or a path."""
    if isinstance(address, UnixAddress):
        return address.sockaddr()
    host, port, *rest = address.sockaddr()
    scope = rest[1] if rest else 0
    return (f"{host}%{scope}" if scope else host), port
