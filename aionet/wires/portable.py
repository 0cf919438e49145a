"""The portable engine: a wire in plain Python, for every event loop that has `add_reader`.

Theory of operation
-------------------
*Reading.* The syscall is tried only when the descriptor may be readable (`_readable`): at the start, after an
event of the reactor's (`reactor.py`), and after a read that filled its buffer. A short read means that the
kernel's buffer was empty a moment ago, so the next read waits without asking; unless the end of the stream or
an error was announced (`_ending`), which comes with no further event. So a message costs one `recv` and
nothing else. The event only wakes the task; the bytes are taken in the task's own step, which is why a
cancelled read cannot lose any.

*Writing.* `send` hands the buffer to the kernel at once. What does not fit waits in an `OutgoingQueue`
(`sending.py`).

*Refusing.* Once closing has begun, `_recv` and `_send` are replaced by a function that raises EBADF: the hot
path needs no check of its own, and nobody reads what closing throws away.

*Loss.* The kernel reports an error once, to whichever call comes next; after that a dead connection reads
like a clean end. So the first error is kept (`lost`), and an end of stream after it is not believed.

*Closing* finishes the queue, lingers until the reply is safe (`lingering.py`), and is over when the time is
up, whatever the peer does.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import IO, Any, NoReturn, TypedDict, cast

from ..addresses import SocketAddress, UnixAddress
from ..errors import ConnectionLostError, DeliveryError, SocketBusyError, SocketClosedError
from . import delivery, descriptors
from .contract import Buffer
from .event_loop import BUDGET, EventLoopState
from .lingering import PAUSES, settled
from .outgoing import Outgoing, OutgoingBuffers, OutgoingEof, OutgoingFile
from .reactor import ERROR, HANGUP, PEER_ENDED, READABLE, WRITABLE
from .sending import OutgoingQueue

__all__ = ["PortableWire"]

_ENDING = PEER_ENDED | HANGUP | ERROR
_MAY_READ = READABLE | _ENDING
_MAY_WRITE = WRITABLE | HANGUP | ERROR

_ADDRESSES = (SocketAddress, UnixAddress)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds (socket(7))


class _Ends(TypedDict):
    """Both addresses, as errors take them."""

    local_address: SocketAddress | UnixAddress | None
    peer_address: SocketAddress | UnixAddress | None


class PortableWire:
    """A connected, non-blocking stream socket on an event loop. It owns the socket."""

    __slots__ = (
        "_acknowledgement_waits",
        "_closing",
        "_end_seen",
        "_ending",
        "_eof_asked",
        "_eof_sent",
        "_fd",
        "_local",
        "_loop",
        "_outgoing",
        "_peer",
        "_read_waiter",
        "_readable",
        "_reading",
        "_recv",
        "_send",
        "_sock",
        "_state",
        "_timestamps",
        "_watched",
        "closed",
        "lost",
    )

    def __init__(
        self, sock: socket.socket, state: EventLoopState, peer: Any = None, local: Any = None
    ) -> None:
        """`peer` and `local`, where known: addresses, or the ends as the socket module gives them."""
        self._sock = sock
        self._state = state
        self._loop = state.loop
        self._fd = sock.fileno()
        self._recv: Callable[[int], bytes] = sock.recv
        self._send: Callable[[Buffer], int] = sock.send
        self._peer = peer
        self._local = local
        self._readable = True
        self._reading = False
        self._read_waiter: asyncio.Future[None] | None = None
        self._watched = False
        self._ending = False
        self._outgoing: OutgoingQueue | None = None  # made by the first write that has to wait
        self._eof_asked = False
        self._eof_sent = False
        self._end_seen = False
        self._timestamps = False
        self._acknowledgement_waits: set[delivery.AcknowledgementWait] | None = None
        self._closing: asyncio.Future[None] | None = None
        self.closed = False
        self.lost: OSError | None = None

    # Ends ---------------------------------------------------------------------------------------------

    @property
    def local_address(self) -> SocketAddress | UnixAddress | None:
        if not isinstance(self._local, _ADDRESSES):
            self._learn_local()
            self._local = _as_address(self._local)
        return cast("SocketAddress | UnixAddress | None", self._local)

    @property
    def peer_address(self) -> SocketAddress | UnixAddress | None:
        if not isinstance(self._peer, _ADDRESSES):
            self._peer = _as_address(self._peer)
        return cast("SocketAddress | UnixAddress | None", self._peer)

    @property
    def raw_socket(self) -> socket.socket:
        if self._fd == -1:
            raise self._closed_error("raw_socket")
        return self._sock

    def fileno(self) -> int:
        return self._fd

    # Receiving ----------------------------------------------------------------------------------------

    async def reader_turn(self) -> None:
        if self._reading or self.closed:
            raise self._busy_error()
        if self._state.budget <= 0:
            await self._yield_turn_reading()
            self._refuse_if_closed("read")
        self._state.budget -= 1

    async def receive(self, max_bytes: int) -> bytes:
        if self._reading:
            raise self._busy_error()
        state = self._state
        if state.budget <= 0:
            await self._yield_turn_reading()
        while True:
            if self._readable:
                try:
                    data = self._recv(max_bytes)
                except BlockingIOError:
                    self._readable = False
                except OSError as error:
                    raise self._error("read", error) from error
                else:
                    state.budget -= 1
                    if len(data) < max_bytes:
                        if data:
                            self._readable = self._ending
                        else:
                            self._note_end()
                    return data
            await self._until_readable()

    async def receive_into(self, buffer: memoryview) -> int:
        if self._reading:
            raise self._busy_error()
        state = self._state
        if state.budget <= 0:
            await self._yield_turn_reading()
        while True:
            self._refuse_if_closed("read")
            if self._readable:
                try:
                    count = self._sock.recv_into(buffer)
                except BlockingIOError:
                    self._readable = False
                except OSError as error:
                    raise self._error("read", error) from error
                else:
                    state.budget -= 1
                    if count < buffer.nbytes:
                        if count:
                            self._readable = self._ending
                        else:
                            self._note_end()
                    return count
            await self._until_readable()

    async def _until_readable(self) -> None:
        state = self._state
        if not self._watched:
            self._watch()
        if state.reactor.one_shot:
            state.reactor.arm_reads(self._fd)
        self._read_waiter = waiter = self._loop.create_future()
        self._reading = True
        try:
            await waiter
        finally:
            if self._read_waiter is waiter:  # not so when closing has taken the place of this reader
                self._reading = False
                self._read_waiter = None
        state.budget = BUDGET

    async def _yield_turn_reading(self) -> None:
        self._reading = True
        try:
            await self._state.yield_turn()
        finally:
            self._reading = False

    # Events -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._state.reactor.watch(self._fd, self)
        self._watched = True

    def on_events(self, events: int) -> None:
        """The reactor's word. An error-queue message looks like an error, and is none."""
        if self._timestamps and events & ERROR:
            delivery.discard_error_queue(self._sock)
            self._wake_acknowledgement_waits()
            if not events & HANGUP:
                events &= ~ERROR
        if events & _ENDING:
            self._ending = True
        if events & _MAY_READ:
            self._readable = True
            self._wake_reader()
        if self._outgoing and events & _MAY_WRITE:
            self._outgoing.on_writable()

    def _note_end(self) -> None:
        """An empty read: a clean end, unless the connection is known to be lost."""
        if self.lost is not None:
            raise self._error("read", self.lost) from self.lost
        self._end_seen = True

    # Sending ------------------------------------------------------------------------------------------

    async def send(self, data: Buffer) -> int:
        if self._outgoing or self._eof_asked or self.lost is not None:
            return await self._send_in_turn(OutgoingBuffers((data,)))
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._error("write", error) from error
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        if sent == size:
            state = self._state
            state.budget -= 1
            if state.budget < 0:  # afterwards, not before: writes go in the order of their calls
                await state.yield_turn()
            return size
        return await self._send_in_turn(OutgoingBuffers((data,), sent))

    async def send_vectored(self, buffers: Sequence[Buffer]) -> int:
        return await self._send_in_turn(OutgoingBuffers(buffers))

    async def send_file(self, file: IO[bytes], offset: int, count: int | None) -> int:
        return await self._send_in_turn(OutgoingFile(file, offset, count))

    async def send_eof(self) -> None:
        self._refuse_if_closed("send_eof")
        if self._eof_asked:
            return
        self._eof_asked = True
        entry = OutgoingEof()
        try:
            await self._queue().send(entry, "send_eof")
        finally:
            self._eof_asked = self._eof_sent = entry.begun

    async def _send_in_turn(self, entry: Outgoing) -> int:
        self._refuse_if_closed("write")
        if self.lost is not None:
            raise self._error("write", self.lost) from self.lost
        if self._eof_asked:
            raise SocketClosedError(
                errno.EPIPE, "the stream was ended by send_eof()", operation="write", **self._ends()
            )
        await self._queue().send(entry, "write")
        return entry.sent

    def _queue(self) -> OutgoingQueue:
        if self._outgoing is None:
            self._outgoing = OutgoingQueue(self._sock, self._state, self._error, self._await_room)
        return self._outgoing

    def _await_room(self) -> None:
        if not self._watched:
            self._watch()
        self._state.reactor.arm_writes(self._fd)

    # Delivery -----------------------------------------------------------------------------------------

    @property
    def unacknowledged(self) -> int:
        self._refuse_if_closed("unacknowledged")
        return self._unacknowledged()

    def _unacknowledged(self) -> int:
        count = 0
        if self._outgoing is not None:
            count = self._outgoing.failed + self._outgoing.remaining
        if self._fd != -1:
            count += delivery.unacknowledged_bytes(self._sock, fin_sent=self._eof_sent)
        return count

    async def wait_acknowledged(self) -> None:
        if self.unacknowledged == 0:
            return
        if not self._watched:
            self._watch()
        if not self._timestamps and self._state.reactor.tells_errors:
            self._timestamps = delivery.enable_acknowledgement_events(self._sock)
        try:
            await self._queue().flush("wait_acknowledged")
            await self._until_acknowledged(delivery.AcknowledgementWait(self._loop))
        except ConnectionLostError as error:
            raise self._delivery_error("wait_acknowledged", error) from error

    async def _until_acknowledged(self, wait: delivery.AcknowledgementWait) -> None:
        if self._acknowledgement_waits is None:
            self._acknowledgement_waits = set()
        self._acknowledgement_waits.add(wait)
        try:
            while self.unacknowledged:
                if self.lost is None and delivery.connection_is_gone(self._sock):
                    number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
                    self.lost = OSError(number, os.strerror(number))
                if self.lost is not None:
                    raise self._error("wait_acknowledged", self.lost) from self.lost
                await wait.wait()
        finally:
            self._acknowledgement_waits.discard(wait)

    # Closing ------------------------------------------------------------------------------------------

    async def aclose(self, linger: float) -> None:
        if self.closed:
            if self._closing is not None:
                await asyncio.shield(self._closing)
            return
        self._begin_closing()
        if self.lost is not None:
            self._close_now(reset=self._outgoing is not None and self._outgoing.broken)
        elif linger <= 0:
            self._close_now(reset=True)
        elif not self._outgoing and (self._end_seen or settled(self._sock)):
            self._close_now()
        else:
            await self._finish_then_close(linger)
        if self._outgoing is not None and self._outgoing.torn:
            cause = self.lost or OSError(errno.ETIMEDOUT, "not sent within the time that closing may take")
            self._outgoing.torn = 0  # told once
            raise self._delivery_error("aclose", cause) from cause

    def abort(self) -> None:
        self._begin_closing()
        self._close_now(reset=True)

    def _begin_closing(self) -> None:
        self.closed = True
        self._recv = self._send = _refuse
        self._readable = True
        if self._read_waiter is not None or self._acknowledgement_waits:
            self._wake_waiters()

    async def _finish_then_close(self, linger: float) -> None:
        self._closing = self._loop.create_future()
        reset = True  # until all that was written is with the kernel
        try:
            async with asyncio.timeout(linger):
                await self._queue().flush("aclose")
                reset = False
                pauses = iter(PAUSES)
                while not settled(self._sock):
                    await self._until_input(next(pauses, PAUSES[-1]))
        except (TimeoutError, ConnectionLostError, SocketClosedError):
            pass
        finally:
            self._close_now(reset=reset)
            self._closing.set_result(None)

    async def _until_input(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._until_readable()
        except TimeoutError:
            pass

    def _close_now(self, *, reset: bool = False) -> None:
        if self._fd == -1:
            return
        self._learn_local()
        if self._watched:
            self._state.reactor.forget(self._fd)
        if reset:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            except OSError:  # the connection is gone already, or knows no reset
                pass
        self._fd = -1
        self._sock.close()
        if descriptors.waiting:
            descriptors.released()
        if self._read_waiter is not None or self._acknowledgement_waits:
            self._wake_waiters()
        if self._outgoing is not None:
            self._outgoing.fail(lambda: self._closed_error("write"))

    def _wake_waiters(self) -> None:
        """Let whoever waits for input or acknowledgement look again, and find the socket closed."""
        self._wake_reader()
        self._wake_acknowledgement_waits()

    def _wake_reader(self) -> None:
        if self._read_waiter is not None and not self._read_waiter.done():
            self._read_waiter.set_result(None)

    def _wake_acknowledgement_waits(self) -> None:
        for wait in self._acknowledgement_waits or ():
            wait.wake()

    # Errors -------------------------------------------------------------------------------------------

    def _error(self, operation: str, error: OSError) -> ConnectionLostError | SocketClosedError:
        """Translate what a syscall raised; the one boundary where errors of the system become ours."""
        if self.closed and error.errno == errno.EBADF:
            return self._closed_error(operation)
        if self.lost is None:
            # A copy: the original's traceback would keep its frames alive.
            self.lost = OSError(error.errno, error.strerror)
        return ConnectionLostError(
            error.errno,
            error.strerror,
            operation=operation,
            local_address=self.local_address,
            peer_address=self.peer_address,
        )

    def _delivery_error(self, operation: str, cause: OSError) -> DeliveryError:
        count = self._unacknowledged()
        return DeliveryError(
            cause.errno,
            f"{count} bytes were not acknowledged: {cause.strerror}",
            unacknowledged=count,
            operation=operation,
            **self._ends(),
        )

    def _closed_error(self, operation: str) -> SocketClosedError:
        return SocketClosedError(operation=operation, **self._ends())

    def _busy_error(self) -> SocketBusyError | SocketClosedError:
        if self.closed:
            return self._closed_error("read")
        return SocketBusyError("another task is already reading", operation="read", **self._ends())

    def _refuse_if_closed(self, operation: str) -> None:
        if self.closed:
            raise self._closed_error(operation)

    def _ends(self) -> _Ends:
        return {"local_address": self.local_address, "peer_address": self.peer_address}

    def _learn_local(self) -> None:
        if self._local is None and self._fd != -1:
            try:
                self._local = self._sock.getsockname()
            except OSError:
                pass


def _refuse(_: object) -> NoReturn:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _as_address(raw: Any) -> SocketAddress | UnixAddress | None:
    """Make an address of an end as the socket module gives it."""
    if raw is None:
        return None
    return SocketAddress.from_sockaddr(raw) if isinstance(raw, tuple) else UnixAddress.from_sockaddr(raw)
