"""`ConnectionSpawner`: one supervised task per connection, in place of one thread per client.

Theory of operation
-------------------
*Ownership.* A spawner accepts from its servers and gives every connection a task of its own, which it holds
on to until the task has ended and the connection is closed. Nothing that it started outlives `serve`.

*Isolation.* An exception in a handler ends that connection and nothing else. A handler that crashes is an
ERROR in the log, with the peer; a peer that leaves is a DEBUG line, because servers see that all day long.

*Room.* When `max_connections` are being served the spawner holds all its servers, in the very step that took
the last connection: an acceptor that was already woken finds its server held, so the cap is exact, and the
kernel's queue keeps who comes. The first connection to end releases them.

*Ending.* `drain` closes the servers, lets handlers finish for the time of grace, cancels those who have not,
and aborts the connections of those who do not react to that either (`draining.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .cleaning_up import see_through
from .connection import Connection
from .draining import Drain, DrainReport
from .engine import drive
from .errors import ConnectionLostError, IncompleteReadError, SocketBusyError, SocketClosedError
from .limits import ConnectionLimits
from .stream_server import AsyncStreamConnectionServer
from .stream_socket import AsyncStreamSocket

__all__ = ["ConnectionSpawner", "Handler", "OnError", "SpawnerStats"]

_log = logging.getLogger("aionet.server")

_BATCH = 64  # connections taken at once, at the most; the acceptor has its own idea of what is fair
_HARD = 1.0  # seconds that a cancelled handler has before its connection is reset

SocketT = TypeVar("SocketT", bound=AsyncStreamSocket[Any])

Handler = Callable[[SocketT], Awaitable[object]]
"""``async def handler(socket)``; the socket is closed when it returns."""

OnError = Callable[[SocketT, Exception], object]
"""``on_error(socket, error)``, called in the connection's task before its socket is closed."""

_PEER_LEFT = (ConnectionLostError, SocketClosedError, IncompleteReadError)


@dataclass(frozen=True, slots=True)
class SpawnerStats:
    """Counts since the spawner was made. ``accepted`` is the sum of all the others."""

    accepted: int
    active: int
    """Being served now."""
    completed: int
    """Handlers that returned."""
    failed: int
    """Handlers that raised."""
    disconnected: int
    """Handlers that ended because their peer had gone, or their socket was closed under them."""
    cancelled: int
    """Handlers that were cancelled."""


