"""What wires have in common that queue their writes: writing in turn, the end of the stream, closing, errors.

Theory of operation
-------------------
*Writing.* What could not go at once waits in an `OutgoingQueue` (`sending.py`), behind which everything else
has to queue as long as it is not empty.

*Unfinished.* A write that is cancelled leaves a message unfinished, whatever of it is sent, until another
write begins. A write that queues clears the mark; one that is sent at once changes the number of bytes that
the mark was made at, so that the hot path does nothing for it.

*Loss.* The first error is kept (`lost`), and an end of stream after it is not believed. A shortage of this
machine's is no loss, unless it breaks off a write of which a part was sent.

*Closing* finishes the queue, sees to it that the last reply arrives, and is over when the time is up,
whatever the peer does. Mostly there is nothing to wait for: then `begin_close` does all of it.

*In a fork's child* (`forks.py`) everything is refused, and closing is `close_now`.

*For a wire that lies over this one* (TLS) the halves of closing are there one by one: `begin_closing`, after
which nobody else may read or write; `flush_all`; `settle`; `close_now`. So are `begin_send`, which nobody's
cancellation takes back, and `receive_now`, which never waits.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine, Sequence
from typing import IO, TYPE_CHECKING, Any

from ..accept_errors import SHORTAGES, is_shortage
from ..addresses import SocketAddress, UnixAddress
from ..errors import (
    ConnectionLostError,
    DeliveryError,
    ResourceExhaustedError,
    SocketBusyError,
    SocketClosedError,
    SocketInheritedError,
    TlsError,
)
from .allowance import Allowance
from .contract import Buffer, WireObserver
from .event_loop import EventLoopState
from .lingering import RESET_HERE
from .outgoing import CertainBuffers, Outgoing, OutgoingBuffers, OutgoingEof, OutgoingFile
from .sending import OutgoingQueue

__all__ = ["QueueingWire"]


class QueueingWire:
    """Half of a wire. The attributes stand in the slots of the whole one's class."""

    if not TYPE_CHECKING:  # which would not see them there
        __slots__ = ()

    _state: EventLoopState
    _loop: asyncio.AbstractEventLoop
    _outgoing: OutgoingQueue | None
    """Made by the first write that has to wait."""
    _eof_asked: bool
    _eof_sent: bool
    _closing: asyncio.Future[None] | None
    _bytes_sent: int
    """Without what went through the queue."""
    _observer: WireObserver | None
    allowance: Allowance | None
    """That its reads take from, if limits ask for it."""
    in_hand: int
    """Bytes of its last read that count, or that are reserved for one that waits."""
    bytes_read: int
    peer_ended: bool
    closed: bool
    lost: OSError | None

    # For the whole wire, which brings these -----------------------------------------------------------

    @property
    def local_address(self) -> SocketAddress | UnixAddress | None:
        raise NotImplementedError

    @property
    def peer_address(self) -> SocketAddress | UnixAddress | None:
        raise NotImplementedError

    def _make_queue(self) -> OutgoingQueue:
        raise NotImplementedError

    def _hold(self, unsent: bool, torn: bool) -> None:
        """Keep this wire alive while something is `unsent`; have it end in a reset then, or if `torn`."""
        raise NotImplementedError

    def _send_some(self, data: Buffer) -> int:
        """Hand down what fits at once; `BlockingIOError` if nothing does."""
        raise NotImplementedError

    def _unacknowledged(self) -> int:
        raise NotImplementedError

    @property
    def waits_for_input(self) -> bool:
        raise NotImplementedError

    def settled(self) -> bool:
        """End this direction, throw input away; true when closing can no longer destroy what was written."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Return when `settled`, after `flush_all`."""
        raise NotImplementedError

    def begin_closing(self) -> None:
        """From now on nobody else may read or write; whoever waits to read is told."""
        raise NotImplementedError

    def close_now(self, *, reset: bool = False) -> None:
        """Close at once, if that was not done yet."""
        raise NotImplementedError

    def receive_now(self, max_bytes: int) -> bytes:
        """Take what is there, whether closing or not; `BlockingIOError` if nothing is, ``b""`` at the end."""
        raise NotImplementedError

    async def until_input(self, seconds: float) -> None:
        """Return when there may be input, or after so many seconds."""
        raise NotImplementedError

    def forget_sizes(self) -> None:
        """What was read so far says nothing of how much the peer sends at a time from now on."""
        raise NotImplementedError

    # Sending ------------------------------------------------------------------------------------------

    async def send_vectored(self, buffers: Sequence[Buffer]) -> int:
        return await self._send_in_turn(OutgoingBuffers(buffers))

    async def send_file(self, file: IO[bytes], offset: int, count: int | None) -> int:
        return await self._send_in_turn(OutgoingFile(file, offset, count))

    async def send_eof(self) -> None:
        self._refuse_if_closed("send_eof")
        while self._eof_asked:  # by another task, whose call may yet be cancelled
            if self._eof_sent:
                return
            await self._queue().flush("send_eof")
            await asyncio.sleep(0)  # now that one says how it went
        self._refuse_if_closed("send_eof")
        self._refuse_if_lost("send_eof")  # an end now would make what was cut off look whole
        self._eof_asked = True
        entry = OutgoingEof()
        try:
            await self._queue().send(entry, "send_eof")
        except ConnectionLostError:
            entry.begun = False  # the stream was not ended, and the next call raises, too
            raise
        finally:
            self._eof_asked = self._eof_sent = entry.begun

    def begin_send(self, data: bytes) -> asyncio.Future[None] | None:
        """Send all of `data`, whatever happens to whoever asks for it.

        Returns what completes when all of it was handed down, or ``None`` if it was already. Raises
        `ConnectionLostError`, `SocketClosedError`.
        """
        self._refuse_if_inherited("write")
        self._refuse_if_lost("write")
        if self._outgoing:
            return self._outgoing.push(CertainBuffers((data,)), "write")
        try:
            try:
                sent = self._send_some(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                if not is_shortage(error):
                    raise self._error("write", error) from error
                sent = 0  # the queue tries once more, and breaks the stream if that fails
            self._bytes_sent += sent
            return None if sent == len(data) else self._queue().push(CertainBuffers((data,), sent), "write")
        except BaseException as error:
            if not isinstance(error, OSError):
                self.break_off()
            raise

    def _let_go(self) -> None:
        """The caller writes: what its last read has brought counts no longer."""
        allowance = self.allowance
        if allowance is not None and not self.waits_for_input:
            allowance.let_go(self)

    def shrink(self) -> bool:
        """Give back memory that is not needed now; whether there was any."""
        return False

    async def _send_in_turn(self, entry: Outgoing) -> int:
        if self.in_hand:
            self._let_go()
        try:
            self._refuse_writes()
        except Exception:
            entry.release()
            raise
        await self._send_queued(entry)
        return entry.sent

    async def _send_queued(self, entry: Outgoing) -> None:
        queue = self._queue()
        queue.interrupted_at = None
        try:
            await queue.send(entry, "write")
        except asyncio.CancelledError:
            self.note_interruption()
            raise

    async def _yield_turn_writing(self, size: int) -> None:
        """After a write of `size` bytes that went at once."""
        try:
            await self._state.yield_turn(size)
        except asyncio.CancelledError:
            self.note_interruption()
            raise

    async def flush_all(self, operation: str) -> None:
        """Return when everything that was written so far has been handed down to the last wire."""
        await self._queue().flush(operation)

    async def _flush_written(self, operation: str) -> None:
        """As `flush_all` of this wire alone, where only what was really written is waited for."""
        try:
            await self._queue().flush(operation)
        except ResourceExhaustedError:  # what waited was withdrawn, and its tasks know; or the stream broke
            self._refuse_if_lost(operation)

    def _queue(self) -> OutgoingQueue:
        if self._outgoing is None:
            self._outgoing = self._make_queue()
        return self._outgoing

    def hold_for_above(self, unsent: bool, torn: bool) -> None:
        """The same for a wire that lies over this one, until it says otherwise."""
        if self.closed and self._outgoing is None:
            return
        queue = self._queue()
        queue.above = (unsent, torn)
        self._hold(bool(queue), queue.broken)

    # Observing ----------------------------------------------------------------------------------------

    @property
    def bytes_written(self) -> int:
        return self._bytes_sent + (0 if self._outgoing is None else self._outgoing.sent)

    @property
    def waits_for_room(self) -> bool:
        return bool(self._outgoing)

    @property
    def unfinished(self) -> bool:
        outgoing = self._outgoing
        return outgoing is not None and (bool(outgoing) or outgoing.interrupted_at == self._bytes_sent)

    @property
    def eof_sent(self) -> bool:
        return self._eof_sent

    def note_interruption(self) -> None:
        if self.closed and self._outgoing is None:  # how it ends has been decided
            return
        self._queue().interrupted_at = self._bytes_sent

    @property
    def unacknowledged(self) -> int:
        self._refuse_if_closed("unacknowledged")
        return self._unacknowledged()

    # Closing ------------------------------------------------------------------------------------------

    def begin_close(self, linger: float) -> Coroutine[Any, Any, None] | None:
        if self._state.inherited:  # how it is closed is for the parent to decide
            self.close_now()
            return None
        if self.closed:
            return None if self._closing is None else self._closing_to_end(self._closing)
        rest = None
        outgoing = self._outgoing
        if self._hopeless:
            self.close_now(reset=outgoing is not None and outgoing.broken)
        else:
            rest = self._close_in_good_order(linger)
        if outgoing is not None and rest is None:
            self._tell_of_torn_writes(outgoing)
        return rest

    def fileno(self) -> int:
        raise NotImplementedError

    def abort(self) -> None:
        resets = self.lost is None and self.fileno() != -1
        self.close_now(reset=True)
        if resets:
            self.lost = RESET_HERE

    @property
    def _hopeless(self) -> bool:
        """Whether nothing can be delivered any more, or must not."""
        return self.lost is not None

    def _close_in_good_order(self, linger: float) -> Coroutine[Any, Any, None] | None:
        self.begin_closing()
        if linger <= 0:
            self.close_now(reset=True)
        elif not self._outgoing and self.settled():
            self.close_now()
        else:
            return self._finish_then_close(linger)
        return None

    async def _finish_then_close(self, linger: float) -> None:
        self._closing = self._loop.create_future()
        reset = True  # until all that was written is with the kernel
        try:
            async with asyncio.timeout(linger):
                await self.flush_all("aclose")
                reset = False
                await self.settle()
        except (
            TimeoutError,
            ConnectionLostError,
            ResourceExhaustedError,
            SocketClosedError,
            SocketInheritedError,
            TlsError,
        ):
            pass
        finally:
            try:
                self.close_now(reset=reset)
            finally:
                self._closing.set_result(None)
        if self._outgoing is not None:
            self._tell_of_torn_writes(self._outgoing)

    async def _closing_to_end(self, closing: asyncio.Future[None]) -> None:
        await asyncio.shield(closing)

    def _tell_of_torn_writes(self, outgoing: OutgoingQueue) -> None:
        """Raise for writes that were begun, lost, and whose task had been cancelled: nobody was told yet."""
        if outgoing.torn and not self._state.inherited:
            outgoing.torn = 0
            cause = self.lost or OSError(errno.ETIMEDOUT, "not sent within the time that closing may take")
            raise self._delivery_error("aclose", cause) from cause

    def break_off(self) -> None:
        """A part of what was sent or received is gone: refuse later writes, and let the peer see a reset."""
        raise NotImplementedError

    def note_gap(self) -> None:
        """Bytes that were received are gone: refuse later reads, too."""
        self.break_off()

    # Errors -------------------------------------------------------------------------------------------

    def _error(
        self, operation: str, error: OSError
    ) -> ConnectionLostError | ResourceExhaustedError | SocketClosedError:
        """Translate what a syscall raised; the one boundary where errors of the system become ours."""
        if self.closed and error.errno == errno.EBADF:
            return self._closed_error(operation)
        if error.errno in SHORTAGES and error is not self.lost:
            return ResourceExhaustedError(error.errno, error.strerror, operation=operation, ends=self)
        if self.lost is None:
            # A copy: the original's traceback would keep its frames alive.
            self.lost = OSError(error.errno, error.strerror)
        return ConnectionLostError(
            error.errno,
            error.strerror,
            operation=operation,
            ends=self,
        )

    def _delivery_error(self, operation: str, cause: OSError) -> DeliveryError:
        count = self._unacknowledged()
        return DeliveryError(
            cause.errno,
            f"{count} bytes were not acknowledged: {cause.strerror}",
            unacknowledged=count,
            operation=operation,
            ends=self,
        )

    def _closed_error(self, operation: str) -> SocketClosedError:
        return SocketClosedError(operation=operation, ends=self)

    def _inherited_error(self, operation: str) -> SocketInheritedError:
        return SocketInheritedError(operation=operation, ends=self)

    def _busy_error(self) -> SocketBusyError | SocketClosedError | SocketInheritedError:
        """Why a read is refused."""
        if self.closed:
            return self._closed_error("read")
        if self._state.inherited:
            return self._inherited_error("read")
        return SocketBusyError("another task is already reading", operation="read", ends=self)

    def _refuse_if_closed(self, operation: str) -> None:
        if self.closed:
            raise self._closed_error(operation)
        if self._state.inherited:
            raise self._inherited_error(operation)

    def _refuse_if_inherited(self, operation: str) -> None:
        """After a fork only the parent may use what it has opened."""
        if self._state.inherited:
            raise self._inherited_error(operation)

    def _refuse_writes(self) -> None:
        self._refuse_if_closed("write")
        self._refuse_if_lost("write")
        if self._eof_asked:
            raise SocketClosedError(
                errno.EPIPE, "the stream was ended by send_eof()", operation="write", ends=self
            )

    def _refuse_if_lost(self, operation: str) -> None:
        """A loss is told to everybody who comes after it."""
        if self.lost is not None:
            raise self._error(operation, self.lost) from self.lost
