"""The load's connections: what each sends, what it must get back, and what happens when it does not.

Theory of operation
-------------------
A *client* here holds all N connections of a run in one dictionary and is told which are ready; it never waits
and knows nothing of time but what the clock says. One message is in flight on each connection (a closed loop:
the next request waits for the last reply, so a slow server is asked less often, and latencies say nothing of
what an open stream of arrivals would have met).

Every byte that comes back is compared at its place, and one byte more than is due is asked for, so that a
surplus is noticed too. Anything wrong (an errno, a wrong byte, an end before the reply) is counted under its
name, the connection is reset and opened again a little later: the run goes on, and its report shows the
count.

`EchoClient` keeps its connections; `AcceptClient` makes a new one for every request and leaves with a reset
(SO_LINGER 0), so that no TIME_WAIT uses up the ports of this machine.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import Counter, deque
from collections.abc import Callable

from ..wires.lingering import reset_on_close
from .histogram import LatencyHistogram
from .payloads import message_maker
from .polling import BROKEN, READABLE, WRITABLE, Poller

__all__ = ["AcceptClient", "Client", "EchoClient", "Tally"]

_REOPEN_DELAY = 10_000_000  # nanoseconds: a dead server is not asked flat out
_OPEN_AT_ONCE = 64  # per turn, so that thousands of connections do not overrun a server's backlog
_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


class Tally:
    """What was counted. Errors count from the first connection on, everything else from `begin()`."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self.histogram = LatencyHistogram()
        self.bytes_compared = 0

    def begin(self) -> None:
        """Forget the warm-up."""
        self.histogram = LatencyHistogram()
        self.bytes_compared = 0


class _Connection:
    __slots__ = ("connecting", "expected", "received", "socket", "started", "unsent")

    def __init__(self, connected_socket: socket.socket, started: int) -> None:
        self.socket = connected_socket
        self.connecting = True
        self.started = started
        self.expected = b""
        self.received = 0
        self.unsent: memoryview | None = None


class Client:
    """N connections to one address; `EchoClient` and `AcceptClient` differ in what follows a whole reply."""

    def __init__(
        self,
        address: tuple[str, int],
        connections: int,
        size: int,
        poller: Poller,
        tally: Tally,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.tally = tally
        self.opened = 0
        self._address = address
        self._family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._size = size
        self._poller = poller
        self._clock = clock
        self._next_message = message_maker(size)
        self._connections: dict[int, _Connection] = {}
        self._to_open: deque[int] = deque([0] * connections)  # when each may be opened

    # -- called by the loop ---------------------------------------------------------------------------------

    def open_due(self, now: int) -> None:
        """Open the connections whose time has come, a bounded number of them."""
        for _ in range(_OPEN_AT_ONCE):
            if not self._to_open or self._to_open[0] > now:
                return
            self._to_open.popleft()
            self._open()

    def on_event(self, fd: int, events: int) -> None:
        """One connection is ready."""
        connection = self._connections.get(fd)
        if connection is None:
            return  # closed earlier in the same batch
        try:
            if connection.connecting:
                self._finish_connecting(connection)
                return
            if connection.unsent is not None and events & WRITABLE:
                self._send_rest(connection, connection.unsent)
            if events & (READABLE | BROKEN):
                self._receive(connection)
        except BlockingIOError:
            pass  # a spurious wake-up
        except OSError as error:
            self._fail(connection, _kind_of(error))

    def finish(self, asked_before: int) -> None:
        """Close everything; a request sent before ``asked_before`` that is still unanswered is an error."""
        for connection in list(self._connections.values()):
            if connection.started < asked_before:
                self.tally.errors["no answer"] += 1
            self._close(connection)
        self._to_open.clear()

    # -- one connection -------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.opened += 1
        started = self._clock()
        try:
            new_socket = socket.socket(self._family, socket.SOCK_STREAM)
        except OSError as error:
            self._count_and_reopen(_kind_of(error))
            return
        try:
            new_socket.setblocking(False)
            new_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reset_on_close(new_socket)
            code = new_socket.connect_ex(self._address)
            if code not in _IN_PROGRESS:
                raise OSError(code, "connect")
            self._poller.register(new_socket.fileno(), WRITABLE)
        except OSError as error:
            new_socket.close()
            self._count_and_reopen(_kind_of(error))
            return
        self._connections[new_socket.fileno()] = _Connection(new_socket, started)

    def _finish_connecting(self, connection: _Connection) -> None:
        code = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "connect")
        connection.connecting = False
        self._poller.modify(connection.socket.fileno(), READABLE)
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        message = self._next_message()
        connection.expected = message
        connection.received = 0
        sent = connection.socket.send(message)
        if sent != len(message):
            connection.unsent = memoryview(message)[sent:]
            self._poller.modify(connection.socket.fileno(), READABLE | WRITABLE)

    def _send_rest(self, connection: _Connection, unsent: memoryview) -> None:
        unsent = unsent[connection.socket.send(unsent) :]
        connection.unsent = unsent if unsent else None
        if not unsent:
            self._poller.modify(connection.socket.fileno(), READABLE)

    def _receive(self, connection: _Connection) -> None:
        received = connection.received
        data = connection.socket.recv(self._size - received + 1)
        due = connection.expected[received:] if received else connection.expected
        if data == due:
            self.tally.bytes_compared += len(data)
            now = self._clock()
            self.tally.histogram.record(now - connection.started)
            self._replied(connection, now)
            return
        if not data:
            self._fail(connection, "early end")
            return
        self.tally.bytes_compared += min(len(data), len(due))
        if data != due[: len(data)]:
            self._fail(connection, "mismatch")
            return
        connection.received = received + len(data)

    def _replied(self, connection: _Connection, now: int) -> None:
        raise NotImplementedError

    def _fail(self, connection: _Connection, kind: str) -> None:
        self._close(connection)
        self._count_and_reopen(kind)

    def _count_and_reopen(self, kind: str) -> None:
        self.tally.errors[kind] += 1
        self._to_open.append(self._clock() + _REOPEN_DELAY)

    def _close(self, connection: _Connection) -> None:
        fd = connection.socket.fileno()
        del self._connections[fd]
        self._poller.unregister(fd)
        connection.socket.close()


class EchoClient(Client):
    """A whole reply is followed by the next message; latency is from send to whole reply."""

    def _finish_connecting(self, connection: _Connection) -> None:
        connection.started = self._clock()
        super()._finish_connecting(connection)

    def _replied(self, connection: _Connection, now: int) -> None:
        connection.started = now
        self._send(connection)


class AcceptClient(Client):
    """A whole reply is followed by a reset and a new connection; latency is from connect to whole reply."""

    def _replied(self, connection: _Connection, now: int) -> None:
        self._close(connection)
        self._open()


def _kind_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
