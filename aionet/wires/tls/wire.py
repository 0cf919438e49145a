"""`TlsWire`: TLS over any other wire, without a descriptor of its own.

Theory of operation
-------------------
An `ssl.SSLObject` turns ciphertext that it finds in one `ssl.MemoryBIO` into plaintext, and plaintext into
ciphertext that it leaves in another; it never touches a socket. `TlsWire` carries the ciphertext between the
two and the wire beneath.

*Reading.* One `receive` below brings what is there, mostly a whole record, or several; it is decrypted as it
is asked for. `_more` says whether asking may bring anything, so that OpenSSL is not asked, and no
`SSLWantReadError` raised, for every record. A read that is cancelled while it waits below has taken nothing.
Tickets, key updates and alerts are dealt with on the way; what they make this side say is handed down at
once. How many of them OpenSSL meets in one call, and in a row, is bounded (`records.py`).

*Writing* is in `writes.py`.

*The end.* close_notify ends a stream (RFC 8446, 6.1). Each direction ends for itself: after `send_eof` the
peer may go on, and after the peer's end so may this side. Where the stream below ends without it, it may have
been cut off by anybody, and `TlsTruncatedError` says so, unless the caller has accepted that. OpenSSL is
never told of the end below: an option of the context could make it take that for a close_notify.

*Closing* finishes the writes, sends close_notify, waits for the peer's no longer than `patience`, and goes on
below, all of it within the time that closing may take.

*What was not acknowledged* is known below, in bytes of ciphertext. Among them are what TLS has said itself,
which is counted as it goes (`_hand_down_own`), and a header and a tag for each record. What of the rest is
the caller's follows from how much of all that was sent is: exactly, where everything is under way or all
messages are of one size.

*A loss.* What OpenSSL refuses (a record that was tampered with, an alert) is kept as what the connection was
lost by, like an error of the system. A stream of which a write broke off gets no close_notify.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...errors import (
    AionetError,
    ConnectionLostError,
    ResourceExhaustedError,
    SocketClosedError,
    TlsError,
    TlsTruncatedError,
)
from ...native import compiled
from ...tls_failure import TlsFailure, explain
from ..allowance import Allowance
from ..budget import UNIT_BITS
from ..contract import Buffer
from ..outgoing import OutgoingBuffers
from ..wire_over import WireOver
from .base import TlsBase
from .choice import ContextChoice
from .handshake import Handshake
from .info import TlsInfo
from .memory import SMALL, capacity, give_back, large_buffers_of
from .records import CIPHER_COST, MOST_WITHOUT_DATA, RECORD_COST, RecordIntake
from .writes import PIECE, Seal, SealedQueue

__all__ = ["TlsWire"]

_CHUNK = 64 * 1024
_MORE_THAN_A_RECORD = 16 * 1024 + 1  # OpenSSL returns one record, and `ssl` allocates all that was asked
_RECORD_BUFFER = 17 * 1024  # bytes that OpenSSL takes for a record of which a part has come
_MOST_ANSWERS = 100  # that wait for room below
_LEAST_OVERHEAD = (
    21  # bytes of a record that are not the caller's: 5 of header and 16 of tag (RFC 5246, 7905, 8446)
)


class TlsWire(TlsBase, RecordIntake, WireOver):
    """TLS over `lower`, which it owns. `shake_hands` comes first; until then writes wait."""

    __slots__ = (
        "__weakref__",
        "_accept_truncation",
        "_closing",
        "_eof_sent",
        "_gone",
        "_handshake",
        "_keep_session",
        "_loop",
        "_observer",
        "_own_bytes",
        "_own_ends_at",
        "_own_tail",
        "_patience",
        "_seal",
        "_session",
        "_state",
        "_written_when_idle",
        "info",
    )

    def __init__(
        self,
        lower: Any,
        context: ssl.SSLContext | None,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        choice: ContextChoice | None = None,
        patience: float,
        accept_truncation: bool = False,
        session: ssl.SSLSession | None = None,
        keep_session: Callable[[ssl.SSLSession], None] | None = None,
        initial: bytes = b"",
    ) -> None:
        """`lower` is a whole wire that is a `QueueingWire`, too.

        `context` is ``None`` for a server whose `choice` is asked for it.

        `patience` is how many seconds closing waits for the peer's close_notify.

        `session` is one to resume, `keep_session` is given one at the end; `initial` is ciphertext that was
        read already.
        """
        self._lower = lower
        self._state = lower._state
        self._loop = lower._loop
        self._incoming = ssl.MemoryBIO()
        self._encrypted = ssl.MemoryBIO()
        self._incoming_peak = self._encrypted_peak = SMALL
        self._seal = Seal(self._encrypted, lower, self._end, self._on_room, self._note_encrypted)
        if context is not None:
            self._begin_tls(
                context, server_side=server_side, server_hostname=server_hostname, session=session
            )
        self._handshake: Handshake | None = Handshake(
            server_side=server_side, server_name=server_hostname, choice=choice, initial=initial
        )
        self._patience = patience
        self._accept_truncation = accept_truncation
        self._session = session
        self._keep_session = keep_session
        self._ahead = b""
        self._more = False
        self._reading = False
        self._established = False
        self._truncated = False
        self._gone = False
        self._own_loss = None
        self._outgoing = None
        self._begin_intake()
        self._written_when_idle = 0
        """What had been written when records without data were last forgiven."""
        self._own_bytes = lower.bytes_written
        """Bytes below that are not the caller's, but for what belongs to records with data."""
        self._own_tail = 0
        """How many of them were the last to be handed down, if the stream below still ends"""
        self._own_ends_at = 0
        """here."""
        self._eof_asked = False
        self._eof_sent = False
        self._closing = None
        self._bytes_sent = 0
        self._observer = lower._observer
        if self._observer is not None:
            lower._observer = self
        self.info: TlsInfo | None = None
        """What was agreed on, once the handshake is over."""
        self.bytes_read = 0
        self.peer_ended = False
        self.closed = False

    # The handshake ------------------------------------------------------------------------------------

    async def shake_hands(self) -> None:
        """Do the handshake, in the calling task.

        Raises:
            TlsError: it failed; `failure` says why. The alert that tells the peer is on its way, and the
                wire is good for nothing but closing.
            SocketClosedError: this side closes meanwhile.

        Cancel safety: the wire is good for nothing but aborting.
        """
        self._refuse_if_closed("handshake")
        handshake = self._handshake
        assert handshake is not None
        self._reading = True
        try:
            await handshake.run(self)
        finally:
            self._reading = False
            self._handshake = None
        self._established = True
        self._more = self._incoming.pending > 0
        self._unread_records = 0
        self.info = TlsInfo.of(self._tls, handshake.server_name)
        self._seal.open()
        self.shrink()  # what the handshake has left of them

    def _begin_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._tls = context.wrap_bio(self._incoming, self._encrypted, server_side, server_hostname, session)
        self._seal.encrypt_with(self._tls)

    # Receiving ----------------------------------------------------------------------------------------

    @property
    def waits_for_input(self) -> bool:
        return self._reading

    async def reader_turn(self) -> None:
        if self._reading or self.closed or self._state.inherited:
            raise self._busy_error()
        if self._state.budget <= 0:
            await self._yield_turn_reading()
        self._state.budget -= 1

    async def _receive_slowly(self, max_bytes: int) -> bytes:
        if self._reading or self.closed or self._state.inherited:
            raise self._busy_error()
        allowance = self.allowance
        if allowance is not None:
            allowance.let_go(self)
        if self._more or self._unfed:  # else the wire below sees to it that others have their turn
            await self.reader_turn()
        while True:
            while self._more or self._feed_next():
                data = self._decrypt(max_bytes)
                if data is not None:
                    self._state.budget -= len(data) >> UNIT_BITS
                    if allowance is not None:
                        allowance.take_in_hand(self, len(data))
                    return data
                if self._state.budget <= 0:
                    await self._yield_turn_reading()
            if self.peer_ended:
                await self.reader_turn()
                return b""
            self._refuse_to_read_on()
            self._reading = True
            try:
                ciphertext = await self._lower.receive(_CHUNK if allowance is None else _share(allowance))
            except (ConnectionLostError, ResourceExhaustedError, SocketClosedError) as error:
                error._ends = self  # whose connection it was
                raise
            finally:
                self._reading = False
            self._hear(ciphertext)

    async def _receive_into_slowly(self, buffer: memoryview) -> int:
        data = await self._receive_slowly(min(buffer.nbytes, _CHUNK))
        buffer[: len(data)] = data
        return len(data)

    if TYPE_CHECKING or compiled is None:
        receive = _receive_slowly
        receive_into = _receive_into_slowly

    def receive_now(self, max_bytes: int) -> bytes:
        while True:
            while self._more or self._feed_next():
                data = self._decrypt(max_bytes)
                if data is not None:
                    return data
            if self.peer_ended or self._truncated:
                return b""
            self._hear(self._lower.receive_now(_CHUNK))

    def _charge_for_cipher(self, size: int) -> None:
        if size >> UNIT_BITS:
            self._state.room -= CIPHER_COST * size

    def _hear(self, ciphertext: bytes) -> None:
        if ciphertext:
            self._charge_for_cipher(len(ciphertext))
            self._take_in(ciphertext)
        elif self._accept_truncation:
            self.peer_ended = True
        else:
            self._truncated = True

    def _decrypt(self, max_bytes: int) -> bytes | None:
        """Return plaintext, ``b""`` at its end, or ``None`` where there is none without more ciphertext."""
        if self._ahead:
            return self._take_ahead(max_bytes)
        data: bytes | None = None
        asked = min(max_bytes, _MORE_THAN_A_RECORD)
        try:
            data = self._tls.read(asked)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # this side has ended, too
            data = b""
        except ssl.SSLError as error:
            self._more = False
            self._reply()
            raise self._error("read", error) from error
        if self._encrypted.pending and (data is not None or not self._has_next()):
            self._reply()
        if data:
            self.bytes_read += len(data)
            self._more = len(data) == asked or self._incoming.pending > 0
            self._note_data()
            return data
        self._more = False
        if data is None:
            self._note_no_data()
        else:
            self.peer_ended = True
            self._unfed = b""  # a stream has one end (RFC 8446, 6.1)
        return data

    def _note_data(self) -> None:
        self._idle_records = 0
        if self._more:
            self._unread_records = max(self._unread_records - 1, 0)
        else:  # with this one all are read, and those before it had no data
            self._state.budget -= RECORD_COST * max(self._unread_records - 1, 0)
            self._unread_records = 0

    def _note_no_data(self) -> None:
        """OpenSSL has read all that it was given, and asks for more. Raises `TlsError` for a flood."""
        self._state.budget -= RECORD_COST * self._unread_records
        self._idle_records += self._unread_records
        self._unread_records = 0
        if self._idle_records <= MOST_WITHOUT_DATA:
            return
        written = self.bytes_written
        if written == self._written_when_idle:
            raise self._lose_by("read", None, TlsFailure.RECORD_FLOOD)
        self._idle_records, self._written_when_idle = 0, written

    def _take_ahead(self, max_bytes: int) -> bytes:
        data, self._ahead = self._ahead[:max_bytes], self._ahead[max_bytes:]
        self.bytes_read += len(data)
        return data

    def _refuse_to_read_on(self) -> None:
        if self._own_loss is not None:
            self._refuse_if_lost("read")
        if self._truncated:
            raise TlsTruncatedError(
                f"{TlsFailure.TRUNCATED}: what was read may have been cut short",
                failure=TlsFailure.TRUNCATED,
                operation="read",
                ends=self,
            )

    async def _yield_turn_reading(self) -> None:
        self._reading = True
        try:
            await self._state.yield_turn()
        finally:
            self._reading = False
        self._refuse_if_closed("read")

    # Buffers ------------------------------------------------------------------------------------------

    @property
    def moved(self) -> int:
        """Bytes of either direction so far."""
        return self.bytes_read + self.bytes_written

    def _note_fed(self, count: int) -> None:
        """OpenSSL was given `count` bytes, and has taken all that was there before."""
        if count > self._incoming_peak:
            self._incoming_peak = count
            self._note_growth()
        elif self.allowance is not None:
            self._on_unsent()

    def _note_encrypted(self, count: int) -> None:
        """`count` bytes were encrypted, and were all that was in their buffer."""
        if count > self._encrypted_peak:
            self._encrypted_peak = count
            self._note_growth()

    def _note_growth(self) -> None:
        """One of the buffers has become larger than it was."""
        buffers = large_buffers_of(self._state)
        if buffers is not None:
            buffers.note(self, self._capacity)
        self._on_unsent()

    def _held_besides(self) -> int:
        unfed = len(self._unfed) + (_RECORD_BUFFER if self._record_left else 0)
        if self._incoming_peak <= SMALL and self._encrypted_peak <= SMALL:
            return unfed if unfed > SMALL else 0
        return self._capacity + unfed

    @property
    def _capacity(self) -> int:
        """Bytes that both buffers take."""
        return capacity(self._incoming_peak) + capacity(self._encrypted_peak)

    def _give_back(self) -> None:
        give_back(self._incoming)
        give_back(self._encrypted)

    def shrink(self) -> bool:
        """Give back the memory of the buffers; false if something is in them."""
        if self._incoming.pending or self._encrypted.pending:
            return False
        self._give_back()
        was_large = self._held_besides() > 0
        self._incoming_peak = self._encrypted_peak = SMALL
        if was_large:
            self._on_unsent()
        return True

    # Sending ------------------------------------------------------------------------------------------

    async def _send_slowly(self, data: Buffer) -> int:
        if self.in_hand:
            self._let_go()
        kind = type(data)
        if (
            self._seal.busy
            or self._outgoing
            or self._eof_asked
            or self.closed
            or not (kind is bytes or kind is bytearray)
            or not 0 < len(data) <= PIECE
            or self.lost is not None
            or self._state.inherited
        ):
            return await self._send_in_turn(OutgoingBuffers((data,)))
        size = len(data)
        try:
            self._seal.send(data)
        except BlockingIOError:
            return await self._send_in_turn(OutgoingBuffers((data,)))
        except OSError as error:
            raise self._error("write", error) from error
        self._bytes_sent += size
        if self._seal.rests:
            await self._send_queued(OutgoingBuffers((data,), size))
            return size
        self._charge_for_cipher(size)
        if self._state.spend(size):  # afterwards, not before: writes go in the order of their calls
            await self._yield_turn_writing(size)
        return size

    if TYPE_CHECKING or compiled is None:
        send = _send_slowly

    async def _finish_send(self, data: Buffer) -> int:
        """`data` was encrypted, and counted; go on where its ciphertext found no room below."""
        size = memoryview(data).nbytes
        try:
            self._seal.hand_down_rest(size)
        except OSError as error:
            raise self._error("write", error) from error
        if self._seal.rests:
            await self._send_queued(OutgoingBuffers((data,), size))
        return size

    def _send_some(self, data: Buffer) -> int:
        return self._seal.send(data)

    _outgoing: SealedQueue | None

    def _make_queue(self) -> SealedQueue:
        return SealedQueue(self._seal, self._state, self._error, self._hold, self._on_unsent)

    def _hold(self, unsent: bool, torn: bool) -> None:
        above_unsent, above_torn = self._queue().above
        self._lower.hold_for_above(unsent or above_unsent, torn or above_torn)

    @property
    def bytes_written(self) -> int:
        return max(super().bytes_written - self._seal.unsent, 0)

    @property
    def unfinished(self) -> bool:
        return bool(self._seal.rests) or super().unfinished

    def _on_room(self) -> None:
        if self._outgoing:
            self._outgoing.on_writable()

    def _reply(self) -> None:
        """Hand down what reading has made this side say.

        A peer that has ever more answered, and reads none of it, would fill the memory.
        """
        if len(self._seal.rests) > _MOST_ANSWERS:
            raise self._lose_by("read", None, TlsFailure.PROTOCOL)
        if self._encrypted.pending:
            try:
                self._hand_down_own()
            except OSError:  # lost: the next read or write says so
                pass

    def _hand_down_own(self) -> None:
        """Hand down what is not a byte of the caller's."""
        before = self._end_below()
        if before != self._own_ends_at:
            self._own_tail = 0
        self._seal.hand_down()
        self._own_ends_at = self._end_below()
        self._own_bytes += self._own_ends_at - before
        self._own_tail += self._own_ends_at - before

    def _end_below(self) -> int:
        """Return how long the stream below is, with what waits for room."""
        queue = self._lower._outgoing
        sent: int = self._lower.bytes_written
        return sent if queue is None else sent + int(queue.remaining)

    # Delivery -----------------------------------------------------------------------------------------

    def _unacknowledged(self) -> int:
        return self._unencrypted() + self._of_caller(self._lower._unacknowledged())

    def facts(self) -> tuple[int | None, float | None]:
        count, idle = super().facts()
        return (None if count is None else self._unencrypted() + self._of_caller(count)), idle

    def _unencrypted(self) -> int:
        return 0 if self._outgoing is None else self._outgoing.failed + self._outgoing.remaining

    def _of_caller(self, ciphertext: int) -> int:
        """Return how many of the last `ciphertext` bytes below are the caller's; 0 only if none is."""
        end = self._end_below()
        sent: int = super().bytes_written
        left = ciphertext - (self._own_tail if end == self._own_ends_at else 0)
        if left <= 0 or not sent:
            return 0
        share: int = left * sent // max(end - self._own_bytes, 1)
        return max(min(share, sent, left - _LEAST_OVERHEAD), 1)

    async def wait_acknowledged(self) -> None:
        self._refuse_if_closed("wait_acknowledged")
        if self.unacknowledged == 0:
            return
        try:
            await self._flush_written("wait_acknowledged")
            await self._lower.wait_acknowledged()
        except ConnectionLostError as error:
            raise self._delivery_error("wait_acknowledged", error) from error
        except SocketClosedError:
            raise self._closed_error("wait_acknowledged") from None

    # Closing ------------------------------------------------------------------------------------------

    def begin_closing(self) -> None:
        self.closed = True
        if self._handshake is not None:
            self._handshake.stop(self._loop)
        self._lower.begin_closing()
        if not self._established and self._outgoing is not None:
            self._outgoing.fail(lambda: self._closed_error("write"))

    async def flush_all(self, operation: str) -> None:
        if self._established:
            await self._queue().flush(operation)
            self._say_goodbye()
        await self._lower.flush_all(operation)

    def settled(self) -> bool:
        if self._established:
            self._say_goodbye()
            if self._seal.busy or self._lower._outgoing or not self._said_goodbye():
                return False
        settled: bool = self._lower.settled()
        return settled

    async def settle(self) -> None:
        if self._established:
            try:
                async with asyncio.timeout(self._patience):
                    await self._until_goodbye()
            except TimeoutError:
                pass
        await self._lower.settle()

    def close_now(self, *, reset: bool = False) -> None:
        if self._gone:
            return
        self._gone = self.closed = True
        if self._handshake is not None:
            self._handshake.stop(self._loop)
        self._lower.close_now(reset=reset)
        self._seal.forget()
        if self._outgoing is not None:
            self._outgoing.fail(lambda: self._closed_error("write"))
            self._outgoing.forget()
        self._lower._observer = None
        if self._established and self._own_loss is None:
            self._pass_on_session()
        self._drop_buffers()

    def _drop_buffers(self) -> None:
        """Give back what will not be read; the wire itself may be held for long, by a cycle for instance."""
        self._unfed = self._ahead = b""
        if self._incoming_peak > SMALL or self._encrypted_peak > SMALL:
            self._incoming.read()
            self._encrypted.read()
            self._give_back()

    def _pass_on_session(self) -> None:
        """Keep what the next connection may resume; in TLS 1.3 that is not what this one began with."""
        if self._keep_session is None or self.info is None:
            return
        session = self._tls.session
        for_one_use = self.info.version == "TLSv1.3"
        if session is not None and not (for_one_use and (session == self._session or not session.has_ticket)):
            self._keep_session(session)

    @property
    def _hopeless(self) -> bool:
        broken = self._outgoing is not None and self._outgoing.broken
        return broken or self._lower.closed or self._lower._hopeless

    def _say_goodbye(self) -> None:
        """Send close_notify, if that was not done yet and nothing is amiss."""
        if not self._eof_sent and self._own_loss is None:
            self._eof_asked = self._eof_sent = True
            try:
                self._end()
            except OSError:  # lost: there is nobody to say it to
                pass

    def _end(self) -> None:
        while self._tls.pending():  # ending the stream looks for the peer's end, and must not find this
            self._ahead += self._tls.read(_CHUNK)
            self._more = True
        unread = self._incoming.read()
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # mostly, that the peer's close_notify is still to come
            pass
        self._incoming.write(unread)
        if self._encrypted.pending:
            self._hand_down_own()

    def _said_goodbye(self) -> bool:
        return self._patience <= 0 or self.peer_ended or self._truncated or self._own_loss is not None

    async def _until_goodbye(self) -> None:
        state = self._state
        while not self._said_goodbye():
            try:
                state.spend(len(self.receive_now(_CHUNK)))
            except BlockingIOError:
                await self.until_input(self._patience)
            except (OSError, AionetError):
                return
            if state.budget <= 0:  # a peer that floods must not hold the loop
                await state.yield_turn()

    # Errors -------------------------------------------------------------------------------------------

    def _error(self, operation: str, error: OSError) -> Any:
        if isinstance(error, TlsError):  # that the connection was lost by
            return self._tls_error(operation, error.args[0], error.failure, error.by_peer)
        if isinstance(error, ssl.SSLError):
            return self._lose_by(operation, error, *explain(error))
        if isinstance(error, SocketClosedError) or error.errno == errno.EBADF:  # closed beneath
            return self._closed_error(operation)
        return super()._error(operation, error)

    def _lose_by(
        self, operation: str, cause: OSError | None, failure: TlsFailure, by_peer: bool = False
    ) -> TlsError:
        """Nothing but closing is left; return what to raise."""
        what = f"the peer refused: {failure}" if by_peer else str(failure)
        said = _said_by(cause)
        return self._lose_for(operation, f"{what} ({said})" if said else what, failure, by_peer)

    def _lose_for(self, operation: str, message: str, failure: TlsFailure, by_peer: bool = False) -> TlsError:
        if self._own_loss is None:  # a copy: the original's traceback would keep its frames alive
            self._own_loss = TlsError(message, failure=failure, by_peer=by_peer)
        return self._tls_error(operation, message, failure, by_peer)

    def _tls_error(self, operation: str, message: str, failure: TlsFailure | None, by_peer: bool) -> TlsError:
        return TlsError(message, failure=failure, by_peer=by_peer, operation=operation, ends=self)


def _share(allowance: Allowance) -> int:
    """How much ciphertext to ask for: its plaintext counts, too, and the buffer is larger by a third."""
    return min(_CHUNK, max(allowance.free // 3, allowance.least))


def _said_by(cause: OSError | None) -> str:
    """What OpenSSL or the system said, as briefly as possible."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, ssl.SSLError):
        return (cause.reason or "").lower().replace("_", " ")
    return "" if cause is None else cause.strerror or ""
