"""What every wire over a descriptor has in common, whoever moves its bytes: all but the hot path.

Theory of operation
-------------------
An engine brings `receive`, `receive_into`, `send`, and word of events. What does not happen per message is
written once, here, over a handful of things that the engine keeps (see the annotations of `DescriptorWire`).

*Writing and closing in good order* are in `queueing.py`. What an engine's `send` could not hand to the kernel
at once goes on from the reactor's events; closing lingers until the reply is safe (`lingering.py`).

*Loss.* The kernel reports an error once, to whichever call comes next; after that a dead connection reads
like a clean end. So the first error is kept (`lost`), and an end of stream after it is not believed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Any, cast

from ..accept_errors import is_shortage
from ..addresses import SocketAddress, UnixAddress
from ..errors import ConnectionLostError, ResourceExhaustedError
from ..tcp_info import idle_seconds
from . import delivery, descriptors
from .contract import Buffer
from .lingering import BROKEN_OFF, PAUSES, close_as_before, reset_on_close, reset_whatever_closes, settled
from .queueing import QueueingWire
from .raw_socket import RawSocket
from .reactor import ERROR, HANGUP
from .sending import OutgoingQueue

__all__ = ["DescriptorWire", "as_address"]

_ADDRESSES = (SocketAddress, UnixAddress)
_LOST = HANGUP | ERROR


class DescriptorWire(QueueingWire):
    """A connected, non-blocking stream socket on an event loop. It owns the socket.

    The attributes stand in the slots of the engine's class.
    """

    if not TYPE_CHECKING:  # which would not see them there
        __slots__ = ()

    _sock: socket.SocketType
    _fd: int
    """-1 once closed."""
    _local: Any
    _peer: Any
    """Addresses, or the ends as the socket module gives them, or ``None`` where not known yet."""
    _watched: bool
    """Whether the reactor knows of the descriptor."""
    _read_waiter: Any
    """What stands for the task that waits for input, or ``None``."""
    _timestamps: bool
    """Whether acknowledgements raise events."""
    _acknowledgement_waits: set[delivery.AcknowledgementWait] | None
    _peer_watched: bool
    """Whether the observer wants to know when the peer leaves."""

    # For the engine, which extends these --------------------------------------------------------------

    async def _until_readable(self) -> None:
        """Return at the next event, or when woken."""
        raise NotImplementedError

    def _close_descriptor(self) -> None:
        """Close it; `_fd` is -1 from then on."""
        raise NotImplementedError

    def _leave_descriptor(self) -> None:
        """Leave it open, and have the reactor forget it; `_fd` is -1 from then on."""
        raise NotImplementedError

    def _displaced_socket(self) -> socket.SocketType | None:
        """The socket that has the descriptor, if there is one."""
        raise NotImplementedError

    def _keep_alive(self, needed: bool) -> None:
        """Whether the reactor keeps this wire alive, though nothing else does and no task reads."""
        raise NotImplementedError

    def _wake_reader(self) -> None:
        """Let the task that waits for input look again."""
        raise NotImplementedError

    def _adopt(self, sock: socket.SocketType) -> None:
        """From now on `sock` has the descriptor."""
        self._sock = sock
        if self._outgoing is not None:
            self._outgoing.sock = sock

    def _refuse_io(self) -> None:
        """From now on only closing may touch the descriptor."""
        raise NotImplementedError

    def _watch(self) -> None:
        """Have the reactor report events of the descriptor; `_watched` from then on."""
        raise NotImplementedError

    def _note_end(self) -> None:
        """An empty read: a clean end, unless the connection is known to be lost."""
        self._refuse_if_lost("read")
        self.peer_ended = True

    # Ends ---------------------------------------------------------------------------------------------

    @property
    def local_address(self) -> SocketAddress | UnixAddress | None:
        if not isinstance(self._local, _ADDRESSES):
            if self._local is None:
                self._learn_local()
            self._local = as_address(self._local)
        address: SocketAddress | UnixAddress | None = self._local
        return address

    @property
    def peer_address(self) -> SocketAddress | UnixAddress | None:
        if not isinstance(self._peer, _ADDRESSES):
            self._peer = as_address(self._peer)
        address: SocketAddress | UnixAddress | None = self._peer
        return address

    @property
    def raw_socket(self) -> socket.socket:
        if self._fd == -1:
            raise self._closed_error("raw_socket")
        self._refuse_if_inherited("raw_socket")
        if type(self._sock) is not RawSocket:
            self._adopt(RawSocket.over(self, self._sock.detach()))
        return cast("socket.socket", self._sock)

    def fileno(self) -> int:
        return self._fd

    # Sending ------------------------------------------------------------------------------------------

    def _send_some(self, data: Buffer) -> int:
        if self._fd == -1:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._sock.send(data)

    def _make_queue(self) -> OutgoingQueue:
        return OutgoingQueue(
            self._sock, self._state, self._error, self._await_room, self._hold, self._on_unsent
        )

    def _hold(self, unsent: bool, torn: bool) -> None:
        queue = self._queue()
        unsent = (unsent or queue.above[0]) and self._fd != -1
        self._keep_alive(unsent)
        resets = unsent or torn or queue.above[1] or self.lost is BROKEN_OFF
        if resets is (queue.before_reset is not None) or self._fd == -1 or self._state.reactor.inherited:
            return
        try:
            if queue.before_reset is None:
                queue.before_reset = reset_whatever_closes(self._sock)
            else:
                close_as_before(self._sock, queue.before_reset)
                queue.before_reset = None
        except OSError:  # the connection is gone already, or knows no reset
            pass

    def _await_room(self, blocked: bool) -> None:
        if not self._watched:
            self._watch()
        self._state.reactor.arm_writes(self._fd)
        if (
            not blocked
        ):  # by the reactor, which repeats what is interrupted; the loop's own callbacks are lost then
            self._state.reactor.ask_again(self._fd)

    def _on_writable(self, events: int) -> None:
        """There is room for what waits, or the connection is lost, which fails it."""
        if events & _LOST:
            self._state.ends.add(self._write_on)
        else:
            self._write_on()

    def _write_on(self) -> None:
        try:
            if self._outgoing:
                self._outgoing.on_writable()
        except (KeyboardInterrupt, SystemExit, MemoryError):
            self._state.reactor.ask_again(self._fd)
            raise

    # Observing ----------------------------------------------------------------------------------------

    @property
    def waits_for_input(self) -> bool:
        return self._read_waiter is not None

    def facts(self) -> tuple[int | None, float | None]:
        if self._fd == -1:
            return None, None
        try:
            return self._unacknowledged(), idle_seconds(self._fd)
        except (OSError, NotImplementedError):
            return None, None

    def watch_peer(self) -> None:
        self._peer_watched = True
        if not self._watched and not self.closed:
            try:
                self._watch()
            except OSError as error:
                raise self._error("watch_peer", error) from error

    def _on_unsent(self) -> None:
        if self._observer is not None and self._outgoing is not None:
            self._observer.on_unsent(self._outgoing.held)

    # Delivery -----------------------------------------------------------------------------------------

    def _unacknowledged(self) -> int:
        count = 0
        if self._outgoing is not None:
            count = self._outgoing.failed + self._outgoing.remaining
        if self._fd != -1:
            count += delivery.unacknowledged_bytes(self._fd, fin_sent=self._eof_sent)
        return count

    async def wait_acknowledged(self) -> None:
        self._refuse_if_closed("wait_acknowledged")
        if self.unacknowledged == 0:
            return
        if not self._watched:
            try:
                self._watch()
            except OSError as error:
                if not is_shortage(error):
                    raise self._error("wait_acknowledged", error) from error
        # Unwatched for lack of resources, it has the pauses between looks, which are there in any case.
        if self._watched and not self._timestamps and self._state.reactor.tells_errors:
            self._timestamps = delivery.enable_acknowledgement_events(self._sock)
        try:
            await self._flush_written("wait_acknowledged")
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
                self._refuse_if_lost("wait_acknowledged")
                await wait.wait()
        finally:
            self._acknowledgement_waits.discard(wait)

    # Closing ------------------------------------------------------------------------------------------

    def begin_closing(self) -> None:
        self.closed = True
        self._refuse_io()
        if self._read_waiter is not None or self._acknowledgement_waits:
            self._wake_waiters()

    def settled(self) -> bool:
        return self.peer_ended or self._fd == -1 or settled(self._sock)

    async def settle(self) -> None:
        pauses = iter(PAUSES)
        while self._fd != -1:  # it may be aborted meanwhile
            self._refuse_if_inherited("aclose")
            if settled(self._sock):
                return
            await self.until_input(next(pauses, PAUSES[-1]))

    def receive_now(self, max_bytes: int) -> bytes:
        if self._fd == -1:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._refuse_if_inherited("read")
        return self._sock.recv(max_bytes)

    async def until_input(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._until_readable()
        except TimeoutError:
            pass
        except ResourceExhaustedError:  # there is no event to be had
            await asyncio.sleep(min(seconds, PAUSES[-1]))

    def close_now(self, *, reset: bool = False) -> None:
        if self._fd == -1:
            return
        if self._local is None:
            self._learn_local()
        if self._watched:
            watcher: Any = self  # as the engine makes it one
            self._state.reactor.forget(self._fd, watcher)
        if self._outgoing is not None and self._outgoing.broken:
            reset = True  # a part of a write was sent: an end would make it look whole
        if reset and not self._state.reactor.inherited:  # it would be the parent's connection that is reset
            try:
                reset_on_close(self._sock)
            except OSError:  # the connection is gone already, or knows no reset
                pass
        if not self.closed:
            self.closed = True
            self._refuse_io()
        self._close_descriptor()
        if (
            descriptors.waiting
            or self._outgoing is not None
            or self._read_waiter
            or self._acknowledgement_waits
        ):
            self._after_closing()

    def on_descriptor_gone(self) -> None:
        """The raw socket was closed or detached, and this wire with it."""
        self.closed = True
        self._refuse_io()
        self._leave_descriptor()
        self._after_closing()

    def on_displaced(self) -> None:
        """Another descriptor has the number, so that of this wire was closed elsewhere."""
        sock = self._displaced_socket()
        self.on_descriptor_gone()
        if sock is not None:
            sock.detach()  # it would close the other's

    def _after_closing(self) -> None:
        if descriptors.waiting:
            descriptors.released()
        if self._read_waiter is not None or self._acknowledgement_waits:
            self._wake_waiters()
        if self._outgoing is not None:
            self._outgoing.fail(lambda: self._closed_error("write"))
            self._outgoing.forget()

    def _wake_waiters(self) -> None:
        """Let whoever waits for input or acknowledgement look again, and find the socket closed."""
        self._wake_reader()
        self._wake_acknowledgement_waits()

    def _wake_acknowledgement_waits(self) -> None:
        for wait in self._acknowledgement_waits or ():
            wait.wake()

    def _learn_local(self) -> None:
        if self._fd != -1:
            try:
                self._local = self._sock.getsockname()
            except OSError:
                pass


def as_address(raw: Any) -> SocketAddress | UnixAddress | None:
    """Make an address of an end as the socket module gives it."""
    if raw is None:
        return None
    return SocketAddress.from_sockaddr(raw) if isinstance(raw, tuple) else UnixAddress.from_sockaddr(raw)
