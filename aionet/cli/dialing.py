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

__all__ = ["dial"]


async def dial(address: Address, timeout: float | None) -> AsyncStreamSocket[Any]:
    """Return a socket connected to `address`.

    Raises `ResolveError`, or `ConnectError`, also where `timeout` seconds have passed.
    Cancel safety: nothing is left open.
    """
    try:
        async with asyncio.timeout(timeout):
            if isinstance(address, UnixAddress):
                return await AsyncUnixSocket().connect_to(address)
            return await AsyncTcpSocket().connect_to(address)
    except TimeoutError as error:
        raise ConnectError(
            errno.ETIMEDOUT, f"no answer within {timeout:g} s", operation="connect", peer_address=address
        ) from error
