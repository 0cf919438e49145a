"""Noticing that a client has left while nothing is read from it.

Theory of operation
-------------------
A relay does not read from its client while it connects to the target. A client that resets its connection
then has left; one that has only ended its side may wait for a reply, as ``nc -N`` does, and over TCP a closed
socket looks the same. poll(2) tells the two apart without a read: POLLERR and POLLHUP are reported of a
connection that was reset, and of a Unix socket whose peer is closed, but not of one whose peer has ended its
side.

All clients of that kind are looked at by one call, a few times a second, while there are any: connecting
mostly takes less than the time between two looks, and then it costs two entries in a table."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ..stream_socket import AsyncStreamSocket

__all__ = ["ClientLeft", "Departures"]

_LOOK = 0.1  # seconds between two looks

T = TypeVar("T")


class ClientLeft(Exception):  # noqa: N818 - an event, not a fault
    """The client has left."""


class Departures:
    """Looks after clients that are not read from."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._scopes: dict[int, asyncio.Timeout] = {}  # by the client's descriptor
        self._timer: asyncio.TimerHandle | None = None

    async def while_here(self, client: AsyncStreamSocket[Any], work: Callable[[], Awaitable[T]]) -> T:
        """Return what `work()` returns, unless `client` leaves first: then that is cancelled.

        Raises `ClientLeft`, and what `work` raises. Cancel safety: that of `work`.
        """
        fd = client.fileno()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._watch(fd, scope)
                try:
                    return await work()
                finally:
                    self._forget(fd, scope)
        except TimeoutError:
            if not scope.expired():
                raise
            raise ClientLeft from None

    def _watch(self, fd: int, scope: asyncio.Timeout) -> None:
        self._scopes[fd] = scope
        self._poll.register(fd, 0)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _forget(self, fd: int, scope: asyncio.Timeout) -> None:
        if self._scopes.get(fd) is scope:  # else it was closed meanwhile, and the number is another client's
            del self._scopes[fd]
            self._poll.unregister(fd)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK, self._look) if self._scopes else None
        for fd, _ in self._poll.poll(0):
            scope = self._scopes[fd]
            self._forget(fd, scope)
            scope.reschedule(loop.time())
