"""Writes in progress: what has not yet been handed to the kernel.

Theory of operation
-------------------
A write that the kernel could not take whole becomes an `Outgoing` in the wire's queue. The wire calls
`advance(sock)` whenever the descriptor is writable, head of the queue first, until it returns true.

Whole or not at all: an outgoing write that was never `begun` may be withdrawn when its task is cancelled; one
that was, stays until it is finished. It then no longer belongs to a task that promises to leave its buffer
alone, so `keep()` copies what could still change. At most one write of a queue has begun, so the memory kept
for cancelled tasks is never more than one write a socket.

*Exact, whatever comes between.* The handler of a signal may raise between any two calls of Python's. What the
kernel has taken must be counted even then, or it is sent twice. So its answers are put into a list by C code
(`list.extend` over `map`), where no handler runs in between, and how far a write is stands in one attribute,
which is replaced in one step.

A caller's buffer is let go of before its write raises: views of it are released, not dropped, because the
frames that an error's traceback holds may know them, too.

Nothing here knows of an event loop.
"""

from __future__ import annotations

import errno
import io
import operator
import os
import socket
from asyncio import Future
from collections.abc import Iterable
from typing import IO, Protocol

from .contract import Buffer
from .file_source import regular_file

__all__ = ["CertainBuffers", "Outgoing", "OutgoingBuffers", "OutgoingEof", "OutgoingFile", "SourceError"]

_nbytes = operator.attrgetter("nbytes")
_MAX_BUFFERS = min(os.sysconf("SC_IOV_MAX"), 1024) if hasattr(os, "sysconf") else 16
_CHUNK = 256 * 1024
_CAN_SENDFILE = hasattr(os, "sendfile")
_SENDFILE_STEP = 1 << 20  # one step's share: a large file must not hold the loop


_Place = tuple[list[memoryview], int, memoryview, int, list[int]]
"""Of a write: its buffers; the number of the first that is not sent, and the rest of it; bytes sent; what the
kernel has answered since."""


class Outgoing(Protocol):
    """One write in progress."""

    waiter: Future[None] | None
    """Completed when all of it was handed to the kernel; ``None`` once its task was cancelled."""

    @property
    def begun(self) -> bool:
        """Whether a byte of it was handed to the kernel."""

    @property
    def sent(self) -> int:
        """Bytes handed to the kernel so far."""

    @property
    def remaining(self) -> int:
        """Bytes known to be left; 0 where that is not known beforehand."""

    def advance(self, sock: socket.SocketType) -> bool:
        """Hand some of it to the kernel; true when it is finished.

        Raises `BlockingIOError` when it has to wait, another `OSError` when the connection is lost, and
        `SourceError` when what is to be sent cannot be read.
        """

    def keep(self) -> None:
        """Take over what the cancelled task owned."""

    def release(self) -> None:
        """Let go of everything held; called once, finished or not."""


class OutgoingBuffers:
    """One or more buffers, sent as one."""

    __slots__ = ("_place", "_size", "waiter")

    def __init__(self, buffers: Iterable[Buffer], sent: int = 0) -> None:
        views = list(filter(_nbytes, map(_as_bytes_view, buffers)))
        self._size: int = sum(map(_nbytes, views))
        self._place: _Place = (views, 0, _view_at(views, 0), 0, [sent])
        self.waiter: Future[None] | None = None

    @property
    def sent(self) -> int:
        _, _, _, sent, answers = self._place
        return sent + sum(answers)

    @property
    def remaining(self) -> int:
        return self._size - self.sent

    @property
    def begun(self) -> bool:
        return self.sent > 0

    def advance(self, sock: socket.SocketType) -> bool:
        views, index, head, _, answers = self._count_answers()
        if index >= len(views):
            return True
        if index + 1 == len(views):
            answers.extend(map(sock.send, (head,)))
        else:
            answers.extend(map(sock.sendmsg, ([head, *views[index + 1 : index + _MAX_BUFFERS]],)))
        views, index, _, _, _ = self._count_answers()
        return index >= len(views)

    def keep(self) -> None:
        views, index, head, sent, _ = self._count_answers()
        rest = [head, *views[index + 1 :]] if index < len(views) else []
        kept = [memoryview(bytes(view)) if _may_change(view) else view for view in rest]
        callers = [view for view in (*views, head) if _may_change(view)]
        self._place = (kept, 0, _view_at(kept, 0), sent, [])
        for view in callers:
            view.release()

    def release(self) -> None:
        views, _, head, _, _ = self._place
        for view in (*views, head):
            view.release()
        self._place = ([], 0, memoryview(b""), self.sent, [])

    def _count_answers(self) -> _Place:
        views, index, head, sent, answers = self._place
        if answers:
            left = sum(answers)
            sent += left
            while left:
                if left < head.nbytes:
                    head, left = head[left:], 0
                else:
                    left -= head.nbytes
                    index += 1
                    head = _view_at(views, index)
            self._place = (views, index, head, sent, [])
        return self._place


def _view_at(views: list[memoryview], index: int) -> memoryview:
    return views[index] if index < len(views) else memoryview(b"")


class CertainBuffers(OutgoingBuffers):
    """Buffers that must go, whatever happens to whoever asked for it: the peer counts on them."""

    __slots__ = ()
    begun = True


