"""What names resolve to, as a test says; a short talk that shows both ends of a connection."""

from __future__ import annotations

import asyncio
import contextlib

from aionet import SocketAddress
from aionet.scope import Scope, set_scope

__all__ = ["resolving", "talk"]


@contextlib.contextmanager
def resolving(*addresses, error=None):
    """Have this loop's names resolve to `addresses`; yield the list of the names that were asked for."""
    asked = []

    async def resolver(host, port):
        asked.append((host, port))
        if error is not None:
            raise error
        return [SocketAddress(*address) for address in addresses]

    loop = asyncio.get_running_loop()
    previous = set_scope(loop, Scope(resolver=resolver))
    try:
        yield asked
    finally:
        set_scope(loop, previous)


async def talk(sock, listener):
    """Send a little over `sock`, which is connected to `listener`; then abort it."""
    with await listener.accept() as peer:
        await sock.write(b"hello")
        assert await peer.receive_exactly(5) == b"hello"
        assert sock.peer_address == SocketAddress.from_sockaddr(peer.sock.getsockname())
        assert sock.local_address == SocketAddress.from_sockaddr(peer.sock.getpeername())
        sock.abort()
