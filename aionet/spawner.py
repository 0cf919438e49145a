"""`ConnectionSpawner`: one supervised task per connection, in place of one thread per client.

Theory of operation
-------------------
*Ownership.* A spawner accepts from its servers and gives every connection a task of its own, which it holds
on to until the task has ended and the connection is closed. Nothing that it started outlives `serve`.

*Isolation.* An exception in a handler ends that connection and nothing else (`verdict.py`).

*Room*: how many are taken, and what becomes of those for whom there is none, is another object's affair
(`limiting/intake.py`), so that the cap on connections is exact.

*Limits* of a connection's life are a third one's (`limiting/enforcing.py`), which exists only if there are
any.

*Handshakes.* What comes before the handler, a preface, a TLS handshake or one after the other, happens in the
connection's own task, and never where connections are accepted. A server without either pays nothing for it.

*The everyday case.* A connection that nothing limits and nobody follows is begun and ended by the engine's
roster, if it has one (`native/roster.c`). What is not an everyday end comes back here.

*Why it ended.* Every connection ends for one `CloseCause`: the spawner's, if it decided that, else what the
handler's end says. Causes are counted; a whole `CloseReason` is made only if somebody wants it (`on_close`).

*Once.* Every way to the end of a connection leads to `_ended`, which takes it out of the set, and counts it
if it was there. Where something raises on the way, the connection is reset first (`_give_up`).

*Names.* The tasks of all connections have one name, that of their handler (making a number for each is a
fortieth of what a short connection costs); connections have ids.

*Observing.* What connections carry is counted only if somebody asks for it (`count_traffic`). A connection's
task begins in the context of the task that accepted it, or in one of its own, if somebody makes one
(`context`).

*Ending.* `drain` closes the servers, lets handlers finish for the time of grace, cancels those who have not,
and aborts the connections of those who do not react to that either (`draining.py`).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from . import connection_task
from .announcing import Log
from .cleaning_up import see_through
from .close_reason import CloseCause, CloseReason
from .connection import Connection, close_reason_of
from .draining import Drain, DrainReport
from .engine import Roster
from .errors import ConnectionLostError, ResourceExhaustedError, SocketBusyError, SocketClosedError, TlsError
from .limiting.enforcing import LimitEnforcer
from .limiting.intake import Intake
from .limiting.limits import ConnectionLimits
from .no_copies import refuse_to_be_copied
from .signals import Draining
from .spawner_stats import SpawnerStats, TlsCounts, stats_of
from .stream_server import AsyncStreamConnectionServer
from .stream_socket import AsyncStreamSocket
from .tls.server import ServerTls, TlsForServer
from .tls_failure import TlsFailure
from .tls_handshakes import shake_hands
from .traffic import Traffic
from .verdict import cause_of_return, must_reset, shortage_in, verdict_on

__all__ = ["ConnectionSpawner", "ContextOf", "Handler", "OnClose", "OnError"]

_log = Log("aionet.server")

_HARD = 1.0  # seconds that a cancelled handler has before its connection is reset

SocketT = TypeVar("SocketT", bound=AsyncStreamSocket[Any])

Handler = Callable[[SocketT], Awaitable[object]]
"""``async def handler(socket)``; the socket is closed when it returns, and reset when it raises."""

OnError = Callable[[SocketT, Exception], object]
"""``on_error(socket, error)``, called in the connection's task before its socket is closed."""

OnClose = Callable[[Connection[SocketT], CloseReason], object]
"""``on_close(connection, reason)``, called once for every connection, when it is closed."""

_MakeTask = Callable[..., "asyncio.Task[None]"]

ContextOf = Callable[[Connection[SocketT]], contextvars.Context]
"""``context(connection)``, called before its task is made, which then runs in a copy of what is returned."""