class OutgoingEof:
    """The end of the stream, in its place behind the writes before it."""

    __slots__ = ("begun", "waiter")
    sent = 0
    remaining = 0

    def __init__(self) -> None:
        self.begun = False
        self.waiter: Future[None] | None = None

    def advance(self, sock: socket.SocketType) -> bool:
        self.begun = True
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            self.begun = False
            raise _loss_of(sock) from None
        return True

    def keep(self) -> None:
        pass

    def release(self) -> None:
        pass


def _loss_of(sock: socket.SocketType) -> OSError:
    """Return what the connection was lost by. shutdown(2) says only that there is none, and takes nothing.

    So the error of a reset that no read or write has met yet is still with the kernel (SO_ERROR, socket(7)).
    """
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
    return OSError(number, os.strerror(number))


class SourceError(Exception):
    """The file that is being sent could not be read, for `reason`. The socket is not at fault."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


class OutgoingFile:
    """A piece of a file, by sendfile(2) where the file and the system allow it, else by reading and sending.

    The kernel reads the file while it sends: what is in it then is what goes. Where the file ends before
    `count` bytes, the write ends there too. What is not a regular file is read by its own `read()`, from
    `offset` on if it can be sought in (`file_source.py`).
    """

    __slots__ = (
        "_answers",
        "_chunk",
        "_count",
        "_file",
        "_offset",
        "_own_fd",
        "_raw",
        "_seekable",
        "_use_sendfile",
        "waiter",
    )

    def __init__(self, file: IO[bytes], offset: int, count: int | None) -> None:
        self._file = file
        self._offset = offset
        self._count = count
        self._own_fd = -1
        self._answers: list[int] = []
        self._chunk = (0, memoryview(b""))  # what of the file was read, and how far into the write it begins
        self._raw = regular_file(file)
        self._use_sendfile = _CAN_SENDFILE and self._raw is not None
        self._seekable = self._raw is not None or file.seekable()
        if offset and not self._seekable:
            raise ValueError(f"offset={offset}: {file!r} is not seekable, and is read from where it stands")
        self.waiter: Future[None] | None = None

    @property
    def sent(self) -> int:
        return sum(self._answers)

    @property
    def begun(self) -> bool:
        return self.sent > 0

    @property
    def remaining(self) -> int:
        return 0 if self._count is None else self._count - self.sent

    def advance(self, sock: socket.SocketType) -> bool:
        answers = self._answers
        if len(answers) > 1:
            answers[:] = [sum(answers)]  # in one step
        if self._count is not None and self.sent >= self._count:
            return True
        return self._advance_by_sendfile(sock) if self._use_sendfile else self._advance_by_reading(sock)

    def keep(self) -> None:
        # The caller closes its file when it learns of the cancellation; a descriptor of our own stays good.
        if self._raw is not None:
            self._own_fd = os.dup(self._raw.fileno())

    def release(self) -> None:
        if self._own_fd != -1:
            os.close(self._own_fd)
            self._own_fd = -1

    def _advance_by_sendfile(self, sock: socket.SocketType) -> bool:
        assert self._raw is not None
        before = self.sent
        try:
            fd, share = self._descriptor(self._raw), self._share(_SENDFILE_STEP)
            self._answers.extend(
                map(os.sendfile, (sock.fileno(),), (fd,), (self._offset + before,), (share,))
            )
        except (BlockingIOError, ConnectionError):
            raise
        except (OSError, ValueError):
            # The kernel cannot send from this kind of file, or one of the two is at fault: doing it by hand
            # works, or tells which.
            self._use_sendfile = False
            return self._advance_by_reading(sock)
        return self.sent in (before, self._count)

    def _advance_by_reading(self, sock: socket.SocketType) -> bool:
        start, chunk = self._chunk
        rest = chunk[self.sent - start :]
        if not rest:
            rest = self._read(self._share(_CHUNK))
            if not rest:
                return True
            self._chunk = (self.sent, rest)
        self._answers.extend(map(sock.send, (rest,)))
        return self.sent == self._count

    def _descriptor(self, raw: io.FileIO) -> int:
        return self._own_fd if self._own_fd != -1 else raw.fileno()

    def _share(self, most: int) -> int:
        return most if self._count is None else min(most, self._count - self.sent)

    def _read(self, count: int) -> memoryview:
        place = self._offset + self.sent
        try:
            if self._raw is not None:
                return memoryview(os.pread(self._descriptor(self._raw), count, place))
            if self._seekable:
                self._file.seek(place)  # others may read from the same file
            data = self._file.read(count)
            if data is None:  # as of a raw file that does not block
                raise BlockingIOError(errno.EAGAIN, f"{self._file!r} has nothing to read yet")
            return _as_bytes_view(data)[:count]
        except Exception as error:
            raise SourceError(error) from error


def _may_change(view: memoryview) -> bool:
    return not (view.readonly and isinstance(view.obj, bytes))


def _as_bytes_view(data: Buffer) -> memoryview:
    """Return the bytes of a C-contiguous buffer, whatever its shape and format.

    Raises `BufferError` for one that is not C-contiguous, `TypeError` for what is no buffer.
    """
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError(f"a buffer that is written must be C-contiguous: {data!r}")
    if view.format == "B" and view.ndim == 1:
        return view
    return view.cast("B") if view.nbytes else memoryview(b"")  # a shape with a zero in it cannot be cast
