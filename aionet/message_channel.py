"""Messages, some with descriptors, between two processes of this machine.

Theory of operation
-------------------
A message is one line of JSON over a Unix stream socket; descriptors travel beside its first byte (SCM_RIGHTS,
unix(7)), and the kernel never joins the bytes after them to those before. Lines are short and few, so sending
does not wait: a peer that has left no room for one is not reading, and that is an error.

*Nobody is trusted more than needed.* A line has a longest length, and a receiver says how many descriptors it
takes, by default none: what arrives beyond that is closed by the kernel. Those that arrive close on exec, and
belong to the channel until they are asked for.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import SocketInheritedError
from .wires.forks import forks

__all__ = ["MessageChannel", "until_readable"]

_LONGEST = 1 << 18
_CHUNK = 1 << 16


async def until_readable(sock: socket.socket) -> None:
    """Return when there is something to read or to accept.

    Raises `SocketInheritedError` where a fork's child comes back from the wait.
    Cancel safety: nothing was read.
    """
    loop, begun_after = asyncio.get_running_loop(), forks()
    readable = asyncio.Event()
    fd = sock.fileno()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        if forks() == begun_after:  # else the loop's own epoll instance is the parent's, too
            loop.remove_reader(fd)
    if forks() != begun_after:
        raise SocketInheritedError(operation="read")


class MessageChannel:
    """One end of a connected Unix stream socket, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._forks = forks()
        self._received = bytearray()
        self._descriptors: list[int] = []

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send `message`, with copies of `descriptors`.

        Raises `ConnectionError` if the other end has gone, or has long not been reading, and
        `SocketInheritedError` in a fork's child.
        """
        self._refuse_if_inherited("write")
        line = json.dumps(message).encode() + b"\n"
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            sent = self.sock.sendmsg([line], beside if descriptors else [])
        except BlockingIOError:
            sent = 0
        if sent < len(line):
            raise ConnectionError("the other process does not read its messages")

    async def receive(self, *, most_descriptors: int = 0) -> dict[str, Any] | None:
        """Return the next message, ``None`` at the end; take up to `most_descriptors` descriptors with it.

        Raises `ConnectionError` for what is no message, and when the connection breaks;
        `SocketInheritedError` in a fork's child.
        Cancel safety: nothing is lost.
        """
        self._refuse_if_inherited("read")
        while b"\n" not in self._received:
            if len(self._received) > _LONGEST:
                raise ConnectionError("the other process sends a line without an end")
            await until_readable(self.sock)
            data = self._read(most_descriptors)
            if data is None:
                continue
            if not data:
                return None
            self._received += data
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):  # the second for what is nested too deeply
            message = None
        if not isinstance(message, dict):
            raise ConnectionError(f"the other process sent something other than a message: {line[:80]!r}")
        return message

    def take_descriptors(self) -> list[int]:
        """Return the descriptors that have come; they are the caller's from now on."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def _refuse_if_inherited(self, operation: str) -> None:
        if self._forks != forks():
            raise SocketInheritedError(operation=operation)

    def close(self) -> None:
        """Close this end, and the descriptors that nobody asked for."""
        self.sock.close()
        for fd in self.take_descriptors():
            os.close(fd)

    def _read(self, most_descriptors: int) -> bytes | None:
        """Return what is there, ``b""`` at the end, ``None`` if the wake-up was for nothing."""
        try:
            if not most_descriptors:
                return self.sock.recv(_CHUNK)
            room = socket.CMSG_SPACE(most_descriptors * array.array("i").itemsize)
            data, beside, flags, _ = self.sock.recvmsg(_CHUNK, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if flags & socket.MSG_CTRUNC:
            raise ConnectionError("the other process sent more descriptors than it may")
        return data
