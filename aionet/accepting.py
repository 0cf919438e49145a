"""Accepting connections from one or several listening sockets, for any number of waiting tasks.

Theory of operation
-------------------
Nothing is taken from the kernel's queue before a task asks for it, and it is the asking task that takes it,
in its own step. So a cancelled `accept` cannot lose a connection, a held acceptor has none that nobody
serves, and a cap on connections is exact.

*Batches* follow from that: a task that loops over `accept` goes on without a turn of the loop for as long as
connections are ready, until the loop's budget for operations that complete at once is used up
(`wires/fairness.py`). An accept takes more of it than a read: each makes work for tasks that should have
their turn before the next batch.

*Several acceptors* are served first in, first out. When connections arrive the first waiter is woken; it
stays at the head until its step has run, and then wakes the next one if more may be ready. A woken waiter
that is cancelled passes the word on.

*Failures* follow `accept_errors.py`. While resources are exhausted nothing is tried; a timer, or the next
descriptor that this process closes, ends the pause. A spawner may know something better than waiting
(`on_exhausted`). A listening socket that cannot be registered with the reactor is such a failure, too: it is
looked at after each pause, and registered when that succeeds. accept(2) looks for a descriptor before it
looks for a connection, so a shortage with an empty queue is none. Connections of the operator may take a
descriptor of the reserve (`open_files.py`). A fatal failure names the operation and the address. On a Unix
socket that was shut down accept(2) only says that no connection is there; so poll(2) is asked after an event
that brought none.

*Further listening sockets* may be added and removed while tasks wait (`add`). One of them that fails is
dropped, and costs neither the others nor the waiting tasks anything.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from .accept_errors import AcceptFailure, Backoff, classify, is_shortage
from .addresses import SocketAddress, UnixAddress
from .announcing import Log
from .engine import accept
from .errors import SocketClosedError, SocketInheritedError
from .open_files import reserved
from .wires import descriptors
from .wires.budget import BUDGET
from .wires.event_loop import EventLoopState, running_state
from .wires.forks import forks

__all__ = ["Acceptor", "Listener", "room_for_one"]

_log = Log("aionet.server")

_COST = 2  # each makes work for others, who should have their turn before there are too many


def room_for_one() -> int:
    """Who accepts takes a single connection."""
    return 1


def _accept_in_any_case(*arguments: Any) -> tuple[list[Any], bool]:
    """Accept as `accept` does, also where other connections have used up all descriptors but the reserve."""
    try:
        return accept(*arguments)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    with reserved():
        return accept(*arguments)


def _reset(sockets: list[Any]) -> None:
    """They cannot be returned, and the error that is raised holds them: their peers would wait."""
    for sock in sockets:
        sock.abort()


class Listener:
    """One listening socket, and whether connections may be ready on it."""

    __slots__ = ("_is_unix", "_on_ready", "doubtful", "on_failure", "ready", "sock", "watched")

    def __init__(
        self,
        sock: socket.socket,
        on_ready: Callable[[], None],
        on_failure: Callable[[OSError], object] | None = None,
    ) -> None:
        """`on_failure` is called with a fatal error of a socket that is dispensable, which is removed."""
        self.sock = sock
        self.ready = True
        self.watched = self.doubtful = False
        self._is_unix = sock.family == socket.AF_UNIX
        self.on_failure = on_failure
        self._on_ready = on_ready

    def refuse_if_shut_down(self) -> None:
        """Raise `OSError` if this Unix socket was shut down; to be called if an event brought nothing."""
        self.doubtful = False
        poll = select.poll()
        poll.register(self.sock, getattr(select, "POLLRDHUP", 0))
        if poll.poll(0):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    @property
    def is_empty(self) -> bool:
        """Whether no connection waits."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def on_events(self, events: int) -> None:
        """The reactor's word, whatever the event: accept(2) will tell."""
        self.ready = True
        self.doubtful = self._is_unix
        self._on_ready()