class ConnectionSpawner(Generic[SocketT]):
    """Runs `handler(socket)` in a task of its own for every connection of its servers.

    Args:
        handler: a coroutine function; the socket is closed when it returns, and reset when it raises (see
            `ConnectionLimits.on_unfinished`).
        limits: how many at a time, how long, how much.
        on_error: called with the socket and the exception of a crashed handler, not for a peer that left.
        on_close: called with the connection and the `CloseReason` of everyone that ends, those turned away
            included.
        preface: a coroutine function that is given the socket before the handler is, and before TLS, in the
            same task and under `handshake_timeout`; if it raises, the connection is reset.
        context: called with each connection before its task is made; returns the `contextvars.Context` that
            the task is to begin with. By default it is that of the task that serves.
    """

    __reduce__ = refuse_to_be_copied

    def __init__(
        self,
        handler: Handler[SocketT],
        *,
        limits: ConnectionLimits | None = None,
        on_error: OnError[SocketT] | None = None,
        on_close: OnClose[SocketT] | None = None,
        preface: Handler[SocketT] | None = None,
        context: ContextOf[SocketT] | None = None,
    ) -> None:
        for name, function in (("handler", handler), ("preface", preface)):
            if not callable(function) and (name == "handler" or function is not None):
                raise TypeError(f"{name} must be a coroutine function, not {function!r}")
        self._handler = handler
        self._task_name = f"connection of {getattr(handler, '__qualname__', repr(handler))}"
        self._preface = preface
        self._on_error = on_error
        self._on_close = on_close
        self._context = context
        self._limits = limits or ConnectionLimits()
        self._enforcer: LimitEnforcer | None = None
        self._tls_counts = TlsCounts()
        self._look_timer: asyncio.TimerHandle | None = None
        self._connections: set[Connection[SocketT]] = set()
        self._intake = Intake(self._limits, self._connections, self._turn_away, self._count_shed)
        self._servers: list[AsyncStreamConnectionServer[Any, SocketT]] = []
        self._time = time.monotonic  # until it serves: then its loop's
        self._draining_signal = Draining(resets_unfinished=self._limits.on_unfinished == "reset")
        self._drain: Drain | None = None
        self._draining: asyncio.Task[DrainReport] | None = None
        self._drained = False
        """Whether a `serve` has ended by a drain: another one is a mistake."""
        self._emptied = asyncio.Event()
        self._counts = [0] * len(CloseCause)
        self._traffic: Traffic | None = None
        self._direct = preface is None and context is None
        """Whether the connection's coroutine may call the handler itself."""
        self._followed = on_close is not None
        """Whether anybody but the counters wants to know that a connection ends."""
        self._roster: Any = None
        """Begins and ends connections, from `serve` on, if nothing is special about them."""

    async def serve(
        self,
        *servers: AsyncStreamConnectionServer[Any, SocketT],
        on_failure: Callable[[OSError], object] | None = None,
    ) -> None:
        """Accept from `servers` and run the handlers, until `drain`, or until all servers are closed.

        It returns when the last handler has ended. The servers are closed then, however it ends. Where the
        drain comes first, before this has begun, it closes the servers and returns at once.

        Args:
            on_failure: called when a listening socket has become unusable, with the error that is raised when
                all has ended. The servers are closed then, and the handlers continue until they end or
                `drain` ends them, which this function should call. By default they are cancelled at once.

        Raises:
            TypeError: no server was given.
            SocketBusyError: this spawner is already serving, or has served until it was drained.
            OSError: a listening socket has become unusable; it names the address.

        Cancel safety: cancelled, it closes the servers, cancels the handlers and waits for their end.
        """
        if not servers:
            raise TypeError("serve() needs at least one server")
        self._refuse_if_busy()
        if self._drain is not None:  # it came between the call and this step
            self._drained = True
            for server in servers:
                server.close()
            return
        self._begin(servers)
        acceptors = [asyncio.create_task(self._accept_from(server)) for server in servers]
        try:
            failure = await self._until_closed(acceptors, on_failure)
            await self._until_empty()
            await self._intake.stop()
            if failure is not None:
                raise failure
        except GeneratorExit:  # the loop is gone: there is nothing to wait with
            raise
        except BaseException:
            self._close_servers()
            await see_through(self._cancel_all(acceptors))
            raise
        finally:
            self._end()

    async def drain(self, grace: float, *, hard: float = _HARD, spread: float | None = None) -> DrainReport:
        """Close the servers, let handlers finish for `grace` seconds, cancel the rest, and report.

        Handlers see `socket.draining`. Those who have not ended `hard` seconds after being cancelled lose
        their connection (RST); it takes no longer than `grace` and `hard` together, whatever they do, but for
        the time that cancelling and resetting take where there are thousands, which is done in slices. A
        connection whose handler has ended may take three quarters of `hard` to close, then it is closed at
        once (`DrainReport.closing`).
        `spread` distributes the cancellations over the last seconds of the grace; by default the limits say
        (`drain_spread`). A second call, while one is under way, may shorten both; all get the same report.

        Raises `ValueError` for negative seconds. Cancel safety: the drain goes on; only waiting for it ends.
        """
        if spread is None:
            spread = self._limits.drain_spread or 0.0
        for name, seconds in (("grace", grace), ("hard", hard), ("spread", spread)):
            if not seconds >= 0:
                raise ValueError(f"{name} must be 0 or more seconds, not {seconds!r}")
        self._close_servers()
        self._draining_signal.set()
        if self._drain is None or self._draining is None:
            self._drain = Drain(self.connections, grace, hard, spread, note=self._note_reason)
            self._draining = asyncio.create_task(self._drain.run())
            self._draining.add_done_callback(lambda _: self._emptied.set())
        else:
            self._drain.hurry(grace, hard)
        return await asyncio.shield(self._draining)

    @property
    def connections(self) -> tuple[Connection[SocketT], ...]:
        """The connections that are being served now."""
        return tuple(self._connections)

    @property
    def servers(self) -> tuple[AsyncStreamConnectionServer[Any, SocketT], ...]:
        """The servers whose connections are being served."""
        return tuple(self._servers)

    def count_traffic(self) -> None:
        """Let `stats` tell bytes, too, from the connections on that are served now."""
        self._traffic = self._traffic or Traffic()
        self._followed = True
        if self._roster is not None:
            self._roster.followed = True

    @property
    def stats(self) -> SpawnerStats:
        """The counts at this moment. With `count_traffic` it takes time in proportion to the connections."""
        traffic = None if self._traffic is None else self._traffic.total(self._connections)
        return stats_of(self._counts, len(self._connections), traffic, self._tls_counts)

    async def stats_in_slices(self) -> SpawnerStats:
        """Return the counts; bytes are added up in slices, so that many connections do not hold up the loop.

        It yields. Cancel safety: nothing is lost.
        """
        traffic = None if self._traffic is None else await self._traffic.total_in_slices(self._connections)
        return stats_of(self._counts, len(self._connections), traffic, self._tls_counts)

    # Accepting ----------------------------------------------------------------------------------------

    def _refuse_if_busy(self) -> None:
        if self._servers:
            raise SocketBusyError("this spawner is already serving", operation="serve")
        if self._drained:
            raise SocketBusyError("this spawner has been drained", operation="serve")

    def _begin(self, servers: tuple[AsyncStreamConnectionServer[Any, SocketT], ...]) -> None:
        self._servers.extend(servers)
        self._time = asyncio.get_running_loop().time
        limits = self._limits
        shaking = [server for server in servers if self._preface is not None or server._tls is not None]
        handshakes = bool(shaking)
        if LimitEnforcer.needed(limits, handshakes=handshakes):
            self._enforcer = LimitEnforcer(limits, self._note_reason, handshakes=handshakes)
            self._followed = True
        acceptors = [server._acceptor for server in servers]
        self._intake.begin(acceptors, [server._acceptor for server in shaking], self._enforcer)
        if self._intake.handshakes is not None:
            self._followed = True
        if Roster is not None and self._direct and self._enforcer is None and self._intake.pauses:
            self._roster = self._make_roster()
        self._look_at_certificates()

    def _make_roster(self) -> Any:
        roster = Roster(
            connection_class=Connection,
            coroutine=connection_task.connection,
            handler=self._handler,
            task_name=self._task_name,
            draining=self._draining_signal,
            connections=self._connections,
            counts=self._counts,
            causes=(CloseCause.COMPLETED, CloseCause.PEER_ENDED, CloseCause.PEER_LOST),  # in this order
            logged=partial(_log.isEnabledFor, logging.DEBUG),
            ended=self._handler_ended,
            most=self._limits.max_connections or 0,
        )
        roster.followed = self._followed
        return roster

    def _end(self) -> None:
        self._drained = self._drain is not None
        self._close_servers()
        self._servers.clear()
        self._intake.end()
        if self._enforcer is not None:
            self._enforcer.close()
        if self._look_timer is not None:
            self._look_timer.cancel()

    def _look_at_certificates(self) -> None:
        """Have changed files noticed though nobody connects: whoever replaced them looks into the log."""
        watched = {server._tls for server in self._servers if isinstance(server._tls, ServerTls)}
        for tls in watched:
            tls.look()
        if watched:
            loop = asyncio.get_running_loop()
            self._look_timer = loop.call_later(ServerTls.look_every, self._look_at_certificates)

    async def _until_closed(
        self, acceptors: list[asyncio.Task[None]], on_failure: Callable[[OSError], object] | None
    ) -> OSError | None:
        """Return when nothing is accepted any more; with the error, if `on_failure` was called."""
        try:
            await _all_or_first_error(acceptors)
        except OSError as error:
            if on_failure is None:
                raise
            self._close_servers()
            await asyncio.wait(acceptors)
            on_failure(error)
            return error
        return None

    async def _accept_from(self, server: AsyncStreamConnectionServer[Any, SocketT]) -> None:
        loop = asyncio.get_running_loop()
        intake = self._intake
        sockets: list[SocketT] = []
        tls = server._tls
        named, shakes = self._preface is None, self._preface is not None or tls is not None
        try:
            while True:
                sockets = await server._take(intake.room)
                now = loop.time()
                make_task = self._maker_of_direct_tasks(loop) if tls is None else None
                for socket in intake.took(sockets):
                    self._reject(Connection(socket, now), CloseCause.RESET_EARLY)
                if make_task is not None and self._roster is not None and self._drain is None:
                    self._roster.begin(sockets, now, make_task)
                    self._fill_if_full()
                sockets.reverse()
                while sockets:
                    if self._drain is not None:  # begun meanwhile, or by an eager handler of this batch
                        sockets.pop().abort()
                    elif self._enforcer is not None and (
                        refusal := intake.refusal_of(sockets[-1], shakes=shakes, named=named)
                    ):
                        self._turn_away(sockets.pop(), refusal)
                    elif intake.full and not intake.pauses:
                        await intake.find_room(sockets)
                    else:
                        self._spawn(sockets[-1], loop, now, tls, make_task)
                        sockets.pop()  # not before it has a task: else it is aborted below
        except SocketClosedError:
            pass
        finally:
            for socket in sockets:
                socket.abort()

    def _turn_away(self, socket: SocketT, cause: CloseCause) -> None:
        """Reset a connection that was taken, and that no handler has seen, for `cause`, and count it."""
        self._intake.turned_away()
        self._reject(Connection(socket, asyncio.get_running_loop().time()), cause)

    def _reject(self, connection: Connection[SocketT], cause: CloseCause) -> None:
        connection._cause = cause
        self._note_reason(connection, cause)
        connection.socket.abort()
        self._counts[cause.number] += 1
        self._tell_of_end(connection)

    def _count_shed(self) -> None:
        self._counts[CloseCause.FULL.number] += 1

    def _maker_of_direct_tasks(self, loop: asyncio.AbstractEventLoop) -> _MakeTask | None:
        """What makes a task whose coroutine calls the handler itself; ``None`` if none may."""
        if not self._direct or loop.get_task_factory() is not None:
            return None
        # What a stock loop's method comes to without a factory, and a tenth of what a short connection costs.
        stock = getattr(loop.create_task, "__func__", None) is asyncio.BaseEventLoop.create_task
        return partial(asyncio.Task, loop=loop) if stock else loop.create_task

    def _spawn(
        self,
        socket: SocketT,
        loop: asyncio.AbstractEventLoop,
        now: float,
        tls: TlsForServer | None,
        make_task: _MakeTask | None,
    ) -> None:
        connection = Connection(socket, now)
        socket._draining = self._draining_signal
        shakes = tls is not None or self._preface is not None
        if self._enforcer is not None and not self._take_care(self._enforcer, connection, shakes=shakes):
            return
        try:
            self._connections.add(connection)
            self._fill_if_full()
            if make_task is not None:
                coroutine = connection_task.primed(self._handler, socket, self._handler_ended, connection)
                connection._task = make_task(coroutine, name=self._task_name)
            else:
                self._make_task(connection, loop, tls)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            # An eager handler raises in this very step. The interrupt ends the run, as that of any other task
            # does, and not the accepting: `serve` would raise it once more where the loop runs again.
            self._give_up(connection, CloseCause.FAILED)
            loop.call_soon(_raise, interrupt)
        except BaseException:  # a task factory's, or a lack of memory: without a task it would never end
            self._give_up(connection, CloseCause.FAILED)
            raise

    def _fill_if_full(self) -> None:
        if len(self._connections) == self._limits.max_connections:
            self._intake.fill()

    def _make_task(
        self, connection: Connection[SocketT], loop: asyncio.AbstractEventLoop, tls: TlsForServer | None
    ) -> None:
        create_task: Callable[..., Any] = partial(loop.create_task, name=self._task_name)
        if self._context is not None:  # a task copies the context that it is made in, whatever its factory
            create_task = partial(self._context_of(connection, self._context).run, create_task)
        start = self._start if tls is None else partial(self._start, tls=tls)
        task = create_task(connection_task.primed(start, connection, self._handler_ended, connection))
        if connection._task is None:  # an eager task has begun already, and may even have ended
            connection._task = task

    def _context_of(self, connection: Connection[SocketT], make: ContextOf[SocketT]) -> contextvars.Context:
        try:
            return make(connection)
        except Exception:
            _log.exception("context for %s failed", connection.socket.peer_address)
            return contextvars.copy_context()

    def _take_care(self, enforcer: LimitEnforcer, connection: Connection[SocketT], *, shakes: bool) -> bool:
        """Begin to enforce the limits on `connection`, which they admit; false if that fails."""
        named = self._preface is None
        if named:
            enforcer.count(connection)
        try:
            enforcer.begin(connection)
        except ResourceExhaustedError as error:
            self._intake.turned_away()
            self._reject(connection, CloseCause.EXHAUSTED)
            self._intake.shortage.note(error)
            return False
        if shakes:
            connection._phase = "handshake"
            if self._intake.handshakes is not None:
                self._intake.handshakes.begin(connection, named=named)
        return True

    # Serving ------------------------------------------------------------------------------------------

    def _start(
        self, connection: Connection[SocketT], *, tls: TlsForServer | None = None
    ) -> Awaitable[object]:
        """Call the handler, in the task of `connection`, which may be eager and known to nobody yet."""
        if connection._task is None:
            connection._task = task = asyncio.current_task()
            task.set_name(self._task_name)  # type: ignore[union-attr]  # the loop may do so only afterwards
        if self._preface is not None or tls is not None:
            return self._serve_after(self._preface, tls, connection)
        return self._handler(connection.socket)

    async def _serve_after(
        self, preface: Handler[SocketT] | None, tls: TlsForServer | None, connection: Connection[SocketT]
    ) -> None:
        connection._phase = "handshake"
        if preface is not None:
            await preface(connection.socket)
            refusal = self._refusal_of_named(connection)
            if refusal is not None:
                connection._cause = refusal
                connection.socket.abort()
                self._intake.turned_away()
                return
        if tls is not None:
            await self._shake_hands(connection, tls)
        if self._intake.handshakes is not None:
            self._intake.handshakes.end(connection)
        connection._phase = "serving"
        await self._handler(connection.socket)

    def _refusal_of_named(self, connection: Connection[SocketT]) -> CloseCause | None:
        """The preface has ended: return why `connection` does not get in, now that its peer is known."""
        handshakes = self._intake.handshakes
        if handshakes is not None and not handshakes.name(connection):
            return CloseCause.TOO_MANY_HANDSHAKES
        return None if self._enforcer is None else self._enforcer.admit(connection)

    async def _shake_hands(self, connection: Connection[SocketT], tls: TlsForServer) -> None:
        connection._tls_failure = TlsFailure.TIMEOUT  # which it is if a deadline ends it
        try:
            await shake_hands(connection.socket, tls)
        except (TlsError, SocketClosedError, asyncio.CancelledError) as error:
            if connection._cause is not CloseCause.HANDSHAKE_TIMEOUT:
                if isinstance(error, asyncio.CancelledError):
                    raise
                connection._tls_failure = error.failure if isinstance(error, TlsError) else None
            self._tls_counts.failed(connection._tls_failure)
            raise
        self._tls_counts.handshakes += 1
        connection._tls_failure = None

    # Ending -------------------------------------------------------------------------------------------

    def _handler_ended(
        self, connection: Connection[SocketT], error: BaseException | None
    ) -> Coroutine[Any, Any, None] | None:
        """Report `error`, close the connection; return what of that is left to await, if anything is."""
        try:
            closing = self._close(connection, error)
            if closing is not None:
                connection._phase = "closing"  # a drain asks for it
                return self._close_to_end(connection, closing)
        except BaseException:  # a callback's, or an interrupt: the connection ends all the same
            self._give_up(connection, CloseCause.FAILED)
            raise
        self._ended(connection)
        return None

    def _close(
        self, connection: Connection[SocketT], error: BaseException | None
    ) -> Coroutine[Any, Any, None] | None:
        socket, resets = connection.socket, False
        if error is None and connection._cause is None:
            connection._cause = cause_of_return(socket._wire)
        else:
            connection._cause = verdict_on(connection, error, self._on_error)
            if error is not None and (
                socket._wire.lost is None or not isinstance(error, ConnectionLostError)
            ):
                resets = self._ends_in_reset(connection, error)
        if self._followed:
            self._note_reason(connection, connection._cause, error)
            connection._phase = "closing"
        if resets:
            socket.abort()
            return None
        if socket._close_at_once():
            return None
        try:
            return socket._begin_close()
        except OSError as reason:
            _log_bad_close(socket, reason)
            return None

    def _ends_in_reset(self, connection: Connection[SocketT], error: BaseException) -> bool:
        """Whether it does: it is not lost, and its handler ended with `error`."""
        if connection._cause is CloseCause.EXHAUSTED and (shortage := shortage_in(error)) is not None:
            self._intake.shortage.note(shortage)
        if isinstance(error, asyncio.CancelledError):
            error.__traceback__ = None  # the task keeps the error, but not the frames: they may hold it
        return must_reset(connection, error, self._limits.on_unfinished)

    async def _close_to_end(
        self, connection: Connection[SocketT], closing: Coroutine[Any, Any, None]
    ) -> None:
        try:
            await closing
        except OSError as reason:
            _log_bad_close(connection.socket, reason)
        finally:
            self._ended(connection)

    def _give_up(self, connection: Connection[SocketT], cause: CloseCause) -> None:
        """Reset `connection` and strike it off: its task never began, or something failed while it ended."""
        if connection._cause is None:
            connection._cause = cause
        try:
            self._note_reason(connection, connection._cause)
            connection.socket.abort()
        finally:
            self._ended(connection)

    def _note_reason(
        self, connection: Connection[SocketT], cause: CloseCause, error: BaseException | None = None
    ) -> None:
        """Keep what is known only as long as the connection is open. A cut was noted when it was made."""
        if self._on_close is not None and connection._reason is None:
            connection._reason = close_reason_of(connection, cause, error, self._time())

    def _ended(self, connection: Connection[SocketT]) -> None:
        """Strike `connection` off. It is called at least once for each, and counts once."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        self._counts[connection._cause.number] += 1  # type: ignore[union-attr]
        if not self._connections:
            self._emptied.set()
        if self._intake.full:
            self._intake.make_room()
        if self._followed:
            self._tell_of_end(connection)

    def _tell_of_end(self, connection: Connection[SocketT]) -> None:
        if self._enforcer is not None:
            self._enforcer.end(connection)
        if self._intake.handshakes is not None:
            self._intake.handshakes.end(connection)
        if self._traffic is not None:
            self._traffic.add(connection)
        if self._on_close is not None and connection._reason is not None:
            try:
                self._on_close(connection, connection._reason)
            except (Exception, asyncio.CancelledError):  # it was not cancelled: it does not wait
                _log.exception("on_close for %s failed", connection.socket.peer_address)

    async def _until_empty(self) -> None:
        """Return when the last connection has ended, or a drain does not wait for the rest any longer."""
        while self._connections and not (self._drain is not None and self._drain.done):
            self._emptied.clear()
            await self._emptied.wait()

    async def _cancel_all(self, acceptors: list[asyncio.Task[None]]) -> None:
        for acceptor in acceptors:
            acceptor.cancel()
        await asyncio.gather(*acceptors, return_exceptions=True)
        self._draining_signal.set()
        await self._intake.stop()
        await Drain(self.connections, 0.0, _HARD, note=self._note_reason).run()

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._intake.close()


def _raise(error: BaseException) -> None:
    raise error


async def _all_or_first_error(tasks: list[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def _log_bad_close(socket: AsyncStreamSocket[Any], reason: OSError) -> None:
    _log.debug("connection from %s did not close in good order: %s", socket.peer_address, reason)
