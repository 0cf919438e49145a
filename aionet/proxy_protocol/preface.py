"""`ProxyProtocol`: what a server behind a proxy does with each connection before anything else.

Theory of operation
-------------------
*Who may speak.* A header says where the client is, and whoever may send one may claim to be anybody. So the
real peer has to be in a trusted network before a byte of it is read, and one that is not is refused, header
or no header. Nor is there a "header, if there is one": the specification forbids guessing (5), because then
every client could pretend.

*How much is read.* Up to the last byte of the header and not beyond: what came with it in one segment stays
in the socket's buffer. The first bytes tell another protocol at once; what may be a header is awaited only
up to the cap, so a connection costs no more than that, and one chunk, before it is known to be good. How
long that may take is for the caller to say.

*Whose addresses.* Afterwards the socket's ends are those that the client sees. Errors and logs name them
too. The real peer is the proxy, which `raw_socket.getpeername()` still tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypeAlias

from ..addresses import SocketAddress, UnixAddress, unmapped
from ..errors import IncompleteReadError, LimitExceededError, ProxyProtocolError, SocketBusyError
from ..stream_socket import AsyncStreamSocket
from .header import ProxyHeader
from .layout import CRLF, FIXED, LONGEST_BLOCK, LONGEST_LINE
from .parsing import (
    DEFAULT_MAX_HEADER_BYTES,
    block_length,
    parse_binary,
    parse_line,
    refuse_long_line,
    version_of,
)

__all__ = ["ProxyProtocol"]

_StreamSocket: TypeAlias = AsyncStreamSocket[Any]
_Network: TypeAlias = IPv4Network | IPv6Network

_OPERATION = "proxy_header"
_UNIX = "unix"
_THIS_HOST = ("127.0.0.0/8", "::1/128")


class ProxyProtocol:
    """Reads the PROXY protocol header, version 1 or 2, that begins each connection from a trusted proxy.

    ``await proxy(socket)`` comes before anything else is read or written, and before TLS. A server that
    uses it serves connections from its proxies and no others.

    Args:
        trusted: the networks that proxies connect from, as ``"10.0.0.0/8"`` or one address;
            ``"unix"`` trusts whoever can connect to a Unix socket. By default this host's loopback.
        max_header_bytes: how long a version 2 header may be, after its first 16 bytes.

    Raises `ValueError` where a network is none, has bits set beyond its mask, or none is given, and where
    `max_header_bytes` is not in 0..65535; `TypeError` for wrong types.
    """

    def __init__(
        self,
        trusted: Iterable[str | IPv4Network | IPv6Network] = _THIS_HOST,
        *,
        max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES,
    ) -> None:
        if isinstance(trusted, str):
            raise TypeError(f"trusted must be several networks, as in ({trusted!r},), not one text")
        if not isinstance(max_header_bytes, int):
            raise TypeError(f"max_header_bytes must be a whole number, not {max_header_bytes!r}")
        if not 0 <= max_header_bytes <= LONGEST_BLOCK:
            raise ValueError(f"max_header_bytes must be 0 to {LONGEST_BLOCK}, not {max_header_bytes!r}")
        names = tuple(trusted)
        if not names:
            raise ValueError("trusted must name at least one network: nobody could connect")
        self._unix = _UNIX in names
        self._networks = tuple(_network(name) for name in names if name != _UNIX)
        self._max_header_bytes = max_header_bytes

    async def __call__(self, socket: _StreamSocket) -> ProxyHeader:
        """Read the header from `socket`, make its addresses the socket's, and return it.

        It stays readable as `socket.proxy_header`. Where it has no addresses, the socket keeps the real ones.

        Raises:
            ProxyProtocolError: the peer is not trusted, or what it sent is no header; close the connection.
            SocketBusyError: a header was read from this connection before, or another task is reading.
            ConnectionLostError, SocketClosedError: as `socket.read`.

        Cancel safety: part of the header may have been consumed: close the connection.
        """
        if socket.proxy_header is not None:  # the peer's address is no longer the real one
            raise SocketBusyError("its PROXY protocol header has been read", **socket._where(_OPERATION))
        if not self._trusts(socket.peer_address):
            raise ProxyProtocolError("the peer is not trusted as a proxy", **socket._where(_OPERATION))
        try:
            header = await self._read_header(socket)
        except ProxyProtocolError as error:
            raise ProxyProtocolError(*error.args, **socket._where(_OPERATION)) from None
        except IncompleteReadError as error:
            where = socket._where(_OPERATION)
            raise ProxyProtocolError("the stream ended in the middle of the header", **where) from error
        socket._present_as(header)
        return header

    async def _read_header(self, socket: _StreamSocket) -> ProxyHeader:
        beginning = await socket.peek(FIXED.size)
        if not beginning:
            raise ProxyProtocolError("the stream ended before the header")
        if version_of(beginning) == 1:
            try:
                return parse_line(await socket.read_until(CRLF, max_bytes=LONGEST_LINE))
            except LimitExceededError:
                refuse_long_line(beginning)
        fixed = await socket.read_exactly(FIXED.size)
        length = block_length(fixed, self._max_header_bytes)
        return parse_binary(fixed, await socket.read_exactly(length))

    def _trusts(self, peer: SocketAddress | UnixAddress | None) -> bool:
        if isinstance(peer, UnixAddress):
            return self._unix
        ip = None if peer is None else peer.ip
        return ip is not None and any(unmapped(ip) in network for network in self._networks)


def _network(name: object) -> _Network:
    if not isinstance(name, str | IPv4Network | IPv6Network):  # ip_network() makes addresses of numbers
        raise TypeError(f"a trusted network is written as '10.0.0.0/8', not {name!r}")
    return ip_network(name)