class Acceptor:
    """The listening sockets of one server, and the tasks that wait for connections.

    It belongs to the event loop of the first `accept`.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        address: SocketAddress | UnixAddress,
        local: SocketAddress | UnixAddress | None,
        *for_sockets: Any,
    ) -> None:
        """`sockets` are listening and non-blocking; `address` is for errors and the log.

        `local` is the local end that every connection will have, if that is known beforehand; `for_sockets`
        is what a connection's socket is made with: its class, its options, its ledger.
        """
        self._listeners = deque(Listener(sock, self._wake_next) for sock in sockets)
        self._address = address
        self._local = local
        self._for_sockets = for_sockets
        self._state: EventLoopState | None = None
        self._forks = forks()
        self._waiters: OrderedDict[object, asyncio.Future[None]] = OrderedDict()
        self._serves_operator = False
        self._backoff = Backoff()
        self._retry: asyncio.TimerHandle | None = None
        self._watches = False  # whether every event is reported from now on
        self._holders: set[object] = set()
        self.on_exhausted: Callable[[socket.socket, OSError], bool] | None = None
        """Asked, with a listening socket and its error, when resources are exhausted: whether to try again
        at once."""
        self.cost = _COST
        """What a connection takes of the loop's budget of 64, that is, how many there are to a turn."""
        self.closed = False

    async def take(self, room: Callable[[], int] = room_for_one) -> list[Any]:
        """Return the sockets of the next connections, one or up to `room()`, after those who wait already.

        Raises `SocketClosedError` once closed, `SocketInheritedError` in a fork's child, and `OSError` where
        the listener has become unusable.
        Cancel safety: no connection is lost.
        """
        state = self._state or self._bind_loop()
        if state.inherited:
            raise self.refusal("accept")
        at_once = state.budget >= self.cost and not self._waiters
        if at_once and (accepted := self._accept_batch(state, room())):
            return accepted
        return await self._wait(state, room)

    def use_reserve(self) -> None:
        """Accept also where clients have used up all descriptors: these are connections of the operator."""
        self._serves_operator = True

    def hold(self, holder: object) -> None:
        """Leave new connections in the kernel's queue until this and every other `holder` releases."""
        self._holders.add(holder)

    def release(self, holder: object) -> None:
        """Take connections again, as far as `holder` is concerned."""
        if holder in self._holders:
            self._holders.remove(holder)
            if not self._holders and not self.closed:
                self._look_again()

    @property
    def held(self) -> bool:
        """Whether anybody holds it."""
        return bool(self._holders)

    def add(self, sock: socket.socket, on_failure: Callable[[OSError], object]) -> None:
        """Accept from `sock`, which is listening and non-blocking, too, until it is removed or this closes.

        If it becomes unusable it is removed, and `on_failure` is called with the error. Does nothing once
        closed.
        """
        if not self.closed:
            self._listeners.append(Listener(sock, self._wake_next, on_failure))
            self._watches = False
            self._wake_next()

    def remove(self, sock: socket.socket) -> None:
        """Accept from `sock`, which was added, no longer; it stays open and is the caller's again."""
        for listener in [listener for listener in self._listeners if listener.sock is sock]:
            self._forget(listener)
            self._listeners.remove(listener)

    def _forget(self, listener: Listener) -> None:
        if self._state is not None and listener.watched:
            self._state.reactor.forget(listener.sock.fileno(), listener)

    def close(self) -> None:
        """Close the listening sockets; whoever waits gets `SocketClosedError`."""
        if self.closed:
            return
        self.closed = True
        self._end_pause()
        for listener in self._listeners:
            self._forget(listener)
            listener.sock.close()
        self._listeners.clear()  # each holds this
        for waiter in self._waiters.values():
            if not waiter.done():
                try:
                    waiter.set_result(None)
                except (RuntimeError, AttributeError):  # the loop is closed, or half collected: nobody waits
                    pass

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork's child, and the parent listens (`wires/forks.py`)."""
        return self._forks != forks()

    def refuse_if_inherited(self, operation: str) -> None:
        """Raise `SocketInheritedError` in a fork's child, or what comes before that."""
        if self.inherited:
            raise self.refusal(operation)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; none once closed."""
        return tuple(listener.sock for listener in self._listeners)

    # Taking -------------------------------------------------------------------------------------------

    def _accept_batch(self, state: EventLoopState, room: int) -> list[Any]:
        accepted = self._accept_now(state, min(room, max(state.budget // self.cost, 1)))
        try:
            state.budget -= self.cost * len(accepted)
        except BaseException:
            _reset(accepted)
            raise
        return accepted

    def _accept_now(self, state: EventLoopState, limit: int) -> list[Any]:
        if self.closed or state.inherited:
            raise self.refusal("accept")
        if self._rests:
            return []  # what is ready stays so: `_look_again` comes
        take = _accept_in_any_case if self._serves_operator else accept
        listeners = self._listeners
        for _ in range(len(listeners)):
            listener = listeners[0]
            if len(listeners) > 1:
                listeners.rotate(-1)  # the next one first, next time
            failures = 0
            while listener.ready:
                try:
                    accepted, empty = take(listener.sock, limit, state, self._local, *self._for_sockets)
                    if listener.doubtful and empty and not accepted:
                        listener.refuse_if_shut_down()
                except OSError as error:
                    failures += 1
                    if failures == BUDGET or not self._go_on_after(error, state, listener):
                        return []  # a storm of transient failures must not hold the loop
                else:
                    listener.ready = not empty
                    if accepted:
                        if self._backoff.pausing:
                            self._backoff.succeeded()
                        return accepted
        return []

    def _go_on_after(self, error: OSError, state: EventLoopState, listener: Listener) -> bool:
        failure = classify(error)
        if failure is AcceptFailure.TRANSIENT:
            return True
        if failure is AcceptFailure.FATAL:
            self._fail(error, listener)
            return False
        if listener.is_empty:
            listener.ready = False
            return True
        if self.on_exhausted is not None and self.on_exhausted(listener.sock, error):
            if self._backoff.may_log(state.loop.time()):
                _log.warning("no room at %s: %s; connections are reset", self._address, error.strerror)
            return True
        self._pause(error, state)
        return False

    def _fail(self, error: OSError, listener: Listener) -> None:
        """`listener` is unusable: drop it if it is dispensable, else raise `error` with the address."""
        named = OSError(error.errno, f"cannot accept on {self._address}: {error.strerror or error}")
        if listener.on_failure is None:
            raise named from error
        self.remove(listener.sock)
        listener.on_failure(named)

    def _pause(self, error: OSError, state: EventLoopState) -> None:
        pause = self._backoff.next_pause()
        if self._backoff.may_log(state.loop.time()):
            _log.warning("cannot accept on %s: %s; next try in %.1f s", self._address, error.strerror, pause)
        self._retry = state.loop.call_later(pause, self._end_pause)
        descriptors.waiting.add(self._on_release)

    # Waiting ------------------------------------------------------------------------------------------

    async def _wait(self, state: EventLoopState, room: Callable[[], int]) -> list[Any]:
        """Wait in the queue; return what was accepted once this is its head.

        At the end of the interpreter the clean-up may run after the built-in functions are gone. From
        Python 3.14 on ``any``, ``all`` and ``tuple`` of a generator expression use a freed object then:
        the clean-up calls no built-in function.
        """
        waiters, place = self._waiters, object()
        waiters[place] = waiter = state.loop.create_future()
        accepted: list[Any] = []
        try:
            try:
                while not accepted:
                    if next(iter(waiters.values())) is waiter and self._any_ready() and not self._rests:
                        await state.yield_turn()  # it is the budget that is used up
                    else:
                        self._expect_word(state)
                        await waiter
                        state.budget = BUDGET
                    accepted = self._accept_batch(state, room())
                    if not accepted:
                        waiters[place] = waiter = state.loop.create_future()
            finally:
                del waiters[place]
                if self._any_ready():
                    self._wake_next()
        except BaseException:
            _reset(accepted)
            raise
        return accepted

    def _any_ready(self) -> bool:
        """Whether a connection may be ready."""
        for listener in self._listeners:  # noqa: SIM110  # any() may crash here: see `_wait`
            if listener.ready:
                return True
        return False

    @property
    def _rests(self) -> bool:
        """Whether nothing is taken for now: somebody holds it, or it waits for resources."""
        return bool(self._holders) or self._retry is not None

    def _expect_word(self, state: EventLoopState) -> None:
        """Make sure that the next event wakes the first waiter, or the end of a pause does."""
        if self._watches or self._rests:
            return
        reactor = state.reactor
        for listener in tuple(self._listeners):
            try:
                if not listener.watched:
                    reactor.watch(listener.sock.fileno(), listener)
                    listener.watched = True
                if reactor.one_shot:
                    reactor.arm_reads(listener.sock.fileno())
            except OSError as error:
                if not is_shortage(error):
                    self._fail(error, listener)
                    continue
                self._pause(error, state)
                return
        self._watches = not reactor.one_shot

    def _wake_next(self) -> None:
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_result(None)
            return  # the first alone

    def _look_again(self) -> None:
        for listener in self._listeners:
            listener.ready = True
        self._wake_next()

    # Pauses -------------------------------------------------------------------------------------------

    def _on_release(self) -> None:
        """A descriptor was closed, perhaps by another thread."""
        assert self._state is not None
        if self._state.inherited:
            return
        try:
            self._state.loop.call_soon_threadsafe(self._end_pause)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def _end_pause(self) -> None:
        descriptors.waiting.discard(self._on_release)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
            self._look_again()

    # The loop -----------------------------------------------------------------------------------------

    def refusal(self, operation: str) -> SocketClosedError | SocketInheritedError:
        """Return why `operation` cannot be done any more."""
        kind = SocketClosedError if self.closed else SocketInheritedError
        return kind(operation=operation, local_address=self._address)

    def _bind_loop(self) -> EventLoopState:
        if self.closed or self.inherited:
            raise self.refusal("accept")
        self._state = state = running_state()
        self._expect_word(state)
        return state
