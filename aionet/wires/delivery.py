"""What the kernel knows of delivery: how much the peer's TCP has acknowledged, and when it does.

Theory of operation
-------------------
*How much.* ``SIOCOUTQ`` (tcp(7)) counts the bytes from the last one acknowledged to the last one written.
It counts a FIN as a byte, which is subtracted once the FIN was sent.

*When.* Linux queues a message on a socket's error queue when the last byte of a `send` has been acknowledged,
if ``SO_TIMESTAMPING`` asks for it before that `send`
(https://docs.kernel.org/networking/timestamping.html). The option is switched on by the first wait of a
socket and only there: it costs a message for each `send`, which the reactor reports as an error of a healthy
socket (EPOLLERR) and the wire takes off the queue. Bytes sent before that raise no event, so a wait always
also looks by itself, with a growing pause; other systems have the pause only.

*Whether at all.* ``TCP_INFO`` tells that a connection is gone without taking its error away from whoever
reads or writes next.
"""

from __future__ import annotations

import asyncio
import socket
import sys

try:
    import fcntl
    import termios
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "AcknowledgementWait",
    "connection_is_gone",
    "discard_error_queue",
    "enable_acknowledgement_events",
    "unacknowledged_bytes",
]

_LINUX = sys.platform == "linux"

# From linux/net_tstamp.h and asm-generic/socket.h; the socket module does not have them.
_SO_TIMESTAMPING = 37
_TX_SOFTWARE_NOTIFY = (1 << 4) | (1 << 7) | (1 << 9) | (1 << 11)  # SOFTWARE | OPT_ID | TX_ACK | OPT_TSONLY

_TCP_CLOSE = 7  # tcpi_state, the first byte of struct tcp_info (linux/tcp.h, net/tcp_states.h)

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.1


def unacknowledged_bytes(fd: int, *, fin_sent: bool) -> int:
    """Return how many bytes written to the socket `fd` its peer's TCP has not acknowledged.

    Raises `NotImplementedError` where the system does not tell.
    """
    if not _LINUX or fcntl is None:
        raise NotImplementedError(
            f"counting unacknowledged bytes needs SIOCOUTQ as on Linux; {sys.platform} does not have it"
        )
    queued = int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
    return max(queued - fin_sent, 0)


def connection_is_gone(sock: socket.SocketType) -> bool:
    """Whether the kernel has given the connection up, without consuming its error."""
    return _LINUX and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE


def enable_acknowledgement_events(sock: socket.SocketType) -> bool:
    """Ask for an event when bytes sent from now on are acknowledged; false where there is no such thing."""
    if not _LINUX:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _TX_SOFTWARE_NOTIFY)
    except OSError:  # an old or a sandboxed kernel: the pause alone will do
        return False
    return True


def discard_error_queue(sock: socket.SocketType) -> None:
    """Take the queued events off `sock`; what they tell, `unacknowledged_bytes` tells as well."""
    try:
        while True:
            sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
    except OSError:  # EAGAIN: empty. Anything else is for the next read or write to report.
        pass


class AcknowledgementWait:
    """Waits until `wake` is called at an event, or a growing pause has passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pause = _FIRST_PAUSE
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Return at the next event, or after the pause."""
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(self._pause, self.wake)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def wake(self) -> None:
        """Let `wait` return now."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
