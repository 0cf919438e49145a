"""Writes in progress: what has not yet been handed to the kernel.

Theory of operation
-------------------
A write that the kernel could not take whole becomes an `Outgoing` in the wire's queue. The wire calls
`advance(sock)` whenever the descriptor is writable, head of the queue first, until it returns true.

Whole or not at all: an outgoing write that was never `begun` may be withdrawn when its task is cancelled; one
that was, stays until it is finished. It then no longer belongs to a task that promises to leave its buffer
alone, so `keep()` copies what could still change. At most one write of a queue has begun, so the memory kept
for cancelled tasks is never more than one write a socket.

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
from collections import deque
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

    __slots__ = ("_views", "remaining", "sent", "waiter")

    def __init__(self, buffers: Iterable[Buffer], sent: int = 0) -> None:
        self._views = deque(filter(_nbytes, map(_as_bytes_view, buffers)))
        self.remaining = sum(map(_nbytes, self._views))
        self.sent = 0
        self.waiter: Future[None] | None = None
        self._count(sent)

    @property
    def begun(self) -> bool:
        return self.sent > 0

    def advance(self, sock: socket.SocketType) -> bool:
        views = self._views
        if not views:
            return True
        if len(views) == 1:
            sent = sock.send(views[0])
        else:
            sent = sock.sendmsg([views[i] for i in range(min(len(views), _MAX_BUFFERS))])
        self._count(sent)
        return not views

    def keep(self) -> None:
        views = self._views
        for index, view in enumerate(views):
            if not (view.readonly and isinstance(view.obj, bytes)):
                views[index] = memoryview(bytes(view))
                view.release()

    def release(self) -> None:
        for view in self._views:
            view.release()
        self._views.clear()

    def _count(self, sent: int) -> None:
        self.sent += sent
        self.remaining -= sent
        views = self._views
        while sent:
            view = views[0]
            if sent < view.nbytes:
                views[0] = view[sent:]
                return
            sent -= view.nbytes
            views.popleft()


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
        sock.shutdown(socket.SHUT_WR)
        return True

    def keep(self) -> None:
        pass

    def release(self) -> None:
        pass


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
        "_chunk",
        "_count",
        "_file",
        "_offset",
        "_own_fd",
        "_raw",
        "_seekable",
        "_use_sendfile",
        "sent",
        "waiter",
    )

    def __init__(self, file: IO[bytes], offset: int, count: int | None) -> None:
        self._file = file
        self._offset = offset
        self._count = count
        self._own_fd = -1
        self._chunk = memoryview(b"")
        self._raw = regular_file(file)
        self._use_sendfile = _CAN_SENDFILE and self._raw is not None
        self._seekable = self._raw is not None or file.seekable()
        if offset and not self._seekable:
            raise ValueError(f"offset={offset}: {file!r} is not seekable, and is read from where it stands")
        self.sent = 0
        self.waiter: Future[None] | None = None

    @property
    def begun(self) -> bool:
        return self.sent > 0

    @property
    def remaining(self) -> int:
        return 0 if self._count is None else self._count - self.sent

    def advance(self, sock: socket.SocketType) -> bool:
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
        try:
            fd = self._descriptor(self._raw)
            sent = os.sendfile(sock.fileno(), fd, self._offset + self.sent, self._share(_SENDFILE_STEP))
        except (BlockingIOError, ConnectionError):
            raise
        except (OSError, ValueError):
            # The kernel cannot send from this kind of file, or one of the two is at fault: doing it by hand
            # works, or tells which.
            self._use_sendfile = False
            return self._advance_by_reading(sock)
        self.sent += sent
        return sent == 0 or self.sent == self._count

    def _advance_by_reading(self, sock: socket.SocketType) -> bool:
        if not self._chunk:
            self._chunk = self._read(self._share(_CHUNK))
            if not self._chunk:
                return True
        sent = sock.send(self._chunk)
        self.sent += sent
        self._chunk = self._chunk[sent:]
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
