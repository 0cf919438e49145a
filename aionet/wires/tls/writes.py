"""Writes that are encrypted on their way: what stands between a queue of plaintext and the wire beneath.

Theory of operation
-------------------
`Seal` is to an `OutgoingQueue` what a socket is: `send` takes some bytes, and raises `BlockingIOError` when
the wire beneath has no room. So all that the queue knows, order, cancellation, files, the end of the stream,
what is told of a loss, holds for TLS without being written again.

*Whole.* A record that was made has its number, and must go, or none after it is understood. So it is handed
down by `begin_send`, which nobody's cancellation takes back. Plaintext counts as begun when it was encrypted.

*Backpressure.* No more is encrypted while some of what was is not with the kernel yet: at most one piece of
`PIECE` bytes waits in encrypted form, however long the write. A write is finished when its last record is
down.

*Renegotiation*, which TLS 1.3 no longer has, holds writes until the peer's answer was read. Who reads it does
not know of them, so they look again after a moment.

*Turns.* What reading makes this side send (answers to key updates, alerts) goes at once; it is small, and
comes between two records of a write.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable
from typing import Any, NoReturn

from ...errors import without_traceback
from ..contract import Buffer
from ..event_loop import EventLoopState
from ..lingering import BROKEN_OFF
from ..outgoing import Outgoing
from ..sending import OutgoingQueue, nothing
from .memory import SMALL

__all__ = ["PIECE", "Seal", "SealedQueue"]

PIECE = 64 * 1024
"""Bytes that are encrypted in one go: four records of the largest size."""

_PAUSE = 0.005
"""Seconds between looks at whether a renegotiation is over."""


class Seal:
    """Encrypts, and hands down. It takes the place of a socket in an `OutgoingQueue`."""

    __slots__ = (
        "_encrypted",
        "_end",
        "_lower",
        "_note_encrypted",
        "_on_room",
        "_pause",
        "_piece",
        "_shaken",
        "_tls",
        "busy",
        "failure",
        "rests",
    )

    def __init__(
        self,
        encrypted: ssl.MemoryBIO,
        lower: Any,
        end: Callable[[], None],
        on_room: Callable[[], None],
        note_encrypted: Callable[[int], None],
    ) -> None:
        """`encrypted` is where ciphertext is left. `encrypt_with` comes before the first `send`.

        `end()` ends the stream, `on_room()` is called when it is no longer `busy`, and
        `note_encrypted(count)` when so many bytes are taken out of `encrypted`.
        """
        self._encrypted = encrypted
        self._lower = lower
        self._end = end
        self._on_room = on_room
        self._note_encrypted = note_encrypted
        self.rests: set[asyncio.Future[None]] = set()
        """What is done when what was encrypted has been handed down, as far as it was not yet."""
        self._shaken = False
        self._pause: asyncio.TimerHandle | None = None
        self._piece = 0
        self.failure: OSError | None = None
        """Why something that was encrypted could not be handed down."""
        self.busy = True
        """Whether something encrypted waits for room below, or the handshake is not over."""

    def encrypt_with(self, tls: ssl.SSLObject) -> None:
        """Encrypt with `tls` from now on."""
        self._tls = tls

    def open(self) -> None:
        """The handshake is over."""
        self._shaken = True
        self._look_for_room()

    @property
    def unsent(self) -> int:
        """Bytes of the last piece that wait, in encrypted form, for room below."""
        lower: OutgoingQueue | None = self._lower._outgoing
        return 0 if lower is None else min(lower.remaining, self._piece)

    def send(self, data: Buffer) -> int:
        """Encrypt the beginning of `data`, up to `PIECE` bytes, and hand it down; return how many bytes."""
        if self.busy:
            raise BlockingIOError
        try:
            if len(data) <= PIECE:
                count = self._tls.write(data)
            else:
                with memoryview(data)[:PIECE] as piece:
                    count = self._tls.write(piece)
            self._piece = count
            self.hand_down()
        except ssl.SSLWantReadError:
            self._wait_for_the_peer()
            raise BlockingIOError from None
        except (OSError, TypeError, ValueError, BufferError):
            raise
        except BaseException:  # how much was encrypted, and handed down, is not known
            self.failure = self.failure or BROKEN_OFF
            self._lower.break_off()
            raise
        return count

    def sendmsg(self, views: list[memoryview]) -> int:
        """The same of several buffers, which share records."""
        return self.send(_first_bytes(views, PIECE))

    def shutdown(self, how: int) -> None:
        """Send close_notify."""
        if self.busy:
            raise BlockingIOError
        self._end()

    def fileno(self) -> NoReturn:
        """A file has to be read, and encrypted; sendfile(2) is of no use."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def hand_down(self) -> None:
        """Send what is there in encrypted form."""
        ciphertext = self._encrypted.read()
        try:
            if len(ciphertext) > SMALL:
                self._note_encrypted(len(ciphertext))
            rest = self._lower.begin_send(ciphertext)
        except OSError as error:
            self.failure = OSError(error.errno, error.strerror)
            raise
        if rest is not None:
            self.busy = True
            self.rests.add(rest)
            rest.add_done_callback(self._on_handed_down)

    def hand_down_rest(self, count: int) -> None:
        """Send what is left, in encrypted form, of a piece of `count` bytes."""
        self._piece = count
        self.hand_down()

    def forget(self) -> None:
        """The wires are closed, and nothing holds the upper one any longer."""
        self._end = self._on_room = nothing
        self._note_encrypted = _ignore
        if self._pause is not None:
            self._pause.cancel()
        for rest in self.rests:
            self._note_failure(rest)

    def _wait_for_the_peer(self) -> None:
        self.busy = True
        self._pause = self._lower._loop.call_later(_PAUSE, self._look_for_room)
        if self._encrypted.pending:
            self.hand_down()

    def _on_handed_down(self, rest: asyncio.Future[None]) -> None:
        self.rests.discard(rest)
        self._note_failure(rest)
        self._look_for_room()

    def _note_failure(self, rest: asyncio.Future[None]) -> None:
        if rest.done() and not rest.cancelled():
            error = rest.exception()  # which counts as having been told of it
            if isinstance(error, OSError):
                self.failure = without_traceback(error)

    def _look_for_room(self) -> None:
        self._pause = None
        self.busy = bool(self.rests) or not self._shaken
        if not self.busy:
            self._on_room()


