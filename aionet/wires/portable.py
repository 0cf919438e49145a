"""The portable engine: a wire in plain Python, for every event loop that has `add_reader`.

Theory of operation
-------------------
*Reading.* The syscall is tried only when the descriptor may be readable (`_readable`): at the start, after an
event of the reactor's (`reactor.py`), and after a read that filled its buffer. A short read means that the
kernel's buffer was empty a moment ago, so the next read waits without asking; unless it may be short for
another reason (`_unsure`): the end of the stream or an error was announced, which comes with no further
event; urgent data has come, at which recv(2) stops (tcp(7)); or on a Unix socket, where it stops after bytes
that descriptors came with (unix(7)). So a message over TCP costs one `recv` and nothing else. The
event only wakes the task; the bytes are taken in the task's own step, which is why a cancelled read cannot
lose any. Tasks whose connection has ended are woken in slices (`slices.py`).

*Memory* is taken for what came, not for what the caller named: a read of more than `_CHUNK` goes through one
buffer of the loop's, and costs a copy.

*Refusing.* Once closing has begun, `_recv` and `_send` are replaced by a function that raises EBADF: the hot
path needs no check of its own, and nobody reads what closing throws away. A fork's child refuses because the
loop's state says so (`inherited`), before each system call.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from . import delivery
from .allowance import Allowance
from .budget import BUDGET, UNIT_BITS, WORTH_NOTING
from .contract import Buffer
from .descriptor import DescriptorWire
from .event_loop import SCRATCH_BYTES, EventLoopState
from .lingering import BROKEN_OFF, reset_on_close
from .outgoing import OutgoingBuffers
from .reactor import ERROR, HANGUP, PEER_ENDED, READABLE, URGENT, WRITABLE, WeakPlace

__all__ = ["PortableWire"]

_CHUNK = 64 * 1024  # what `recv` is asked for directly; malloc maps and unmaps larger blocks one by one
_ENDING = PEER_ENDED | HANGUP | ERROR
_UNSETTLING = _ENDING | URGENT
_MAY_READ = READABLE | _ENDING
_MAY_WRITE = WRITABLE | HANGUP | ERROR
_UNIX = getattr(socket, "AF_UNIX", None)


class PortableWire(DescriptorWire):
    """A connected, non-blocking stream socket on an event loop. It owns the socket."""

    __slots__ = (
        "__weakref__",
        "_acknowledgement_waits",
        "_bytes_sent",
        "_closing",
        "_eof_asked",
        "_eof_sent",
        "_fd",
        "_local",
        "_loop",
        "_observer",
        "_outgoing",
        "_peer",
        "_peer_watched",
        "_place",
        "_read_waiter",
        "_readable",
        "_reading",
        "_reads_little",
        "_recv",
        "_send",
        "_sock",
        "_state",
        "_timestamps",
        "_unsure",
        "_watched",
        "allowance",
        "bytes_read",
        "closed",
        "in_hand",
        "lost",
        "peer_ended",
    )

    _place: WeakPlace
    """The reactor's for the descriptor, while it is watched."""

    def __init__(
        self, sock: socket.SocketType, state: EventLoopState, peer: Any = None, local: Any = None
    ) -> None:
        """`peer` and `local`, where known: addresses, or the ends as the socket module gives them."""
        self._sock = sock
        self._recv: Callable[[int], bytes] = sock.recv
        self._send: Callable[[Buffer], int] = sock.send
        self._fd = sock.fileno()
        self._state = state
        self._loop = state.loop
        self._peer = peer
        self._local = local
        self._readable = True
        self._reading = False
        self._read_waiter: asyncio.Future[None] | None = None
        self._watched = False
        self._unsure = sock.family == _UNIX
        self._outgoing = None
        self._eof_asked = False
        self._eof_sent = False
        self.peer_ended = False
        self._timestamps = False
        self._acknowledgement_waits = None
        self._closing = None
        self._observer = None
        self._peer_watched = False
        self.allowance = None
        self.in_hand = 0
        self._reads_little = False  # whether the last read was small
        self._bytes_sent = 0
        self.bytes_read = 0
        self.closed = False
        self.lost = None

    @classmethod
    def accept(
        cls, listener: socket.socket, limit: int, state: EventLoopState, local: Any, *for_sockets: Any
    ) -> tuple[list[Any], bool]:
        """Take up to `limit` connections off the queue of `listener`.

        Returns their sockets, and whether the queue is empty now. `local` is the end that all of them have,
        if that is known; `for_sockets` are the class of the sockets, their options and their ledger. Raises
        `OSError` if the first one fails; a later failure ends the batch.
        """
        socket_class, options, ledger = for_sockets
        sockets: list[Any] = []
        while len(sockets) < limit:
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return sockets, True
            except OSError:
                if sockets:  # if it is more than this one connection's, the next try will tell
                    break
                raise
            sock.setblocking(False)
            sockets.append(socket_class._connected(options, cls(sock, state, peer, local), ledger))
        return sockets, False

    # Receiving ----------------------------------------------------------------------------------------

    async def reader_turn(self) -> None:
        if self._reading or self.closed or self._state.inherited:
            raise self._busy_error()
        if self._state.budget <= 0:
            await self._yield_turn_reading()
            self._refuse_if_closed("read")
        self._state.budget -= 1

    async def receive(self, max_bytes: int) -> bytes:
        if self._reading:
            raise self._busy_error()
        state, allowance, asked = self._state, self.allowance, max_bytes
        if allowance is not None:
            allowance.let_go(self)
        if state.budget <= 0 or (state.room < 0 and not self._reads_little):
            await self._yield_turn_reading()
        while True:
            if state.inherited:
                raise self._busy_error()
            if self._readable:
                if allowance is not None and not (max_bytes := self._admitted(allowance, asked)):
                    await self._until_readable(for_room=True)
                    continue
                try:
                    if max_bytes <= _CHUNK:
                        data = self._recv(max_bytes)
                    else:
                        max_bytes = min(max_bytes, SCRATCH_BYTES)
                        data = self._recv_through_scratch(max_bytes)
                except BlockingIOError:
                    self._readable = False
                    if allowance is not None:
                        allowance.let_go(self)  # what was reserved for it
                except OSError as error:
                    raise self._error("read", error) from error
                except MemoryError:
                    self.note_gap()  # bytes may have been taken, and dropped
                    raise
                else:
                    if len(data) >> UNIT_BITS:
                        state.spend(len(data))
                        self._reads_little = False
                    else:
                        state.budget -= 1  # a call costs too much for each message
                        self._reads_little = True
                    self.bytes_read += len(data)
                    if allowance is not None:
                        allowance.take_in_hand(self, len(data))
                        if len(data) == max_bytes >= WORTH_NOTING:
                            self._reads_little = False  # it may be one of many
                    if len(data) < max_bytes:
                        if data:
                            self._readable = self._unsure
                        else:
                            self._note_end()
                    return data
            await self._until_readable()
            if state.room < 0 and not self._reads_little:
                await self._yield_turn_reading()

    def forget_sizes(self) -> None:
        self._reads_little = False

    def _admitted(self, allowance: Allowance, max_bytes: int) -> int:
        """Return how much may be read; 0 if it has to wait for room."""
        admitted = allowance.admit(self, max_bytes)
        if self.closed:  # it was this one that had to make room
            raise self._closed_error("read")
        return admitted

    def _recv_through_scratch(self, max_bytes: int) -> bytes:
        if self.closed:
            _refuse(self)
        if self._recv is _refuse_to_read_on:
            _refuse_to_read_on(self)
        scratch = self._state.scratch or self._state.make_scratch()
        return scratch[: self._sock.recv_into(scratch, max_bytes)].tobytes()

    async def receive_into(self, buffer: memoryview) -> int:
        if self._reading:
            raise self._busy_error()
        state = self._state
        if state.budget <= 0 or (state.room < 0 and not self._reads_little):
            await self._yield_turn_reading()
        while True:
            self._refuse_if_closed("read")
            if self._recv is _refuse_to_read_on:
                self._refuse_if_lost("read")
            if self._readable:
                try:
                    count = self._sock.recv_into(buffer)
                except BlockingIOError:
                    self._readable = False
                except OSError as error:
                    raise self._error("read", error) from error
                except MemoryError:
                    self.note_gap()  # bytes may have been taken, and dropped
                    raise
                else:
                    state.spend(count)
                    self._reads_little = not count >> UNIT_BITS
                    self.bytes_read += count
                    if count < buffer.nbytes:
                        if count:
                            self._readable = self._unsure
                        else:
                            self._note_end()
                    return count
            await self._until_readable()
            if state.room < 0 and not self._reads_little:
                await self._yield_turn_reading()

    async def _until_readable(self, *, for_room: bool = False) -> None:
        state = self._state
        try:
            if not self._watched:
                self._watch()
            if state.reactor.one_shot and not for_room:
                state.reactor.arm_reads(self._fd)
        except OSError as error:
            raise self._error("read", error) from error
        waiter: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        self._read_waiter = waiter
        self._reading = True
        place = self._place
        place.reader = self
        try:
            await waiter
        finally:
            place.reader = None
            if self._read_waiter is waiter:  # not so when closing has taken the place of this reader
                self._reading = False
                self._read_waiter = None
        state.budget = BUDGET

    async def _yield_turn_reading(self) -> None:
        self._reading = True
        try:
            await self._state.yield_turn(0 if self._reads_little else _CHUNK)
        finally:
            self._reading = False

    # Events -------------------------------------------------------------------------------------------

    def on_events(self, events: int) -> None:
        """The reactor's word. An error-queue message looks like an error, and is none."""
        if self._timestamps and events & ERROR:
            delivery.discard_error_queue(self._sock)
            self._wake_acknowledgement_waits()
            if not events & HANGUP:
                events &= ~ERROR
        if events & _UNSETTLING:
            self._unsure = True
            if events & _ENDING and self._peer_watched and self._observer is not None:
                self._observer.on_peer_gone()
        if events & _MAY_READ:
            self._readable = True
            waiter = self._read_waiter
            if waiter is not None and not waiter.done():
                if events & _ENDING:
                    self._state.ends.add(self._wake_reader)
                else:
                    waiter.set_result(None)
        if self._outgoing and events & _MAY_WRITE:
            self._on_writable(events)

    # Sending ------------------------------------------------------------------------------------------

    async def send(self, data: Buffer) -> int:
        if self.in_hand:
            self._let_go()
        if self._outgoing or self._eof_asked or self.lost is not None or self._state.inherited:
            return await self._send_in_turn(OutgoingBuffers((data,)))
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._error("write", error) from error
        except (BufferError, TypeError, ValueError):  # what is wrong with it is said in one place
            return await self._send_in_turn(OutgoingBuffers((data,)))
        except BaseException:  # how much has gone is not known
            self.break_off()
            raise
        self._bytes_sent += sent
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        if sent == size:
            state = self._state
            if size >> UNIT_BITS:
                state.spend(size)
            else:
                state.budget -= 1
            if state.budget < 0:  # afterwards, not before: writes go in the order of their calls
                await self._yield_turn_writing(size)
            return size
        try:
            sending = self._send_in_turn(OutgoingBuffers((data,), sent))
        except BaseException:
            if sent:
                self.break_off()
            raise
        return await sending

    # For the cold half --------------------------------------------------------------------------------------

    def _adopt(self, sock: socket.SocketType) -> None:
        super()._adopt(sock)
        if self.closed:  # they refuse, and continue to
            return
        self._send = sock.send
        if self._recv is not _refuse_to_read_on:
            self._recv = sock.recv

    def _watch(self) -> None:
        self._place = self._state.reactor.watch_weakly(self._fd, self)
        self._watched = True

    def _keep_alive(self, needed: bool) -> None:
        held = self._state.reactor.held
        if needed:
            held[self._queue()] = self
        else:
            held.pop(self._queue(), None)

    def _refuse_io(self) -> None:
        self._recv = self._send = _refuse
        self._readable = True  # whoever waits is to be refused, and closing itself may read

    def break_off(self) -> None:
        self.lost = self.lost or BROKEN_OFF
        try:
            reset_on_close(self._sock)
        except OSError:  # it is closed already, or knows no reset
            pass

    def note_gap(self) -> None:
        self._recv = _refuse_to_read_on
        self.break_off()

    def _close_descriptor(self) -> None:
        self._fd = -1
        self._place = None  # type: ignore[assignment] # its callback is for a wire that was not closed
        self._sock.close()

    def _leave_descriptor(self) -> None:
        if self._watched:
            self._state.reactor.forget(self._fd, self)
            self._watched = False
        self._fd = -1

    def _displaced_socket(self) -> socket.SocketType | None:
        return self._sock

    def _wake_reader(self) -> None:
        if self._read_waiter is not None and not self._read_waiter.done() and not self._loop.is_closed():
            self._read_waiter.set_result(None)


def _refuse_to_read_on(_: object) -> NoReturn:
    raise OSError(*BROKEN_OFF.args)


def _refuse(_: object) -> NoReturn:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