class ConnectionSpawner(Generic[SocketT]):
    """Runs `handler(socket)` in a task of its own for every connection of its servers.

    Args:
        handler: a coroutine function; the socket is closed when it returns or raises.
        limits: how many at a time.
        on_error: called with the socket and the exception of a crashed handler, not for a peer that left.
    """

    def __init__(
        self,
        handler: Handler[SocketT],
        *,
        limits: ConnectionLimits | None = None,
        on_error: OnError[SocketT] | None = None,
    ) -> None:
        if not callable(handler):
            raise TypeError(f"handler must be a coroutine function, not {handler!r}")
        self._handler = handler
        self._on_error = on_error
        self._limits = limits or ConnectionLimits()
        self._connections: set[Connection[SocketT]] = set()
        self._servers: list[AsyncStreamConnectionServer[Any, SocketT]] = []
        self._full = False
        self._drain: Drain | None = None
        self._draining: asyncio.Task[DrainReport] | None = None
        self._emptied = asyncio.Event()
        self._outcomes = dict.fromkeys(("completed", "failed", "disconnected", "cancelled"), 0)

    async def serve(self, *servers: AsyncStreamConnectionServer[Any, SocketT]) -> None:
        """Accept from `servers` and run the handlers, until `drain`, or until all servers are closed.

        It returns when the last handler has ended. The servers are closed then, however it ends.

        Raises:
            TypeError: no server was given.
            SocketBusyError: this spawner is already serving, or has been drained.
            OSError: a listening socket has become unusable; the handlers were cancelled.

        Cancel safety: cancelled, it closes the servers, cancels the handlers and waits for their end.
        """
        if not servers:
            raise TypeError("serve() needs at least one server")
        self._begin(servers)
        acceptors = [asyncio.create_task(self._accept_from(server)) for server in servers]
        try:
            await _all_or_first_error(acceptors)
            await self._until_empty()
        except GeneratorExit:  # the loop is gone: there is nothing to wait with
            raise
        except BaseException:
            self._close_servers()
            await see_through(self._cancel_all(acceptors))
            raise
        finally:
            self._close_servers()
            self._servers.clear()

    async def drain(self, grace: float, *, hard: float = _HARD) -> DrainReport:
        """Close the servers, let handlers finish for `grace` seconds, cancel the rest, and report.

        Those who have not ended `hard` seconds after being cancelled lose their connection (RST). A second
        call, while one is under way, may shorten the grace; both get the same report.

        Raises `ValueError` for negative seconds. Cancel safety: the drain goes on; only waiting for it ends.
        """
        for name, seconds in (("grace", grace), ("hard", hard)):
            if not seconds >= 0:
                raise ValueError(f"{name} must be 0 or more seconds, not {seconds!r}")
        self._close_servers()
        if self._drain is None or self._draining is None:
            self._drain = Drain(self.connections, grace, hard)
            self._draining = asyncio.create_task(self._drain.run())
            self._draining.add_done_callback(lambda _: self._emptied.set())
        else:
            self._drain.hurry(grace)
        return await asyncio.shield(self._draining)

    @property
    def connections(self) -> tuple[Connection[SocketT], ...]:
        """The connections that are being served now."""
        return tuple(self._connections)

    @property
    def stats(self) -> SpawnerStats:
        """The counts at this moment."""
        active = len(self._connections)
        return SpawnerStats(accepted=sum(self._outcomes.values(), active), active=active, **self._outcomes)

    # Accepting ----------------------------------------------------------------------------------------

    def _begin(self, servers: tuple[AsyncStreamConnectionServer[Any, SocketT], ...]) -> None:
        if self._servers:
            raise SocketBusyError("this spawner is already serving", operation="serve")
        if self._drain is not None:
            raise SocketBusyError("this spawner has been drained", operation="serve")
        self._servers.extend(servers)

    async def _accept_from(self, server: AsyncStreamConnectionServer[Any, SocketT]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                sockets = server._take(self._room()) or [await server.accept()]
                now = loop.time()
                for socket in sockets:
                    if self._drain is None:
                        self._spawn(socket, loop, now)
                    else:  # begun by the handler of one before it: eager tasks run at once
                        socket.abort()
        except SocketClosedError:
            pass

    def _room(self) -> int:
        """How many connections may be taken now."""
        most = self._limits.max_connections
        return _BATCH if most is None else max(most - len(self._connections), 1)

    def _spawn(self, socket: SocketT, loop: asyncio.AbstractEventLoop, now: float) -> None:
        connection = Connection(socket, now)
        connections = self._connections
        connections.add(connection)
        if len(connections) == self._limits.max_connections:
            self._fill()
        if drive is None:
            task = loop.create_task(self._run(connection))
        elif loop.get_task_factory() is None:  # the same in C: the task is parked while it waits for sockets
            connection._task = loop.create_task(drive(self._handler, socket, self._handler_ended, connection))
            return
        else:
            task = loop.create_task(drive(self._start, connection, self._handler_ended, connection))
        if connection._task is None:  # an eager task has begun already, and may even have ended
            connection._task = task
            if drive is None:
                task.add_done_callback(self._never_began)

    def _fill(self) -> None:
        self._full = True
        for server in self._servers:
            server._acceptor.hold(self)

    def _start(self, connection: Connection[SocketT]) -> Awaitable[object]:
        """Call the handler, in the task of `connection`, which may be eager and known to nobody yet."""
        if connection._task is None:
            connection._task = asyncio.current_task()
        return self._handler(connection.socket)

    async def _run(self, connection: Connection[SocketT]) -> None:
        """Serve one connection: the body of its task."""
        if connection._task is None:
            connection._task = asyncio.current_task()
        else:  # from now on this code sees to the end of the connection
            connection._task.remove_done_callback(self._never_began)
        try:
            await self._handler(connection.socket)
        except Exception as error:
            closing = self._handler_ended(connection, error)
        except BaseException as error:
            closing = self._handler_ended(connection, error)
            if closing is not None:
                await closing
            raise
        else:
            closing = self._handler_ended(connection, None)
        if closing is not None:
            await closing

    def _never_began(self, task: asyncio.Task[None]) -> None:
        """`task` was cancelled before its first step, so that none of its code ran."""
        for connection in self.connections:
            if connection.task is task:
                connection.socket.abort()
                self._ended(connection, "cancelled")

    def _handler_ended(
        self, connection: Connection[SocketT], error: BaseException | None
    ) -> Coroutine[Any, Any, None] | None:
        """Report `error`, close the connection; return what of that is left to await, if anything is."""
        socket = connection.socket
        outcome = "completed" if error is None else self._judge(socket, error)
        if socket._close_at_once():
            self._ended(connection, outcome)
            return None
        try:
            closing = socket._begin_close()
        except OSError as reason:
            _log_bad_close(socket, reason)
            closing = None
        if closing is not None:
            return self._close_to_end(connection, closing, outcome)
        self._ended(connection, outcome)
        return None

    async def _close_to_end(
        self, connection: Connection[SocketT], closing: Coroutine[Any, Any, None], outcome: str
    ) -> None:
        try:
            await closing
        except OSError as reason:
            _log_bad_close(connection.socket, reason)
        finally:
            self._ended(connection, outcome)

    def _judge(self, socket: SocketT, error: BaseException) -> str:
        """Report what a handler raised; return what it counts as."""
        if _peer_left(error, socket):
            if _log.isEnabledFor(logging.DEBUG):  # making its address takes longer than asking
                _log.debug("connection from %s ended: %s", socket.peer_address, error)
            return "disconnected"
        if not isinstance(error, Exception):
            if isinstance(error, asyncio.CancelledError):
                return "cancelled"
            socket.abort()  # KeyboardInterrupt, SystemExit: the loop is going down
            return "failed"
        _log.error("handler for %s failed", socket.peer_address, exc_info=error)
        if self._on_error is not None:
            try:
                self._on_error(socket, error)
            except Exception:
                _log.exception("on_error for %s failed", socket.peer_address)
        return "failed"

    def _ended(self, connection: Connection[SocketT], outcome: str) -> None:
        self._connections.remove(connection)
        self._outcomes[outcome] += 1
        if not self._connections:
            self._emptied.set()
        if self._full:
            self._full = False
            for server in self._servers:
                server._acceptor.release(self)

    async def _until_empty(self) -> None:
        """Return when the last connection has ended, or a drain does not wait for the rest any longer."""
        while self._connections and not (self._drain is not None and self._drain.done):
            self._emptied.clear()
            await self._emptied.wait()

    async def _cancel_all(self, acceptors: list[asyncio.Task[None]]) -> None:
        for acceptor in acceptors:
            acceptor.cancel()
        await asyncio.gather(*acceptors, return_exceptions=True)
        await Drain(self.connections, 0.0, _HARD).run()

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()


async def _all_or_first_error(tasks: list[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def _log_bad_close(socket: AsyncStreamSocket[Any], reason: OSError) -> None:
    _log.debug("connection from %s did not close in good order: %s", socket.peer_address, reason)


def _peer_left(error: BaseException, socket: AsyncStreamSocket[Any]) -> bool:
    """Whether `error` says that this very connection ended, and not another one that the handler uses."""
    if isinstance(error, _PEER_LEFT):
        return error._ends is socket._wire
    # A handler with a task group: all of it has to say so.
    return isinstance(error, ExceptionGroup) and all(
        _peer_left(member, socket) for member in error.exceptions
    )