class SealedQueue(OutgoingQueue):
    """A queue over a `Seal`: a write is finished when what was made of it is with the kernel."""

    __slots__ = ("_head_done", "_seal")

    def __init__(
        self,
        seal: Seal,
        state: EventLoopState,
        translate: Callable[[str, OSError], Exception],
        hold: Callable[[bool, bool], None],
        on_change: Callable[[], None],
    ) -> None:
        socket: Any = seal
        super().__init__(socket, state, translate, nothing, hold, on_change)
        self._seal = seal
        self._head_done = False

    def _go_on_later(self, blocked: bool) -> None:
        if not blocked:  # else the seal says when there is room
            self._state.loop.call_soon(self.on_writable)

    def fail(self, make_error: Callable[[], Exception], cause: BaseException | None = None) -> None:
        self._head_done = False
        super().fail(make_error, cause)

    def _advance(self, entry: Outgoing) -> bool:
        if self._seal.failure is not None:
            raise without_traceback(self._seal.failure)
        if self._seal.busy:
            raise BlockingIOError
        done = self._head_done or super()._advance(entry)
        self._head_done = done and bool(self._seal.rests)
        if self._seal.rests:
            raise BlockingIOError
        return done


def _ignore(_: int) -> None:
    pass


def _first_bytes(views: list[memoryview], most: int) -> bytes:
    pieces = []
    for view in views:
        pieces.append(view[:most])
        most -= pieces[-1].nbytes
        if not most:
            break
    return b"".join(pieces)
