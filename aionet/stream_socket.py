"""What every stream socket has: reading, writing, closing, whatever wire is beneath.

Theory of operation
-------------------
A socket holds a wire (`wires/contract.py`) and, from the first buffered read on, a `ReceiveBuffer`. Plain
reads and writes go straight to the wire; buffered reads feed the buffer from the wire until they find what
they look for. Bytes leave the buffer only in a result or in an `IncompleteReadError`.

The wire refuses a second reader while one is waiting, and no read gives up control between two waits, so the
whole of a buffered read is protected by the wire's guard.

Before it is connected, a socket holds a wire that refuses everything (`wires/unconnected.py`), so that no
method has to ask.
"""

from __future__ import annotations

import asyncio
import io
import operator
import socket
from collections.abc import Coroutine, Iterable
from typing import IO, TYPE_CHECKING, Any, Generic, Self, TypeVar

from .addresses import SocketAddress, UnixAddress
from .dialing import Dialed
from .engine import SocketBase, short_cut, stream_wire
from .errors import IncompleteReadError, LimitExceededError, SocketBusyError, SocketClosedError, TlsError
from .no_copies import refuse_to_be_copied
from .options import StreamOptions
from .receive_buffer import ReceiveBuffer
from .scope import current_scope
from .signals import NEVER, Draining, Signal
from .tls.client import ClientTls, checked_client
from .tls.laying import make_tls
from .tls.server import TlsForServer, checked_server_tls
from .tls_failure import TlsFailure
from .unfinished import leaves_unfinished
from .wires.contract import Buffer, Wire
from .wires.event_loop import running_state
from .wires.forks import forks
from .wires.tls.info import TlsInfo
from .wires.tls.wire import TlsWire
from .wires.unconnected import NEVER_CONNECTED, UNCONNECTED

if TYPE_CHECKING:
    from .proxy_protocol import ProxyHeader

__all__ = ["AsyncStreamSocket"]

_CHUNK = 65536
_COUNTED = 4096  # bytes in a buffer from which on limits count them
_LARGEST_CHUNK = 256 * 1024  # asked of the kernel at once for `read_exactly` or `peek` of a lot

AddressT = TypeVar("AddressT", SocketAddress, UnixAddress)


