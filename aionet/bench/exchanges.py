"""The load in plain Python, for where the engine was not compiled: the same as `aionet/native/load.h`.

Theory of operation
-------------------
A `PythonLoad` holds N connections and drives them from one poller, spinning (or sleeping up to a millisecond,
where it must share the server's only cpu). Without a rate the loop is *closed*: one request is in flight on
each connection, and the next follows its reply, so a slow server is asked less often, and latencies say
nothing of what an open stream of arrivals would have met. With a rate it is *open*: requests fall due at even
intervals, the connection that is free longest takes the one that is due longest, and latency counts from when
it was due; what has no reply in the end is recorded with the time it has waited so far.

While connections are opened, those that have had their first reply rest, and do not stand in the way of
others.

Every byte that comes back is compared at its place, and one byte more than is due is asked for, so that a
surplus is noticed too. Anything wrong (an errno, a wrong byte, an end before the reply) is counted under its
name, the connection is reset and opened again a little later: the run goes on, and its report shows the
count.

What a workload does is in its `_Exchange`: whether its connections stay, what they do once they are
connected, and what must come back. `accept` leaves with a reset (SO_LINGER 0), so that no TIME_WAIT uses up
the ports of this machine; `connect` cannot, and so connections start from several addresses of 127.0.0.0/8.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import ClassVar

from ..wires.lingering import reset_on_close
from .histogram import LatencyHistogram
from .payloads import STREAM_BYTES, STREAM_PERIOD, message_maker
from .polling import BROKEN, READABLE, WRITABLE, Poller, make_poller

__all__ = ["PythonLoad"]

_REOPEN_DELAY = 10_000_000  # nanoseconds: a dead server is not asked flat out
_OPENING = 128  # connections that are opened and not served yet: fewer than any backlog
_EVENTS_AT_ONCE = 256
_WAIT = 0.001  # seconds
_SECOND = 1_000_000_000
_BIND_ADDRESS_NO_PORT = 24  # ip(7)
_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


class _Connection:
    __slots__ = (
        "asking",
        "completed",
        "connecting",
        "expected",
        "offset",
        "queued",
        "received",
        "served",
        "slot",
        "socket",
        "started",
        "unsent",
    )

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.socket: socket.socket | None = None
        self.connecting = self.asking = self.served = self.queued = False
        self.started = self.completed = self.received = self.offset = 0
        self.expected = b""
        self.unsent: memoryview | None = None


class PythonLoad:
    """N connections to one address that do one workload. The arguments are those of the compiled `Load`."""

    def __init__(
        self,
        workload: str,
        host: str,
        port: int,
        connections: int,
        size: int,
        rate: float = 0.0,
        sources: int = 0,
        wait: bool = False,
    ) -> None:
        self.requests = self.bytes_compared = self.overdue = self.idle = self.served = 0
        self.stays = workload not in ("accept", "connect")
        self.size = size if self.stays else 1
        self._exchange = _EXCHANGES[workload](self)
        self._histogram = LatencyHistogram()
        self._errors: Counter[int | str] = Counter()
        self._address: tuple[str, int] | str = (host, port) if port else host
        self._family = _family(host, port)
        loopback = self._family == socket.AF_INET and host.startswith("127.")
        self._sources = sources if loopback and sys.platform == "linux" else 0  # elsewhere 127.0.0.1 is alone
        self._interval = round(_SECOND / rate) if rate else 0
        self._wait = wait
        self._poller: Poller = make_poller()
        self._connections = [_Connection(slot) for slot in range(connections)]
        self._by_fd: dict[int, _Connection] = {}
        self._closed = deque(self._connections)  # to be opened, when `started` has come
        self._free: deque[_Connection] = deque()  # ready for a request: of an open loop, or at rest
        self._opening = 0
        self._resting = False  # while others are opened
        self._next_due = 0
        self._driven_until = 0
        self._rested = 0  # between the times in which it was driven
        self.next_message = message_maker(self.size)

    # -- what drives it -------------------------------------------------------------------------------------

    def drive(self, seconds: float, until_served: bool = False, /) -> None:
        """Put the load on for so many seconds, or until each connection has had a reply."""
        if self._driven_until:
            self._rested += self.clock() - self._driven_until
        now = self.clock()
        end = now + round(seconds * _SECOND)
        if until_served and self._interval and not self.stays:
            return  # its connections are requests, and not due yet
        self._resting = until_served and self.stays
        if not until_served and not self._next_due:
            self._next_due = now
        if not until_served and not self._interval:
            self._ask_all()
        poll, by_fd = self._poller.poll, self._by_fd
        while now < end and not (until_served and self.served >= len(self._connections)):
            busy = bool(self._closed) and self._open_due(now)
            if self._interval and not until_served:
                busy = self._ask_due(now) or busy
            events = poll(0.0 if busy else self._timeout(now), _EVENTS_AT_ONCE)
            for fd, bits in events:
                connection = by_fd.get(fd)
                if connection is not None:  # not closed earlier in the same batch
                    self._on_event(connection, bits)
            after = self.clock()
            if not events and not busy:
                self.idle += after - now
            now = after
        self._driven_until = now

    def begin(self) -> None:
        """Forget what was counted, but for errors."""
        self._histogram = LatencyHistogram()
        self.requests = self.bytes_compared = self.idle = 0
        for connection in self._connections:
            connection.completed = 0

    def finish(self, patience: float, /) -> None:
        """Close all connections, and count what had no answer for so many seconds."""
        now = self._driven_until  # where its clock stands
        for connection in self._connections:
            asked = connection.socket is not None and (connection.asking or connection.connecting)
            if asked and self._interval:
                self._record_overdue(now - connection.started)
            elif asked and self._exchange.answers and now - connection.started >= patience * _SECOND:
                self._errors["no answer"] += 1
            self._close(connection)
        while self._interval and self._next_due and self._next_due <= now:
            self._record_overdue(now - self._next_due)
            self._next_due += self._interval

    def close(self) -> None:
        """Let go of everything."""
        for connection in self._connections:
            self._close(connection)
        self._poller.close()

    def clock(self) -> int:
        """Nanoseconds; it stands still while nobody drives."""
        return time.perf_counter_ns() - self._rested

    # -- what was counted -----------------------------------------------------------------------------------

    def errors(self) -> dict[int | str, int]:
        """How often what went wrong, by errno or name."""
        return dict(self._errors)

    def histogram(self) -> dict[str, object]:
        """Latencies, as `LatencyHistogram.from_json` reads them."""
        return self._histogram.to_json()

    def service(self) -> tuple[int, int, int]:
        """The fewest and most requests of a connection, and how many had less than a tenth of the mean."""
        completed = [connection.completed for connection in self._connections]
        tenth = self.requests / len(completed) / 10
        return min(completed), max(completed), sum(count < tenth for count in completed)

    def _record_overdue(self, waited: int) -> None:
        self._histogram.record(waited)
        self.overdue += 1

    # -- what falls due -------------------------------------------------------------------------------------

    def _open_due(self, now: int) -> bool:
        opened = False
        for _ in range(_OPENING):
            if not self._closed or self._opening >= _OPENING or self._closed[0].started > now:
                break
            connection = self._closed.popleft()
            opened = True
            if self.stays:
                self._open(connection)
            elif not self._interval:
                self._ask(connection, self.clock())
            else:
                self._offer(connection)
        return opened

    def _ask_due(self, now: int) -> bool:
        asked = False
        while self._next_due <= now and self._free:
            connection = self._free.popleft()
            connection.queued = False
            if self.stays and (connection.socket is None or connection.connecting or connection.asking):
                continue  # it broke, and comes back when it was opened again
            self._ask(connection, self._next_due)
            self._next_due += self._interval
            asked = True
        return asked

    def _ask_all(self) -> None:
        """End the rest of a closed loop."""
        while self._free:
            connection = self._free.popleft()
            connection.queued = False
            if connection.socket is not None and not connection.connecting and not connection.asking:
                self._ask(connection, self.clock())

    def _timeout(self, now: int) -> float:
        soon = self._interval and self._next_due - now < _WAIT * _SECOND
        return _WAIT if self._wait and not soon else 0.0

    def _offer(self, connection: _Connection) -> None:
        if not connection.queued:
            self._free.append(connection)
        connection.queued = True

    def _ask(self, connection: _Connection, due: int) -> None:
        connection.started = due
        if self.stays:
            self._guarded(connection, self._exchange.ask)
        else:
            self._open(connection)

    # -- one connection -------------------------------------------------------------------------------------

    def _open(self, connection: _Connection) -> None:
        connection.connecting, connection.asking = True, False
        connection.received = connection.offset = 0
        connection.unsent = None
        if self.stays and not connection.served:
            self._opening += 1
        self._guarded(connection, self._connect)

    def _connect(self, connection: _Connection) -> None:
        sock = connection.socket = socket.socket(self._family, socket.SOCK_STREAM)
        self._by_fd[sock.fileno()] = connection
        sock.setblocking(False)
        if self._family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._exchange.resets:
                reset_on_close(sock)
            if self._sources:
                sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind((f"127.0.0.{2 + connection.slot % self._sources}", 0))
        code = sock.connect_ex(self._address)
        self._poller.register(sock.fileno(), WRITABLE)
        if code not in _IN_PROGRESS:
            raise OSError(code, "connect")

    def _on_event(self, connection: _Connection, bits: int) -> None:
        if connection.connecting:
            self._guarded(connection, self._finish_connecting)
        elif bits & WRITABLE and connection.unsent is not None:
            self._guarded(connection, self.send_rest)
        if bits & (READABLE | BROKEN) and connection.socket is not None and not connection.connecting:
            receive = self._exchange.receive if connection.asking else self._receive_unasked
            self._guarded(connection, receive)

    def _guarded(self, connection: _Connection, step: Callable[[_Connection], None]) -> None:
        try:
            step(connection)
        except BlockingIOError:
            pass  # a spurious wake-up, or no room
        except OSError as error:
            self._fail(connection, error.errno or 0)

    def _finish_connecting(self, connection: _Connection) -> None:
        assert connection.socket is not None
        code = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "connect")
        connection.connecting = False
        self._poller.modify(connection.socket.fileno(), READABLE)
        if self.stays:
            connection.started = self.clock()  # only the other workloads count connecting
        connection.asking = True
        self._exchange.ask(connection)

    def _receive_unasked(self, connection: _Connection) -> None:
        assert connection.socket is not None
        self._fail(connection, "mismatch" if connection.socket.recv(1) else "early end")

    def send(self, connection: _Connection, message: bytes) -> None:
        """Send a message, of which the reply is due."""
        connection.asking, connection.received, connection.expected = True, 0, message
        connection.unsent = memoryview(message)
        self.send_rest(connection)

    def send_rest(self, connection: _Connection) -> None:
        """Send what was not sent; ask for word of room if some is left."""
        assert connection.socket is not None
        assert connection.unsent is not None
        whole_before = len(connection.unsent) == len(connection.expected)
        try:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            pass
        if not connection.unsent:
            connection.unsent = None
            if not whole_before:
                self._poller.modify(connection.socket.fileno(), READABLE)
        elif whole_before:
            self._poller.modify(connection.socket.fileno(), READABLE | WRITABLE)

    def replied(self, connection: _Connection, now: int) -> None:
        """A whole reply came."""
        self._histogram.record(now - connection.started)
        self.requests += 1
        connection.completed += 1
        connection.asking = False
        self.note_served(connection)
        if not self.stays:
            self._close(connection)
        if self._exchange.only_once:
            return
        if not self._interval and not self._resting:
            self._ask(connection, now if self.stays else self.clock())
        else:
            self._offer(connection)

    def note_served(self, connection: _Connection) -> None:
        """The first word of the server has come on this connection."""
        if not connection.served:
            connection.served = True
            self.served += 1
            self._opening -= self.stays

    def fail(self, connection: _Connection, kind: str) -> None:
        """Something other than what was due has come."""
        self._fail(connection, kind)

    def _fail(self, connection: _Connection, kind: int | str) -> None:
        self._errors[kind] += 1
        self._close(connection)
        connection.started = self.clock() + _REOPEN_DELAY
        self._closed.append(connection)

    def _close(self, connection: _Connection) -> None:
        if self.stays and not connection.served and (connection.connecting or connection.asking):
            self._opening -= 1
        connection.connecting = connection.asking = False
        sock, connection.socket = connection.socket, None
        if sock is not None:
            del self._by_fd[sock.fileno()]
            try:
                self._poller.unregister(sock.fileno())
            except (OSError, KeyError):
                pass  # it failed before it was registered
            sock.close()


# -- the workloads ------------------------------------------------------------------------------------------


class _Exchange:
    """What one workload does on a connection. `echo` is the plain case."""

    resets: ClassVar[bool] = True  # whether closing resets
    answers: ClassVar[bool] = True  # whether each request has an answer
    only_once: ClassVar[bool] = False

    def __init__(self, load: PythonLoad) -> None:
        self.load = load

    def ask(self, connection: _Connection) -> None:
        """Begin a request on a connection that is established."""
        self.load.send(connection, self.load.next_message())

    def receive(self, connection: _Connection) -> None:
        """Take input and compare it."""
        assert connection.socket is not None
        received = connection.received
        data = connection.socket.recv(self.load.size - received + 1)
        due = connection.expected[received:] if received else connection.expected
        if data == due:
            self.load.bytes_compared += len(data)
            self.load.replied(connection, self.load.clock())
        elif not data:
            self.load.fail(connection, "early end")
        elif data != due[: len(data)]:
            self.load.fail(connection, "mismatch")
        else:
            self.load.bytes_compared += len(data)
            connection.received = received + len(data)


class _Connect(_Exchange):
    """End, and wait for the other side's end."""

    resets = False

    def ask(self, connection: _Connection) -> None:
        assert connection.socket is not None
        connection.socket.shutdown(socket.SHUT_WR)

    def receive(self, connection: _Connection) -> None:
        assert connection.socket is not None
        if connection.socket.recv(1):
            self.load.fail(connection, "mismatch")
        else:
            self.load.replied(connection, self.load.clock())


