"""Closing without destroying the last reply.

Theory of operation
-------------------
A close(2) with input unread, or input that arrives after it, makes the kernel answer with RST, and a reply
that is still on its way is lost with it. So this side is ended first (FIN), then input is read and thrown
away until the peer has ended too or its TCP has acknowledged the reply: the two endings that RFC 9112, 9.6
names. Whoever closes calls `settled` again after each input or pause, and closes when it says yes or the time
is up.

A connection with unsent bytes must not end with a FIN, after which a truncated stream looks whole (RFC 9112,
8). While bytes are unsent, SO_LINGER with a time of 0 is set, so that the kernel resets the connection even
where no code of ours runs any more: the collector closes the descriptor, or the process is killed.

A stream that is *broken off*, because a part of what was sent or received is gone (there was no memory to
keep it), is the opposite: its peer is to see a reset. The kernel is asked for that at once, and the loss has
an object of its own, made beforehand.
"""

from __future__ import annotations

import errno
import socket
import struct

from .delivery import unacknowledged_bytes

__all__ = [
    "BROKEN_OFF",
    "PAUSES",
    "RESET_HERE",
    "close_as_before",
    "reset_on_close",
    "reset_whatever_closes",
    "settled",
]

BROKEN_OFF = OSError(errno.EIO, "a part of what was sent or received is gone")
"""What a connection that is broken off is lost by."""

RESET_HERE = OSError(errno.EBADF, "this side has reset the connection")
"""What a connection is lost by that was aborted. With the errno of a closed descriptor what is tried later is
refused as after any other close."""

PAUSES = (0.005, 0.02, 0.05)
"""Seconds between looks at what the peer has acknowledged; the last one repeats."""

_RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds (socket(7))
_DISCARD = 64 * 1024
_ROUNDS = 16  # of input thrown away in one look: a peer that floods must not hold the loop


def reset_on_close(sock: socket.SocketType) -> None:
    """Have close(2) reset the connection, and drop what was not sent. Raises `OSError` if it cannot."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def reset_whatever_closes(sock: socket.SocketType) -> bytes:
    """Have whatever closes `sock` reset the connection, the end of the process included.

    Returns what `close_as_before` takes. Raises `OSError` if it cannot.
    """
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET))
    reset_on_close(sock)
    return before


def close_as_before(sock: socket.SocketType, before: bytes) -> None:
    """Undo `reset_whatever_closes`. Raises `OSError` if it cannot."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, before)


def settled(sock: socket.SocketType) -> bool:
    """End this side, throw input away; true when closing can no longer destroy what was written."""
    try:
        if sock.family == socket.AF_UNIX:
            # What was written is with the peer already. Input that is refused cannot be left unread.
            sock.shutdown(socket.SHUT_RDWR)
        else:
            sock.shutdown(socket.SHUT_WR)
        for _ in range(_ROUNDS):
            if not sock.recv(_DISCARD):
                return True
    except BlockingIOError:
        return _acknowledged(sock)
    except OSError:  # reset or gone: there is nothing left to protect
        return True
    return False


def _acknowledged(sock: socket.SocketType) -> bool:
    try:
        return unacknowledged_bytes(sock.fileno(), fin_sent=True) == 0
    except NotImplementedError:
        return True
