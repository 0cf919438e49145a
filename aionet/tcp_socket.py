"""`AsyncTcpSocket`: a stream socket over TCP."""

from __future__ import annotations

import math
import ssl
from typing import Self

from .addresses import AddressLike, SocketAddress, as_address
from .dialing import dial
from .options import TcpOptions
from .scope import current_scope
from .stream_socket import AsyncStreamSocket
from .tcp_info import TcpInfo, read_tcp_info
from .tls.client import client_tls, name_in_certificate

__all__ = ["AsyncTcpSocket"]


class AsyncTcpSocket(AsyncStreamSocket[SocketAddress]):
    """A TCP connection whose operations are awaited.

    Args:
        options: for this socket; by default those of the loop's `NetworkToolkit`, or `TcpOptions()`.
    """

    __slots__ = ()

    def __init__(self, *, options: TcpOptions | None = None) -> None:
        if options is not None and not isinstance(options, TcpOptions):
            raise TypeError(f"options must be TcpOptions, not {options!r}")
        super().__init__(options or current_scope().tcp_options)

    async def connect_to(
        self,
        address: AddressLike,
        *,
        local_address: AddressLike | None = None,
        tls: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        accept_truncation: bool = False,
        happy_eyeballs_delay: float | None = 0.25,
    ) -> Self:
        """Connect to `address`, and return this socket.

        The addresses of a name race, with the address families in turn (RFC 8305): each attempt is started
        `happy_eyeballs_delay` seconds after the one before, or as soon as an attempt fails. With a delay of 0
        all start at once; with ``None`` each waits until the one before has failed. A port alone means this
        host.

        Args:
            address: as in ``("example.org", 443)``, ``"127.0.0.1:3000"``, ``"[::1]:3000"``, ``3000``.
            local_address: the numeric address, or the port alone, to connect from. With port 0 connections to
                different peers may share a port, so that ports do not run out (IP_BIND_ADDRESS_NO_PORT,
                ip(7)); a port that is named may be used for several peers, and again after a close
                (SO_REUSEADDR, socket(7)).
            tls: a context for TLS, taken as it is; ``True`` for the default one, which verifies the server's
                certificate by the system's trust store.
            server_hostname: the name to ask for and to find in the certificate, if not the host of `address`.
            accept_truncation: take an end of the connection without close_notify for a clean end of the
                stream, which gives up knowing whether somebody has cut it off.

        Raises:
            ResolveError: the name has no address.
            ConnectError: no address answered; `attempts` lists each with its delay and its error. Among them
                is a `local_address` that cannot be bound, and a scope that names no interface (ENODEV).
            TlsError: the handshake failed; `failure` says why.
            ResourceExhaustedError: no descriptors, memory or epoll watches are left for the handshake.
            SocketBusyError: this socket is connected already, or about to be.
            SocketClosedError: it was closed, before or meanwhile.
            TypeError, ValueError: a bad address, delay or context, before any I/O.

        Cancel safety: nothing is left open or registered, whenever the cancellation arrives; the same holds
        for `abort()` and `aclose()` while it connects.
        """
        target = _tcp_address(address)
        if target.port == 0:
            raise ValueError(f"cannot connect to port 0: {target}")
        local = None if local_address is None else _tcp_address(local_address)
        if local is not None and local.host and local.ip is None:
            raise ValueError(f"local_address must be numeric, not {local}")
        if happy_eyeballs_delay is not None and not 0 <= happy_eyeballs_delay < math.inf:
            raise ValueError(
                f"happy_eyeballs_delay must be a finite number of seconds, 0 or more, or None: "
                f"not {happy_eyeballs_delay!r}"
            )
        wanted_tls = client_tls(tls, server_hostname, name_in_certificate(target.host), accept_truncation)
        options = self._options
        assert isinstance(options, TcpOptions)
        dialing = dial(
            target,
            options=options,
            local_address=local,
            happy_eyeballs_delay=happy_eyeballs_delay,
            resolver=current_scope().resolver,
        )
        await self._connect(dialing, target, wanted_tls)
        return self

    @property
    def unacknowledged(self) -> int:
        """Bytes written that the peer's TCP has not acknowledged yet (SIOCOUTQ, tcp(7)).

        Over TLS these are bytes of the caller, not of ciphertext; where messages of several sizes are under
        way, the count may be off by the overhead of their records. It is 0 only if all are acknowledged.

        Raises `SocketClosedError` after closing, `NotImplementedError` where the system does not tell.
        """
        return self._wire.unacknowledged

    async def wait_acknowledged(self) -> None:
        """Return when the peer's TCP has acknowledged every byte that was written.

        Acknowledged means received by the peer's system, not yet read by its program.

        Raises:
            DeliveryError: the connection was lost first; `unacknowledged` says how many bytes.
            SocketClosedError: this side has closed, or closes meanwhile.
            NotImplementedError: this system does not tell what was acknowledged.

        Cancel safety: nothing changes.
        """
        await self._wire.wait_acknowledged()

    def tcp_info(self) -> TcpInfo:
        """Return what the kernel knows of this connection (TCP_INFO, tcp(7)).

        Raises `SocketClosedError` after closing, `NotImplementedError` where the system does not tell.
        """
        return read_tcp_info(self._wire.raw_socket)


def _tcp_address(address: AddressLike) -> SocketAddress:
    found = as_address(address)
    if not isinstance(found, SocketAddress):
        raise TypeError(f"{found} is a Unix address: AsyncUnixSocket connects there")
    return found
