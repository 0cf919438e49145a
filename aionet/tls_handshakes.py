"""Handshakes of a server: one, and those of all who come while tasks wait to accept.

Theory of operation
-------------------
*`shake_hands`* is what every connection of a server with TLS begins with. Bytes that are in the socket's
buffer already, behind a PROXY header, belong to the handshake.

*`TlsAcceptor`* gives sockets whose handshake is done to those who call `accept` themselves; a spawner's
connections do it in their own tasks. A client that says nothing must not hold up the next one. So while
anybody waits, connections are taken and each does its handshake in a task of its own; who is done first is
given out first. Nothing is taken while nobody waits, as with other servers, and only so many at a time;
beyond that the oldest handshake of the peer with the most gives way (`handshake_places.py`).

A handshake that fails is a line in the log, at INFO: strangers cause it all day long. Its connection is
closed in good order, because a reset would destroy the alert that tells the client why.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any

from .announcing import Log
from .cleaning_up import see_through
from .errors import TlsError
from .handshake_places import MIN_AGE, HandshakePlaces
from .peers import peer_of
from .stream_socket import AsyncStreamSocket
from .tls.laying import make_tls
from .tls.server import TlsForServer

__all__ = ["TlsAcceptor", "shake_hands"]

_log = Log("aionet.server")

_MOST = 1000  # handshakes in progress
_SECONDS = 10.0  # for each of them


async def shake_hands(socket: AsyncStreamSocket[Any], tls: TlsForServer) -> None:
    """Do the handshake of a server on `socket`.

    Raises:
        TlsError: it failed; close the connection.
        SocketClosedError: this side has closed, or closes meanwhile.

    Cancel safety: close the connection.
    """
    received, socket._received = socket._received, None
    initial = received.take(len(received)) if received else b""
    patience = socket._options.close_notify_wait
    wire = make_tls(socket._wire, tls, server_side=True, patience=patience, initial=initial)
    socket._wire = wire
    await wire.shake_hands()


class TlsAcceptor:
    """Gives out connections of a server, after their handshakes, first come first served.

    `accept_next()` waits for the next connection and returns its socket, and loses none if it is cancelled.
    """

    def __init__(self, accept_next: Callable[[], Awaitable[Any]], tls: TlsForServer) -> None:
        self._accept_next: Callable[[], Awaitable[Any]] | None = accept_next  # none once closed
        self._tls = tls
        self._ready: deque[AsyncStreamSocket[Any]] = deque()
        self._waiters: OrderedDict[asyncio.Future[Any], None] = OrderedDict()
        self._handshakes: dict[asyncio.Task[None], AsyncStreamSocket[Any]] = {}
        self._places: HandshakePlaces[asyncio.Task[None]] = HandshakePlaces(_MOST, _MOST, MIN_AGE)
        self._taking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # while a place will be free by the passing of time

    async def accept(self) -> Any:
        """Return the next socket. Raises what `accept_next` raises. Cancel safety: none is lost."""
        if self._ready and not self._waiters:
            return self._ready.popleft()
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        self._take_on()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._ready.appendleft(waiter.result())
                if self._accept_next is None:  # closed, after it was given out
                    self._reset_ready()
                self._give_out()
            raise
        finally:
            self._waiters.pop(waiter, None)
            if not self._waiters and self._taking is not None:
                self._taking.cancel()
            del waiter  # an error that it holds has a traceback, and so this frame

    def close(self, make_error: Callable[[], Exception]) -> None:
        """End the handshakes, and reset what has not been given out; waiting calls raise `make_error()`.

        `accept` is not called any more.
        """
        self._accept_next = None  # which may hold what holds this
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiter in self._waiters:
            if not waiter.done():
                try:
                    waiter.set_exception(make_error())
                except RuntimeError:  # the loop is closed: nothing of it will run
                    waiter.exception()
        for task in self._tasks():
            try:
                task.cancel()
            except RuntimeError:  # the loop is closed: nothing of it will run
                pass
        self._reset_ready()

    def _reset_ready(self) -> None:
        while self._ready:
            self._ready.popleft().abort()

    async def wait_closed(self) -> None:
        """Return when what `close` cancelled has ended. Cancel safety: it goes on."""
        tasks = self._tasks()
        if tasks:
            await see_through(_all_ended(tasks))

    def _tasks(self) -> list[asyncio.Task[None]]:
        taking = [] if self._taking is None else [self._taking]
        return [*taking, *self._handshakes]

    # Taking -------------------------------------------------------------------------------------------

    def _take_on(self) -> None:
        """Take connections while there is anybody who waits for them."""
        accept_next = self._accept_next
        if accept_next is None or self._taking is not None:
            return
        if self._waiters and self._has_place():
            self._taking = asyncio.get_running_loop().create_task(self._take(accept_next))
            self._taking.add_done_callback(self._taken)

    async def _take(self, accept_next: Callable[[], Awaitable[Any]]) -> None:
        while self._has_place():
            self._begin(await accept_next())

    def _has_place(self) -> bool:
        """Whether one more may begin; if only the passing of time makes a place, look again then."""
        loop = asyncio.get_running_loop()
        seconds = self._places.seconds_to_next(loop.time())
        if seconds and self._timer is None:
            self._timer = loop.call_later(seconds, self._on_time)
        return not seconds

    def _on_time(self) -> None:
        self._timer = None
        self._take_on()

    def _taken(self, task: asyncio.Task[None]) -> None:
        self._taking = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._take_on()
            return
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def _begin(self, socket: AsyncStreamSocket[Any]) -> None:
        loop = asyncio.get_running_loop()
        evicted = self._places.gives_way()
        if evicted is not None:
            self._places.end(evicted)
            _log.info("handshake with %s cut: evicted", self._handshakes[evicted].peer_address)
            evicted.cancel()
        task = loop.create_task(self._shake(socket))
        self._handshakes[task] = socket
        peer = peer_of(socket.peer_address)
        self._places.begin(task, task if peer is None else peer, loop.time())
        task.add_done_callback(self._shaken)

    def _shaken(self, task: asyncio.Task[None]) -> None:
        socket = self._handshakes.pop(task)
        self._places.end(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("handshake with %s crashed", socket.peer_address, exc_info=error)
        if task.cancelled() or error is not None:  # perhaps before its first step
            socket.abort()
        self._take_on()

    async def _shake(self, socket: AsyncStreamSocket[Any]) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                await shake_hands(socket, self._tls)
        except OSError as error:  # among them TimeoutError
            what = str(error) or f"it took more than {_SECONDS:g} s"  # not `error`, which holds this frame
            kind = error.failure if isinstance(error, TlsError) else type(error)
            _log.info("handshake with %s failed: %s", socket.peer_address, what, kind=kind)
            await socket.aclose()
        else:
            self._ready.append(socket)
            self._give_out()

    def _give_out(self) -> None:
        while self._ready and self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(self._ready.popleft())


async def _all_ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)
