"""Connecting a socket: one address, or the best of several.

Theory of operation
-------------------
`dial` returns a connected, non-blocking socket. A numeric address is one attempt. A name is resolved, and if
it has several addresses they race: Happy Eyeballs (RFC 8305) as the aiohappyeyeballs package runs it, with
this module's `_Attempts` in the place where it expects an event loop. So one piece of code connects sockets,
whichever way it is asked, and every attempt is recorded with its time and its error.

*Cancelling* a connect leaves nothing behind: the reactor forgets the descriptor before it can be closed and
given to somebody else, which `loop.sock_connect` does not promise.

*A peer that resets at once.* A connection may be made, carry a few last words and be reset before this side
has looked. The kernel then reports the reset where it would report a refusal, and only once. It is handed on
with the socket (`Dialed.lost`), so that the words can still be read and the end is not taken for a clean
one.

*Self-connection.* A connect to a local port in the ephemeral range on which nobody listens can, by chance, be
given that very port as its own, and then it is connected to itself. That is reported as what it is: refused.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any, NamedTuple, cast

from .addresses import SocketAddress, UnixAddress
from .errors import ConnectError
from .options import TcpOptions, UnixOptions
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

    With a `happy_eyeballs_delay` of ``None`` the addresses of a name are tried one after the other.

    Raises:
        ResolveError: the name has no address.
        ConnectError: no address answered; its `attempts` say why.

    Cancel safety: a cancelled dial leaves no descriptor and nothing registered with the loop.
    """
    attempts = _Attempts(options, local_address)
    candidates = await _candidates(address, resolver)
    try:
        if len(candidates) == 1:
            sock = await attempts.connect_one(candidates[0])
        else:
            sock = await _race(attempts, candidates, happy_eyeballs_delay)
    except OSError as error:
        raise attempts.summary(error, address) from error
    return Dialed(sock, attempts.lost.get(sock))


async def dial_unix(address: UnixAddress, *, options: UnixOptions) -> Dialed:
    """Return a socket connected to the Unix server at `address`; waits while its queue is full.

    Raises `ConnectError`. Cancel safety: as `dial`.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        options.apply_to_stream(sock)
        await _connect_unix(sock, address)
    except OSError as error:
        sock.close()
        raise _connect_error(error, address, [(address, loop.time() - started, error)]) from error
    except BaseException:
        sock.close()
        raise
    return Dialed(sock)


async def _connect_unix(sock: socket.socket, address: UnixAddress) -> None:
    pauses = iter(_FULL_QUEUE_PAUSES)
    while True:
        number = sock.connect_ex(address.sockaddr())
        if number == 0:
            return
        if number != errno.EAGAIN:  # that is a full queue, and there is no event for room in it
            raise OSError(number, os.strerror(number))
        await asyncio.sleep(next(pauses, _FULL_QUEUE_PAUSES[-1]))


async def _candidates(address: SocketAddress, resolver: Resolver | None) -> list[SocketAddress]:
    if address.host == "":  # a port alone: this host
        return [SocketAddress("127.0.0.1", address.port), SocketAddress("::1", address.port)]
    return await resolve(address, resolver)


async def _race(
    attempts: _Attempts, candidates: list[SocketAddress], happy_eyeballs_delay: float | None
) -> socket.socket:
    import aiohappyeyeballs  # only programs that dial names with several addresses pay for it

    infos: list[Any] = [
        (address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address.sockaddr())
        for address in candidates
    ]
    return await aiohappyeyeballs.start_connection(
        infos,
        happy_eyeballs_delay=happy_eyeballs_delay,
        interleave=1,
        loop=cast(asyncio.AbstractEventLoop, attempts),
        socket_factory=attempts.open,
    )


class _Attempts:
    """The attempts of one dial: makes their sockets, connects them, remembers how each ended.

    It has the one method of an event loop that aiohappyeyeballs calls, `sock_connect`.
    """

    def __init__(self, options: TcpOptions, local_address: SocketAddress | None) -> None:
        self._options = options
        self._local = local_address
        self._state = running_state()
        self._loop = self._state.loop
        self.lost: dict[socket.socket, OSError] = {}
        self._failed: list[tuple[float, SocketAddress, float, OSError]] = []

    async def connect_one(self, address: SocketAddress) -> socket.socket:
        family = cast(int, address.family)
        sockaddr = address.sockaddr()
        sock = self.open((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr))
        try:
            await self.sock_connect(sock, sockaddr)
        except BaseException:
            sock.close()
            raise
        return sock

    def open(self, info: Any) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        started = self._loop.time()
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            self._options.apply_to_stream(sock)
            if self._local is not None:
                self._bind(sock, self._local)
        except OSError as error:
            if sock is not None:
                sock.close()
            self._record(started, sockaddr, error)
            raise
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        return sock

    def _bind(self, sock: socket.socket, local: SocketAddress) -> None:
        if local.family not in (None, sock.family):
            raise OSError(errno.EAFNOSUPPORT, f"cannot be dialed from {local}: another address family")
        sock.bind(local.sockaddr(sock.family))

    async def sock_connect(self, sock: socket.socket, sockaddr: Any) -> None:
        started = self._loop.time()
        try:
            number = sock.connect_ex(sockaddr)
            if number in _IN_PROGRESS:
                await _Connecting(self._state).wait(sock.fileno())
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number in _RESET_LATER:
                self.lost[sock] = OSError(number, os.strerror(number))
                return
            if number == 0 and sock.getsockname() == sockaddr:
                number = errno.ECONNREFUSED
            if number:
                raise OSError(number, os.strerror(number))
        except OSError as error:
            self._record(started, sockaddr, error)
            raise

    def _record(self, started: float, sockaddr: Any, error: OSError) -> None:
        address = SocketAddress.from_sockaddr(sockaddr)
        self._failed.append((started, address, self._loop.time() - started, error))

    def summary(self, error: OSError, address: SocketAddress) -> ConnectError:
        self._failed.sort(key=lambda attempt: attempt[0])
        return _connect_error(error, address, [attempt[1:] for attempt in self._failed])


class _Connecting:
    """Waits for the end of a connect in progress."""

    def __init__(self, state: EventLoopState) -> None:
        self._reactor = state.reactor
        self._over = state.loop.create_future()

    async def wait(self, fd: int) -> None:
        self._reactor.watch(fd, self)
        try:
            self._reactor.arm_writes(fd)
            await self._over
        finally:
            self._reactor.forget(fd)

    def on_events(self, events: int) -> None:
        if events & (WRITABLE | ERROR | HANGUP) and not self._over.done():
            self._over.set_result(None)


def _connect_error(
    error: OSError,
    address: SocketAddress | UnixAddress,
    attempts: list[tuple[Any, float, OSError]],
) -> ConnectError:
    last = attempts[-1][2] if attempts else error
    message = last.strerror or str(last)
    if len(attempts) > 1:
        tried = (f"{where} after {seconds:.3f} s: {why.strerror or why}" for where, seconds, why in attempts)
        message = f"no address answered ({'; '.join(tried)})"
    return ConnectError(
        last.errno,
        message,
        attempts=attempts,
        operation="connect",
        peer_address=address,
    )