class AsyncStreamSocket(SocketBase, Generic[AddressT]):
    """A stream of bytes both ways. Use `AsyncTcpSocket` or `AsyncUnixSocket`.

    ``async with`` closes it at the end, and aborts it where an exception leaves the block (`__aexit__`);
    ``async for chunk in socket`` reads to the end of the stream.

    In a fork's child the operations of its parent's sockets refuse with `SocketInheritedError`, `raw_socket`
    included; `fileno` and the addresses are still known, and closing only drops the child's descriptor.
    """

    __slots__ = ("__weakref__", "_draining", "_peer_gone", "_proxy_header")

    __reduce__ = refuse_to_be_copied

    _draining: Draining
    """Its spawner's; left unset without one."""
    _dialing: _Dialing | None
    _ledger: set[Any] | None
    _options: StreamOptions
    _proxy_header: ProxyHeader
    """Left unset without one: most connections have none."""
    _received: ReceiveBuffer | None
    _wire: Wire

    def __init__(self, options: StreamOptions) -> None:
        self._options = options
        self._wire = UNCONNECTED
        self._received = None
        self._ledger = None
        self._dialing = None

    @classmethod
    def _connected(cls, options: StreamOptions, wire: Wire, ledger: set[Any] | None) -> Self:
        """Make one that is connected, of what is known to be right: a server makes very many."""
        self = cls.__new__(cls)
        self._options = options
        self._wire = wire
        self._received = None
        self._dialing = None
        self._ledger = ledger
        if ledger is not None:
            ledger.add(self)
        return self

    # Reading ------------------------------------------------------------------------------------------

    @short_cut
    async def read(self, max_bytes: int = _CHUNK) -> bytes:
        """Read 1 to `max_bytes` bytes, as soon as there are any; ``b""`` only at a clean end of the stream.

        Memory is taken for what came: a large `max_bytes` costs nothing. At most 256 KiB come at once.

        Raises:
            ConnectionLostError: the connection was reset, timed out or became unreachable.
            TlsTruncatedError: over TLS, the connection ended without the peer's close_notify.
            TlsError: over TLS, what came is not what the peer has sent, or it refuses to go on.
            SocketClosedError: this side has closed, or closes meanwhile.
            SocketBusyError: another task is already reading.
            ResourceExhaustedError: the process or the system has no descriptors, memory or epoll watches left
                for waiting. Nothing was taken, and a later read continues.
            ValueError: `max_bytes` is less than 1.

        Cancel safety: no byte is lost; it waits for the next read.
        Yields when it has to wait, and now and then (see `wires.event_loop`) when it does not.
        """
        if type(max_bytes) is not int or max_bytes < 1:
            max_bytes = _checked_count("max_bytes", max_bytes)
        if not self._received:
            return await self._wire.receive(max_bytes)
        await self._wire.reader_turn()
        data = self._received.take(max_bytes)
        if self._received.counted:
            self._count_buffered(self._received, len(self._received))
        return data

    async def read_exactly(self, n: int) -> bytes:
        """Read exactly `n` bytes.

        However many they are, they take little more memory than the result; up to twice as much where an
        earlier call was cancelled after much of them had come.

        Raises:
            IncompleteReadError: the stream ended first; `partial` has what came, taken off the buffer.
            ValueError: `n` is negative.
            ConnectionLostError, SocketClosedError, SocketBusyError, ResourceExhaustedError: as `read`.

        Cancel safety: no byte is lost; what has come stays in the socket's buffer.
        """
        if n < 0:
            raise ValueError(f"n must not be negative, not {n!r}")
        buffered = await self._begin_buffered()
        if n == 0 and not buffered:
            await self._wire.reader_turn()
        if n - len(buffered) > _LARGEST_CHUNK >= len(buffered):
            return await self._read_much(buffered, n)
        while len(buffered) < n:
            data = await self._wire.receive(min(n - len(buffered), _LARGEST_CHUNK))
            try:
                if len(data) == n and not buffered:
                    return data
                buffered.feed(data)
            except MemoryError:
                self._wire.note_gap()
                raise
            self._count_buffered(buffered, len(buffered))
            if not data:
                raise self._incomplete(buffered.take(len(buffered)), f"{n} bytes")
        return buffered.take(n)

    async def _read_much(self, buffered: ReceiveBuffer, n: int) -> bytes:
        """Put `n` bytes together in the memory that is returned: a `BytesIO` hands out its own."""
        whole = io.BytesIO()
        whole.write(buffered.take(len(buffered)))
        try:
            while (missing := n - whole.tell()) and (
                data := await self._wire.receive(min(missing, _LARGEST_CHUNK))
            ):
                whole.write(data)
                self._count_buffered(buffered, whole.tell())
        except MemoryError:  # where, is not known
            self._wire.note_gap()
            raise
        except BaseException:
            self._keep(buffered, whole.getbuffer())
            raise
        if missing:
            raise self._incomplete(whole.getvalue(), f"{n} bytes")
        return whole.getvalue()

    async def read_until(self, *separators: bytes, max_bytes: int = _CHUNK) -> bytes:
        """Read up to and with the first of `separators`: the result is the shortest that ends in one.

        Raises:
            LimitExceededError: no separator ends within `max_bytes`; nothing was consumed.
            IncompleteReadError: the stream ended first; `partial` has what came, taken off the buffer.
            TypeError, ValueError: no separator, an empty one, or one longer than `max_bytes`.
            ConnectionLostError, SocketClosedError, SocketBusyError, ResourceExhaustedError: as `read`.

        Cancel safety: no byte is lost; what has come stays in the socket's buffer.
        """
        wanted = _checked_separators(separators, max_bytes)
        buffered = await self._begin_buffered()
        while (found := buffered.take_until(wanted, max_bytes)) is None:
            if len(buffered) >= max_bytes:
                raise LimitExceededError(
                    f"no separator {_any_of(wanted)} within {max_bytes} bytes", **self._where("read_until")
                )
            await self._fill(buffered, f"a separator {_any_of(wanted)}")
        return found

    async def read_line(self, max_bytes: int = _CHUNK) -> bytes:
        r"""Read a line and its ``b"\n"``; ``b""`` at a clean end of the stream.

        Raises:
            IncompleteReadError: the stream ended in the middle of a line: it may have been cut short.
                `partial` has what came.
            LimitExceededError: the line is longer than `max_bytes`; nothing was consumed.
            ConnectionLostError, SocketClosedError, SocketBusyError, ResourceExhaustedError: as `read`.

        Cancel safety: no byte is lost; what has come stays in the socket's buffer.
        """
        try:
            return await self.read_until(b"\n", max_bytes=max_bytes)
        except IncompleteReadError as error:
            if error.partial:
                raise
            return b""

    @short_cut
    async def read_into(self, buffer: bytearray | memoryview) -> int:
        """Read into `buffer`, as much as there is and fits; return how many bytes, 0 only at a clean end.

        A buffer of any shape and format is filled as the bytes that it consists of.

        Raises:
            ValueError: `buffer` has no room for a byte.
            TypeError: it is not writable, or not C-contiguous.
            ConnectionLostError, SocketClosedError, SocketBusyError, ResourceExhaustedError: as `read`.

        Cancel safety: no byte is lost.
        """
        with memoryview(buffer) as whole:
            if whole.readonly or not whole.c_contiguous:
                kind = "writable" if whole.readonly else "C-contiguous"
                raise TypeError(f"read_into() needs a {kind} buffer, not {type(buffer).__name__}")
            if not whole.nbytes:
                raise ValueError("read_into() needs room for at least one byte")
            with whole.cast("B") as view:
                if self._received:
                    await self._wire.reader_turn()
                    count = self._received.take_into(view)
                    if self._received.counted:
                        self._count_buffered(self._received, len(self._received))
                    return count
                return await self._wire.receive_into(view)

    async def peek(self, n: int = 1, *, at_least: int = 1) -> bytes:
        """Return up to `n` bytes and leave them unread, as soon as there are `at_least` so many.

        Where the stream ends first, what there is: ``b""`` at a clean end. What comes beyond `n` bytes stays
        in the socket's buffer, 256 KiB at most.

        Raises:
            ValueError: not ``1 <= at_least <= n``.
            TypeError: `n` or `at_least` is not a whole number.
            ConnectionLostError, SocketClosedError, SocketBusyError, ResourceExhaustedError: as `read`; what
                came stays readable.

        Cancel safety: no byte is lost; what has come stays in the socket's buffer.
        """
        n, at_least = _checked_count("n", n), _checked_count("at_least", at_least)
        if at_least > n:
            raise ValueError(f"at_least ({at_least}) must not be more than n ({n})")
        buffered = await self._begin_buffered()
        while len(buffered) < at_least:
            data = await self._wire.receive(min(max(n - len(buffered), _CHUNK), _LARGEST_CHUNK))
            if not data:
                break
            self._keep(buffered, data)
        return buffered.peek(n)

    def __aiter__(self) -> Self:
        return self

    @short_cut
    async def __anext__(self) -> bytes:
        data = await self.read()
        if not data:
            raise StopAsyncIteration
        return data

    # Writing ------------------------------------------------------------------------------------------

    @short_cut
    async def write(self, data: Buffer) -> int:
        """Write all of `data`; return its length in bytes once the kernel has taken it.

        Several tasks may write: whole buffers, first come first served, never interleaved. A buffer of any
        shape and format is written as the bytes that it consists of; an empty one writes nothing.

        Raises:
            ConnectionLostError: the connection was reset, timed out or became unreachable.
            TlsError: over TLS, as a read was told, or would have been.
            SocketClosedError: this side has closed, or ended the stream with `send_eof`.
            ResourceExhaustedError: the process or the system has no descriptors, memory or epoll watches left
                for waiting. If nothing of `data` was sent, a later write may succeed; if a part was, the
                stream is broken: later writes raise `ConnectionLostError`, and closing resets the connection.
            TypeError: `data` is not bytes-like.
            BufferError: it is not C-contiguous.

        Cancel safety: either nothing of `data` is sent or all of it, even if the task is cancelled meanwhile.
        The buffer may be changed as soon as this returns or raises.
        Yields when it has to wait for room, and now and then when it does not.
        """
        return await self._wire.send(data)

    @short_cut
    async def write_vectored(self, buffers: Iterable[Buffer]) -> int:
        """Write all `buffers` as one, without joining them; return their length in bytes.

        Raises and cancel safety: as `write`.
        """
        return await self._wire.send_vectored(tuple(buffers))

    async def send_file(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """Write `count` bytes of a binary `file` from `offset` on (to its end if ``None``); return how many.

        A regular file, as `open()` and `tempfile` return it, goes by sendfile(2), or over TLS by pread(2):
        its position is neither used nor moved, and what is in its buffer is flushed first. Any other object
        is sent as its `read()` returns it, a `GzipFile` decompressed for instance. That is called in the
        event loop's thread, for a piece at a time, and must not wait; the object has to be seekable if
        `offset` is not 0. A file that ends early ends the write.

        Raises:
            ValueError: `offset` or `count` is negative; or the file is closed, or cannot be read, or is a
                pipe, a socket, a terminal or the like, or over one, so that reading it might wait.
            TypeError: `file` is not a binary file that has `read` and `seekable`.
            OSError: the file cannot be flushed, or read.
            ConnectionLostError, SocketClosedError, ResourceExhaustedError: as `write`.

        Cancel safety: as `write`. Once the first byte was sent the rest follows, of a regular file from a
        duplicate of its descriptor; any other must stay open until it has.
        """
        if isinstance(file, io.TextIOBase) or not hasattr(file, "read") or not hasattr(file, "seekable"):
            raise TypeError(f"send_file() needs a file opened in binary mode, not {file!r}")
        for name, value in (("offset", offset), ("count", 0 if count is None else count)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, not {value!r}")
        return await self._wire.send_file(file, offset, count)

    async def send_eof(self) -> None:
        """End this direction, after all that was written; the other stays open. A second call waits for it.

        Over TLS it is close_notify that ends it (RFC 8446, 6.1).

        Raises `ConnectionLostError`, `SocketClosedError` and `ResourceExhaustedError` as `write`.
        Cancel safety: cancelled before its turn has come, the stream is not ended.
        """
        await self._wire.send_eof()

    # TLS ----------------------------------------------------------------------------------------------

    @property
    def tls(self) -> TlsInfo | None:
        """What was agreed on in the TLS handshake; ``None`` without TLS. It stays valid after closing."""
        wire = self._wire
        return wire.info if isinstance(wire, TlsWire) else None

    async def start_tls(
        self,
        context: TlsForServer | bool,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        buffered_is_handshake: bool = False,
        accept_truncation: bool = False,
    ) -> None:
        """Go on in TLS: everything that is read and written from now on is encrypted, over what there is.

        What was written before goes first. TLS over TLS is possible.

        Args:
            context: what to offer and to demand: an `ssl.SSLContext`; for a client also ``True``, the default
                one, which verifies; for a server also a `ServerTls`.
            server_side: whether this side is the server of the handshake.
            server_hostname: for a client: the name that it asks for, and that the certificate has to be for.
            buffered_is_handshake: bytes that were received and not yet read are the beginning of the
                handshake, as after a header that came with it. Otherwise there must not be any: they came
                unprotected, and might be taken for what comes protected.
            accept_truncation: take an end of the connection without close_notify for a clean end of the
                stream, which gives up knowing whether somebody has cut it off.

        Raises:
            TlsError: the handshake failed, and the socket is closed; `failure` says why.
                Bytes that were received before raise it too, and leave the socket as it is.
            SocketBusyError: another task is reading.
            ResourceExhaustedError: as `read`, and the connection is aborted.
            ConnectionLostError, SocketClosedError: as `write`.
            TypeError, ValueError: a bad argument, before any I/O.

        Cancel safety: the connection is aborted: a handshake cannot be taken up again.
        """
        known = _checked_tls(context, server_side, server_hostname)
        wire = self._wire
        await wire.send(b"")  # after what was written before
        await wire.reader_turn()
        received = self._received
        if received and not buffered_is_handshake:
            raise TlsError(
                f"{len(received)} bytes were received before TLS began, and are not protected by it",
                failure=TlsFailure.INJECTED,
                **self._where("start_tls"),
            )
        initial = received.take(len(received)) if received else b""
        made = make_tls(
            wire,
            known,
            server_side=server_side,
            server_hostname=server_hostname or None,
            patience=self._options.close_notify_wait,
            accept_truncation=accept_truncation,
            initial=initial,
        )
        self._wire = made
        try:
            await made.shake_hands()
        except TlsError:
            await self.aclose()
            raise
        except BaseException:
            self.abort()
            raise

    # Closing ------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether this side has closed, or begun to."""
        return self._wire.closed

    async def aclose(self) -> None:
        """Finish what was written, then close. Takes at most `linger` seconds (see the options).

        Input still on its way does not destroy the last reply: it is read and thrown away until the peer ends
        its side or its TCP has acknowledged the reply. Over TLS, close_notify is sent, and the peer's awaited
        for `close_notify_wait` seconds at the most. Tasks that wait get `SocketClosedError`. A second call
        waits for the first.

        Raises:
            DeliveryError: the rest of a write whose task had been cancelled could not be sent.

        Cancel safety: cancelled, it closes at once.
        """
        if self._dialing is not None:
            try:
                await self._dialing.stop_and_wait()
            finally:
                self._forget()
        rest = self._begin_close()
        if rest is not None:
            await rest

    def abort(self) -> None:
        """Close at once: what was not yet sent is dropped, and a TCP peer sees a reset (RST).

        Tasks that wait get `SocketClosedError`.
        """
        if self._dialing is not None:
            self._dialing.stop()
        self._wire.abort()
        self._forget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Close: `aclose`, or, where an exception may have left a message unfinished, `abort` (RST).

        A clean end would let the peer take half a message for all of it. What the connection itself ended
        with, and a cancellation while nothing waits to be sent, end it cleanly; so does whatever comes after
        `send_eof`. ``await socket.aclose()`` in a ``finally`` always does; a spawner whose limits say
        ``on_unfinished="close"`` has its sockets closed cleanly here, too.
        """
        if self.draining.resets_unfinished and leaves_unfinished(error, self._wire):
            self.abort()
        await self.aclose()

    # Ends and options ---------------------------------------------------------------------------------

    @property
    def local_address(self) -> AddressT | None:
        """This end, or where the client of a proxy connected to; ``None`` before connecting."""
        address: Any = self._wire.local_address
        known: AddressT | None = address
        return known

    @property
    def peer_address(self) -> AddressT | None:
        """The other end, or the client that a proxy passed on; ``None`` before connecting."""
        address: Any = self._wire.peer_address
        known: AddressT | None = address
        return known

    @property
    def proxy_header(self) -> ProxyHeader | None:
        """What a trusted proxy said of the client (see `ProxyProtocol`); ``None`` without one."""
        return getattr(self, "_proxy_header", None)

    @property
    def raw_socket(self) -> socket.socket:
        """The standard library's socket, for options that have no name here; not to read from or write to.

        Closing or detaching it closes this socket at once: what waits gets `SocketClosedError`.

        Raises `SocketClosedError` when not connected or closed.
        """
        return self._wire.raw_socket

    def fileno(self) -> int:
        """Return the descriptor; -1 when not connected or closed."""
        return self._wire.fileno()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._wire.local_address}->{self._wire.peer_address}"
        if self._wire is UNCONNECTED:
            state = "not connected"
        return f"<{type(self).__name__} {state}>"

    @property
    def bytes_read(self) -> int:
        """Bytes received from the peer so far, those not yet read out of the buffer included."""
        return self._wire.bytes_read

    @property
    def bytes_written(self) -> int:
        """Bytes handed to the kernel so far."""
        return self._wire.bytes_written

    # What a spawner says ------------------------------------------------------------------------------

    @property
    def draining(self) -> Draining:
        """True once the server of this connection is being drained; ``await draining.wait()`` waits."""
        return getattr(self, "_draining", NEVER)

    @property
    def peer_gone(self) -> Signal:
        """True once the peer has left, where that is watched for (see `ConnectionLimits.on_peer_gone`)."""
        return getattr(self, "_peer_gone", NEVER)

    # For servers and subclasses -----------------------------------------------------------------------

    async def _connect(
        self, dial: Coroutine[Any, Any, Dialed], address: AddressT, tls: ClientTls | None = None
    ) -> None:
        """Take the socket that `dial` connects, and lay TLS over it if so asked."""
        try:
            with self._connecting("connect", address) as dialing:
                sock, lost = await dial
                wire: Wire = stream_wire(sock, running_state(), _peer_of(sock, address))
                wire.lost = lost
                if tls is not None:
                    wire = await self._lay_tls(wire, tls)
                if dialing.was_interrupted():  # by a cancellation that a resolver has suppressed
                    wire.abort()
                    raise asyncio.CancelledError
        finally:
            dial.close()  # where it was refused before it began
        self._attach(wire, current_scope().ledger)

    async def _lay_tls(self, wire: Wire, tls: ClientTls) -> Wire:
        options = self._options
        made = make_tls(
            wire,
            tls.context,
            server_hostname=tls.server_hostname,
            patience=options.close_notify_wait,
            accept_truncation=tls.accept_truncation,
        )
        try:
            await made.shake_hands()
        except TlsError:
            rest = made.begin_close(options.linger)  # so that the alert arrives
            if rest is not None:
                await rest
            raise
        except BaseException:
            made.abort()
            raise
        return made

    def _connecting(self, operation: str, peer: AddressT | None = None) -> _Dialing:
        """Around what connects this socket: no other task may meanwhile, and closing the socket ends it."""
        self._refuse_if_used(operation)
        return _Dialing(self, operation, peer)

    def _take_over(self, other: Self) -> None:
        """Become what `other`, just accepted, is."""
        if other._ledger is not None:
            other._ledger.discard(other)
        self._attach(other._wire, other._ledger)
        other._wire = NEVER_CONNECTED

    def _attach(self, wire: Wire, ledger: set[Any] | None) -> None:
        self._wire = wire
        self._ledger = ledger
        if ledger is not None:
            ledger.add(self)

    def _present_as(self, header: ProxyHeader) -> None:
        """From now on the ends are those of `header`, for errors too; where it has none, they stay."""
        self._proxy_header = header
        wire: Any = self._wire  # a descriptor's: the header comes before whatever may be laid over it
        if header.source is not None:
            wire._peer, wire._local = header.source, header.destination

    def _begin_close(self) -> Coroutine[Any, Any, None] | None:
        """`aclose` of a connected socket, as far as it goes without waiting; return what is left to await."""
        rest = None
        try:
            rest = self._wire.begin_close(self._options.linger)
        finally:
            if rest is None:
                self._forget()
        return None if rest is None else self._close_to_end(rest)

    async def _close_to_end(self, rest: Coroutine[Any, Any, None]) -> None:
        try:
            await rest
        finally:
            self._forget()

    def _forget(self) -> None:
        if self._wire is UNCONNECTED:
            self._wire = NEVER_CONNECTED
        if self._ledger is not None:
            self._ledger.discard(self)

    def _refuse_if_used(self, operation: str) -> None:
        if self._dialing is not None:
            raise SocketBusyError("this socket is already connecting", **self._where(operation))
        if self._wire.closed:
            raise SocketClosedError(**self._where(operation))
        if self._wire is not UNCONNECTED:
            raise SocketBusyError("this socket is already connected", **self._where(operation))

    def _where(self, operation: str) -> Any:
        return {"operation": operation, "ends": self._wire}

    async def _begin_buffered(self) -> ReceiveBuffer:
        """Return the buffer; what is in it may not be taken while another task waits, nor after closing."""
        if self._received is None:
            self._received = ReceiveBuffer()
            return self._received
        if self._received:
            await self._wire.reader_turn()
        if self._received.counted:
            self._count_buffered(self._received, len(self._received))
        return self._received

    def _count_buffered(self, buffered: ReceiveBuffer, count: int) -> None:
        """Let limits know, if there are any, that so many bytes are held for a buffered read."""
        if buffered.counted or count >= _COUNTED:
            observer = self._wire._observer
            if observer is not None:
                buffered.counted = count > 0
                observer.on_buffered(count)

    async def _fill(self, buffered: ReceiveBuffer, wanted: str) -> None:
        data = await self._wire.receive(_CHUNK)
        if not data:
            raise self._incomplete(buffered.take(len(buffered)), wanted)
        self._keep(buffered, data)

    def _keep(self, buffered: ReceiveBuffer, data: bytes | memoryview) -> None:
        try:
            buffered.feed(data)
        except MemoryError:
            self._wire.note_gap()
            raise
        self._count_buffered(buffered, len(buffered))

    def _incomplete(self, partial: bytes, wanted: str) -> IncompleteReadError:
        message = f"the stream ended after {len(partial)} bytes, before {wanted}"
        return IncompleteReadError(message, partial=partial, **self._where("read"))


def _checked_tls(tls: TlsForServer | bool, server_side: bool, server_hostname: str | None) -> TlsForServer:
    if not server_side:
        return checked_client(tls, server_hostname).context
    if server_hostname is not None:
        raise ValueError(f"server_hostname={server_hostname!r} is what a client asks for")
    return checked_server_tls(tls)


class _Dialing:
    """A connect or accept in progress, in the task that called for it.

    A context manager written out: the frame of a generator would hold the error that holds it.
    """

    def __init__(
        self, socket: AsyncStreamSocket[Any], operation: str, peer: SocketAddress | UnixAddress | None
    ) -> None:
        self._socket = socket
        self._where: Any = {"operation": operation, "peer_address": peer}
        self._task = asyncio.current_task()
        self._cancelled_before = 0 if self._task is None else self._task.cancelling()
        self._stopped = False
        self._forks = forks()
        self._ended = asyncio.Event()

    def __enter__(self) -> Self:
        self._socket._dialing = self
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._socket._dialing = None
        # Not the cancellation, perhaps, but what a resolver has made of it.
        replaced = isinstance(error, (asyncio.CancelledError, Exception)) and self._was_stopped()
        self._ended.set()
        self._task = None  # whose error, if it ends in one, holds frames that hold this
        if replaced:
            raise SocketClosedError(**self._where) from None

    async def stop_and_wait(self) -> None:
        self.stop()
        if self._forks == forks():  # else it may never end: its loop is the parent's
            await self._ended.wait()

    def stop(self) -> None:
        if not self._stopped and self._task is not None:
            self._stopped = True
            self._task.cancel()

    def _was_stopped(self) -> bool:
        """Whether `stop` alone has ended it, and no other cancellation; takes that of `stop` back."""
        return self._stopped and self._task is not None and self._task.uncancel() == self._cancelled_before

    def was_interrupted(self) -> bool:
        """Whether it is not to be continued, even if no cancellation has arrived."""
        return self._stopped or (self._task is not None and self._task.cancelling() > self._cancelled_before)


def _peer_of(sock: socket.socket, address: SocketAddress | UnixAddress) -> Any:
    try:
        return sock.getpeername()
    except OSError:  # reset already; the first read will say so
        return address


def _checked_count(name: str, count: object) -> int:
    if not hasattr(count, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {count!r}")
    number = operator.index(count)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {count!r}")
    return number


def _checked_separators(separators: tuple[bytes, ...], max_bytes: int) -> tuple[bytes, ...]:
    if not separators:
        raise TypeError("read_until() needs at least one separator")
    for separator in separators:
        if not isinstance(separator, (bytes, bytearray, memoryview)):
            raise TypeError(f"a separator is bytes, not {separator!r}")
        if not separator:
            raise ValueError("a separator must not be empty")
        if len(separator) > max_bytes:
            raise ValueError(f"separator {bytes(separator)!r} is longer than max_bytes ({max_bytes})")
    return tuple(map(bytes, separators))


def _any_of(separators: tuple[bytes, ...]) -> str:
    return " or ".join(map(repr, separators))
