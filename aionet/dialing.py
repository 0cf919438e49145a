"""Connecting a socket: one address, or the best of several.

Theory of operation
-------------------
`dial` returns a connected, non-blocking socket. A numeric address is one attempt. A name is resolved, and if
it has several addresses they race (`racing.py`). Every attempt is a `TcpAttempt`, which holds a socket, is
woken by the reactor when the kernel has an answer, and remembers how it ended and how long that took.

*Cancelling* a connect leaves nothing behind: an attempt is closed at once, and the reactor forgets its
descriptor before another socket can get the same number.

*Errors* are kept without their tracebacks. Those would hold the frames that hold the errors, and only the
cyclic collector could free them.

*A peer that resets at once.* A connection may be made, carry a few last words and be reset before this side
has looked. The kernel then reports the reset where it would report a refusal, and only once. It is handed on
with the socket (`Dialed.lost`), so that the words can still be read and the end is not taken for a clean
one.

*Self-connection.* A connect to a local port in the ephemeral range on which nobody listens can, by chance, be
given that very port as its own, and then it is connected to itself. That is reported as what it is: refused.

*Local addresses.* Binding to port 0 would reserve a port for this socket alone, and a host has few of them.
With IP_BIND_ADDRESS_NO_PORT (ip(7)) the port is chosen by connect(2), which shares it among connections to
different peers. A port that the caller chose is shared likewise, which takes SO_REUSEADDR (socket(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .addresses import SocketAddress, UnixAddress
from .errors import ConnectError, SocketInheritedError, without_traceback
from .options import TcpOptions, UnixOptions
from .racing import interleaved, race
from .resolving import Resolver, resolve
from .wires.event_loop import EventLoopState, running_state
from .wires.reactor import ERROR, HANGUP, WRITABLE

__all__ = ["Dialed", "dial", "dial_unix"]

_RESET_LATER = (
    errno.ECONNRESET,
    errno.EPIPE,
)  # a refusal is ECONNREFUSED: these end a connection that was made
_FULL_QUEUE_PAUSES = (0.001, 0.005, 0.02, 0.05)  # a full backlog of a Unix server: the last one repeats
_IN_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)
# Linux has this option, but not every Python names it.
_BIND_ADDRESS_NO_PORT = 24 if sys.platform == "linux" else None


class Dialed(NamedTuple):
    """A socket that was connected."""

    sock: socket.socket
    lost: OSError | None = None
    """Why the connection is already lost again, if it is."""


async def dial(
    address: SocketAddress,
    *,
    options: TcpOptions,
    local_address: SocketAddress | None = None,
    happy_eyeballs_delay: float | None = 0.25,
    resolver: Resolver | None = None,
) -> Dialed:
    """Return a socket connected to `address`.

    The addresses of a name race as `racing.race` says.

    Raises:
        ResolveError: the name has no address.
        ConnectError: no address answered; its `attempts` say why.

    Cancel safety: a cancelled dial leaves no descriptor and nothing registered with the loop.
    """
    candidates = await _candidates(address, resolver)
    state = running_state()
    attempts = [
        _TcpAttempt(candidate, options, local_address, state) for candidate in interleaved(candidates)
    ]
    winner = await race(attempts, happy_eyeballs_delay)
    if winner is None:
        failed = [(attempt.address, attempt.seconds, attempt.error) for attempt in attempts]
        raise _connect_error(address, failed, local_address) from attempts[-1].error
    return winner.result()


async def dial_unix(address: UnixAddress, *, options: UnixOptions) -> Dialed:
    """Return a socket connected to the Unix server at `address`; waits while its queue is full.

    Raises `ConnectError`. Cancel safety: as `dial`.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    sock = None
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        options.apply_to_stream(sock)
        await _connect_unix(sock, address)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if not isinstance(error, OSError):
            raise
        why = without_traceback(error)
    else:
        return Dialed(sock)
    raise _connect_error(address, [(address, loop.time() - started, why)]) from why


async def _connect_unix(sock: socket.socket, address: UnixAddress) -> None:
    state = running_state()
    pauses = iter(_FULL_QUEUE_PAUSES)
    while True:
        number = sock.connect_ex(address.sockaddr())
        if number == 0:
            return
        if number != errno.EAGAIN:  # that is a full queue, and there is no event for room in it
            raise _error(number)
        await asyncio.sleep(next(pauses, _FULL_QUEUE_PAUSES[-1]))
        if state.inherited:
            raise SocketInheritedError(operation="connect", peer_address=address)


