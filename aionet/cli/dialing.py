"""Connecting to whatever kind of address was given."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

from ..addresses import UnixAddress
from ..errors import ConnectError
from ..stream_socket import AsyncStreamSocket
from ..tcp_socket import AsyncTcpSocket
from ..unix_socket import AsyncUnixSocket
from .arguments import Address
from .tls_options import ClientTls

__all__ = ["dial"]


async def dial(
    address: Address, timeout: float | None, tls: ClientTls | None = None, first: bytes = b""
) -> AsyncStreamSocket[Any]:
    """Return a socket connected to `address`, with `tls`, if that is given, begun after sending `first`.

    Raises `ResolveError`, `TlsError`, `ConnectionLostError`, or `ConnectError`, also where `timeout` seconds
    have passed. Cancel safety: nothing is left open.
    """
    try:
        async with asyncio.timeout(timeout):
            if isinstance(address, UnixAddress):
                return await _begun(await AsyncUnixSocket().connect_to(address), address, tls, first)
            return await _begun(await AsyncTcpSocket().connect_to(address), address, tls, first)
    except TimeoutError as error:
        raise ConnectError(
            errno.ETIMEDOUT, f"no answer within {timeout:g} s", operation="connect", peer_address=address
        ) from error


async def _begun(
    socket: AsyncStreamSocket[Any], address: Address, tls: ClientTls | None, first: bytes
) -> AsyncStreamSocket[Any]:
    try:
        if first:
            await socket.write(first)
        if tls is not None:
            await socket.start_tls(tls.context, server_hostname=tls.name_for(address))
    except BaseException:
        socket.abort()
        raise
    return socket
