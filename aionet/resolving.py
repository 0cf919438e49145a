"""From host names to addresses.

Theory of operation
-------------------
`getaddrinfo` blocks, so it runs in threads. Not in the event loop's default executor: a handful of slow
look-ups would fill it and hold up everybody else who uses it, and the other way round. The threads here are
shared by the process, made as they are needed and kept for the next look-up.

A `Resolver` of the caller's (a cache, DNS over HTTPS, a service registry) takes the place of all that. It is
asked for names only: numeric addresses never leave this module's fast path.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from .addresses import SocketAddress
from .errors import ResolveError

__all__ = ["Resolver", "resolve"]

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[SocketAddress]]]
"""``await resolver(host, port)`` returns numeric addresses, the preferred one first; raises `OSError`."""

_THREADS = 32


async def resolve(address: SocketAddress, resolver: Resolver | None = None) -> list[SocketAddress]:
    """Return the numeric addresses behind `address`, the preferred one first.

    Raises:
        ResolveError: the name has no address; the resolver's exception is the cause.

    Cancel safety: nothing is lost; a look-up that is under way in a thread ends there unheard.
    Yields only where a name has to be looked up.
    """
    if address.ip is not None:
        return [address]
    try:
        found = list(await (resolver or _getaddrinfo)(address.host, address.port))
    except OSError as error:
        raise ResolveError(
            error.errno, f"cannot resolve {address.host!r}: {error.strerror or error}", operation="resolve"
        ) from error
    for item in found:
        if not isinstance(item, SocketAddress) or item.ip is None:
            raise TypeError(f"a resolver returns numeric SocketAddress objects, not {item!r}")
    if not found:
        raise ResolveError(socket.EAI_NONAME, f"{address.host!r} has no address", operation="resolve")
    return found


async def _getaddrinfo(host: str, port: int) -> list[SocketAddress]:
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(_executor(), look_up)
    except UnicodeError as error:  # a label that IDNA cannot encode
        raise OSError(socket.EAI_NONAME, str(error)) from error
    addresses = (SocketAddress.from_sockaddr(sockaddr) for *_, sockaddr in found)
    return list(dict.fromkeys(addresses))  # the same address may come once per protocol


@functools.cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="aionet-resolver")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_executor.cache_clear)  # threads do not survive a fork
