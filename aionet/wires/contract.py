"""What a wire is: the smallest set of operations that a stream socket is built on.

Theory of operation
-------------------
*A wire moves bytes, a socket is what people hold.* Everything that differs between engines, transports and
tests is a wire; buffered reads, iteration, options and addresses are written once, above.

Every wire keeps these rules, and the conformance suite holds each wire to them:

- Receiving takes nothing from below on behalf of a task that may be cancelled before it runs: the syscall
  happens in the awaiting task's own step. One receiver at a time; a second gets `SocketBusyError` at once.
- Sending is whole: once one byte was handed down, all of that buffer goes, in order, whatever happens to the
  waiting task; if none was, none goes. Senders are served first in, first out.
- ``b""`` from `receive` means that the peer ended the stream in good order, and nothing else.
- Closing wakes every waiter with `SocketClosedError`, and the descriptor is gone when it returns.
"""

from __future__ import annotations

import socket
from collections.abc import Coroutine, Sequence
from typing import IO, Any, Protocol, TypeAlias

from ..addresses import SocketAddress, UnixAddress

__all__ = ["Buffer", "Wire", "WireObserver"]

Buffer: TypeAlias = "bytes | bytearray | memoryview"
"""What can be sent: anything that offers a C-contiguous buffer."""


class WireObserver(Protocol):
    """Who wants to know of a wire what no operation asks for. It is called where no task is running."""

    def on_peer_gone(self) -> None:
        """The peer has ended its side, or the connection is lost; it may be told more than once."""

    def on_unsent(self, count: int) -> None:
        """So many bytes of this process's memory are held for the peer: waiting writes, large TLS buffers."""

    def on_buffered(self, count: int) -> None:
        """The socket above holds so many bytes that were received and not yet read."""


class Wire(Protocol):
    """A two-way stream of bytes. See the rules above."""

    @property
    def local_address(self) -> SocketAddress | UnixAddress | None:
        """This end; ``None`` where it has no name."""

    @property
    def peer_address(self) -> SocketAddress | UnixAddress | None:
        """The other end; ``None`` where it has no name."""

    async def reader_turn(self) -> None:
        """For a read that is served from above: refuse it, or count and delay it, as `receive` would."""

    async def receive(self, max_bytes: int) -> bytes:
        """Return 1 to `max_bytes` bytes, or ``b""`` at a clean end."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill a part of `buffer`; return how many bytes, 0 at a clean end."""

    async def send(self, data: Buffer) -> int:
        """Send all of `data`; return its length in bytes."""

    async def send_vectored(self, buffers: Sequence[Buffer]) -> int:
        """Send all of `buffers` as one write; return their length in bytes."""

    async def send_file(self, file: IO[bytes], offset: int, count: int | None) -> int:
        """Send `count` bytes of `file` (to its end if ``None``) as one write; return how many.

        What may be sent, and how it is read, stands in `file_source.py`.
        """

    async def send_eof(self) -> None:
        """End this direction after everything that was sent."""

    @property
    def bytes_read(self) -> int:
        """How many bytes were received so far."""

    @property
    def bytes_written(self) -> int:
        """How many bytes were handed down so far."""

    @property
    def waits_for_input(self) -> bool:
        """Whether a task is waiting to receive."""

    @property
    def waits_for_room(self) -> bool:
        """Whether something that was written waits for room below."""

    @property
    def unfinished(self) -> bool:
        """Whether a write waits, or the last one was interrupted, even if all that is left of it was sent."""

    def note_gap(self) -> None:
        """Bytes that were received are gone: refuse later reads and writes, and let the peer see a reset."""

    def note_interruption(self) -> None:
        """What is being said is interrupted: it is `unfinished` from now on, until another write begins."""

    @property
    def eof_sent(self) -> bool:
        """Whether this direction has ended."""

    def facts(self) -> tuple[int | None, float | None]:
        """Return how many bytes are not acknowledged, and for how many seconds none moved, if known."""

    _observer: WireObserver | None
    """Who is told of it; settable, because that is done for very many wires."""

    def watch_peer(self) -> None:
        """See to it that the observer is told when the peer leaves, even if nobody reads."""

    @property
    def unacknowledged(self) -> int:
        """Bytes sent and not yet acknowledged by the peer's TCP, those still queued here included."""

    async def wait_acknowledged(self) -> None:
        """Return when `unacknowledged` is 0, or raise `DeliveryError`."""

    def begin_close(self, linger: float) -> Coroutine[Any, Any, None] | None:
        """Finish what was sent, then close; return what is left to await, if that takes any waiting.

        It takes `linger` seconds at the most. Cancel safety: cancelled, it closes at once.
        """

    def abort(self) -> None:
        """Close at once; the peer sees a reset where the transport has one."""

    @property
    def closed(self) -> bool:
        """Whether this side has begun to close."""

    peer_ended: bool
    """Whether the peer's end of the stream was read."""

    lost: OSError | None
    """Why the connection is known to be lost, if it is: `RESET_HERE` (`lingering.py`) after `abort`."""

    def fileno(self) -> int:
        """The descriptor; -1 after closing or where there is none."""

    @property
    def raw_socket(self) -> socket.socket:
        """The socket beneath, for options; `OSError` where there is none."""