async def _candidates(address: SocketAddress, resolver: Resolver | None) -> list[SocketAddress]:
    if address.host == "":  # a port alone: this host
        return [SocketAddress("127.0.0.1", address.port), SocketAddress("::1", address.port)]
    return await resolve(address, resolver)


class _TcpAttempt:
    """One attempt to connect to one address; see `racing.Attempt`."""

    def __init__(
        self,
        address: SocketAddress,
        options: TcpOptions,
        local_address: SocketAddress | None,
        state: EventLoopState,
    ) -> None:
        self.address = address
        self.error: OSError | None = None
        self.seconds = 0.0
        """From its start to its end."""
        self._options = options
        self._local = local_address
        self._state = state
        self._sock: socket.socket | None = None
        self._lost: OSError | None = None
        self._watched = self._has_answer = self._ended = False

    def start(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._started = self._state.loop.time()
        try:
            family = self.address.family
            assert family is not None
            self._sockaddr = self.address.sockaddr()
            self._sock = sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sock.setblocking(False)
            self._options.apply_to_stream(sock)
            if self._local is not None:
                _bind(sock, self._local)
            number = sock.connect_ex(self._sockaddr)
            if number in _IN_PROGRESS:
                self._watch(sock.fileno())
            else:
                self._end(sock, number)
        except OSError as error:
            self._fail(without_traceback(error))

    def on_events(self, events: int) -> None:
        if events & (WRITABLE | ERROR | HANGUP):
            self._has_answer = True
            self._wake()

    def has_ended(self) -> bool:
        if self._has_answer and not self._ended:
            if self._state.inherited:  # the answer is for the parent process to ask for
                raise SocketInheritedError(operation="connect", peer_address=self.address)
            assert self._sock is not None
            try:
                self._end(self._sock, self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            except OSError as error:
                self._fail(without_traceback(error))
        return self._ended

    def result(self) -> Dialed:
        """The socket, once this has succeeded."""
        assert self._sock is not None
        return Dialed(self._sock, self._lost)

    def close(self) -> None:
        self._unwatch()
        if self._sock is not None:
            self._sock.close()

    def _end(self, sock: socket.socket, number: int) -> None:
        """The kernel's answer is `number`, an errno or 0."""
        if number == 0 and sock.getsockname() == self._sockaddr:
            number = errno.ECONNREFUSED
        if number in _RESET_LATER:
            self._lost = _error(number)
        elif number:
            self._fail(_error(number))
            return
        self._unwatch()
        self._over()

    def _fail(self, error: OSError) -> None:
        self.error = error
        self.close()
        self._over()

    def _over(self) -> None:
        self._ended = True
        self.seconds = self._state.loop.time() - self._started

    def _watch(self, fd: int) -> None:
        self._state.reactor.watch(fd, self)
        self._watched = True
        self._state.reactor.arm_writes(fd)

    def _unwatch(self) -> None:
        if self._watched:
            assert self._sock is not None
            self._watched = False
            self._state.reactor.forget(self._sock.fileno(), self)


def _bind(sock: socket.socket, local: SocketAddress) -> None:
    try:
        if local.family not in (None, sock.family):
            raise OSError(errno.EAFNOSUPPORT, "another address family")
        if local.port == 0 and _BIND_ADDRESS_NO_PORT is not None:
            with contextlib.suppress(OSError):  # an old kernel: the port is chosen here
                sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        if local.port and os.name == "posix":  # elsewhere it would let two sockets have one connection
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(local.sockaddr(sock.family))
    except OSError as error:
        raise OSError(error.errno, f"cannot bind to {local}: {error.strerror or error}") from None


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _connect_error(
    address: SocketAddress | UnixAddress,
    attempts: list[tuple[Any, float, Any]],
    local_address: SocketAddress | None = None,
) -> ConnectError:
    last = attempts[-1][2]
    message = last.strerror or str(last)
    if len(attempts) > 1:
        tried = (f"{where} after {seconds:.3f} s: {why.strerror or why}" for where, seconds, why in attempts)
        message = f"no address answered ({'; '.join(tried)})"
    return ConnectError(
        last.errno,
        message,
        attempts=attempts,
        operation="connect",
        local_address=local_address,
        peer_address=address,
    )
