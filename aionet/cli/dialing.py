"""Connecting to whatever kind of address was given."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ..addresses import UnixAddress
from ..errors import ConnectError
from ..options import TcpOptions
from ..stream_socket import AsyncStreamSocket
from ..tcp_socket import AsyncTcpSocket
from ..unix_socket import AsyncUnixSocket
from .arguments import Address
from .tls_options import ClientTlsOptions

__all__ = ["begin_tls", "dial"]


async def dial(
    address: Address,
    timeout: float | None,
    tls: ClientTlsOptions | None = None,
    options: TcpOptions | None = None,
) -> AsyncStreamSocket[Any]:
    """Return a socket connected to `address`, with `tls`, if that is given, begun.

    `options` are set if it is a TCP socket.

    Raises `ResolveError`, `TlsError`, or `ConnectError`, also where `timeout` seconds have passed.
    Cancel safety: nothing is left open.
    """
    async with _within(timeout, address):
        socket: AsyncStreamSocket[Any]
        if isinstance(address, UnixAddress):
            socket = await AsyncUnixSocket().connect_to(address)
        else:
            socket = await AsyncTcpSocket(options=options).connect_to(address)
        if tls is not None:
            await begin_tls(socket, address, None, tls)
        return socket


async def begin_tls(
    socket: AsyncStreamSocket[Any], address: Address, timeout: float | None, tls: ClientTlsOptions
) -> None:
    """Begin TLS on `socket`, which is connected to `address`.

    Raises `TlsError`, `ConnectionLostError`, or `ConnectError` where `timeout` seconds have passed; then the
    socket is closed. Cancel safety: it is aborted.
    """
    try:
        async with _within(timeout, address):
            await socket.start_tls(
                tls.context,
                server_hostname=tls.name_for(address),
                accept_truncation=tls.accept_truncation,
            )
    except BaseException:
        socket.abort()
        raise


@asynccontextmanager
async def _within(seconds: float | None, address: Address) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise ConnectError(
            errno.ETIMEDOUT, f"no answer within {seconds:g} s", operation="connect", peer_address=address
        ) from error