class _Bulk(_Exchange):
    """Take a stream that the server sends without end; a request is one of its chunks."""

    answers = False
    _expected = bytes(range(STREAM_PERIOD)) * (STREAM_BYTES // STREAM_PERIOD + 2)

    def ask(self, connection: _Connection) -> None:
        pass

    def receive(self, connection: _Connection) -> None:
        assert connection.socket is not None
        data = connection.socket.recv(STREAM_BYTES)
        start = connection.offset % STREAM_PERIOD
        if not data:
            self.load.fail(connection, "early end")
        elif data != self._expected[start : start + len(data)]:
            self.load.fail(connection, "mismatch")
        else:
            before = connection.offset // self.load.size
            connection.offset += len(data)
            chunks = connection.offset // self.load.size - before
            connection.completed += chunks
            self.load.requests += chunks
            self.load.bytes_compared += len(data)
            self.load.note_served(connection)


class _Idle(_Exchange):
    """One message, and then nothing."""

    only_once = True


_EXCHANGES: dict[str, type[_Exchange]] = {
    "echo": _Exchange,
    "accept": _Exchange,
    "connect": _Connect,
    "bulk": _Bulk,
    "idle": _Idle,
}


def _family(host: str, port: int) -> socket.AddressFamily:
    if port:
        return socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.AF_UNIX
