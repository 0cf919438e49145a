"""The deadlines of connections: looked at now and then, in place of a timer for each.

Theory of operation
-------------------
Nothing is noted when bytes move: that would cost something for every message. Instead each connection is
looked at a dozen times within its shortest deadline, and its counters are compared with those of the last
look. So it is known to a twelfth of the deadline when something last moved, and a connection that is cut is
cut late by that much at the most, and never early.

What counts as progress:

    idle            bytes in either direction
    read stall      bytes given to a read that waits; those that pile up for a `read_line` are none
    write stall     bytes taken by the kernel of a write that waits
    handshake, handler      nothing: they are of the whole

*Expiring together.* Thousands of connections may be due in the same tick. The wheel goes through them in
slices (`wires/slices.py`), of which a cut takes its part; so the last of ten thousand is cut some tenths of a
second after the first.

*Evicting.* Where the place of an idle connection may be needed, what looks find out is kept in order
(`idle_order.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

from ..close_reason import CloseCause
from ..connection import Connection
from ..wires.budget import END_UNITS
from .idle_order import IdleOrder
from .limits import ConnectionLimits
from .timer_wheel import TimerWheel

__all__ = ["Deadlines"]

_LOOKS = 12  # within the shortest deadline
_TICKS = 4  # between two looks
_HARD = 1.0  # seconds that a connection has to end after it was cut, before it is reset
_IDLE_LOOK = 1.0  # seconds between looks where only the order of idleness is of interest

_AnyConnection: TypeAlias = Connection[Any]


class _Seen:
    """What the last look at a connection saw, and since when."""

    __slots__ = ("delivered", "moved", "moved_at", "reading_since", "sent", "writing_since")

    def __init__(self, now: float) -> None:
        self.moved = 0
        self.moved_at = now
        self.delivered = -1
        self.reading_since = now
        self.sent = -1
        self.writing_since = now


class Deadlines:
    """Cuts connections that exceed a deadline of `limits`, by calling `cut(connection, cause)`."""

    def __init__(
        self,
        limits: ConnectionLimits,
        cut: Callable[[_AnyConnection, CloseCause], object],
        *,
        handshakes: bool,
    ) -> None:
        self._limits = limits
        self._cut = cut
        self._time = asyncio.get_running_loop().time
        shortest = min(_seconds_of(limits, handshakes=handshakes), default=_IDLE_LOOK * _LOOKS)
        self._period = shortest / _LOOKS
        self._wheel: TimerWheel[_AnyConnection] = TimerWheel(self._period / _TICKS, self._look)
        self._seen: dict[_AnyConnection, _Seen | None] = {}
        self._order = IdleOrder() if limits.on_full == "evict_idle" else None

    @staticmethod
    def needed(limits: ConnectionLimits, *, handshakes: bool) -> bool:
        """Whether `limits` has anything to look for."""
        return any(_seconds_of(limits, handshakes=handshakes)) or limits.on_full == "evict_idle"

    def add(self, connection: _AnyConnection) -> None:
        """Look after `connection` from now on."""
        self._seen[connection] = None  # most connections of a busy server end before the first look
        self._wheel.add(connection, self._period, connection.started)
        if self._order is not None:
            self._order.add(connection, connection.started)

    def on_peer_known(self, connection: _AnyConnection) -> None:
        """A proxy has named the peer of `connection`."""
        if self._order is not None:
            self._order.move(connection)

    def discard(self, connection: _AnyConnection) -> None:
        """`connection` has ended."""
        self._seen.pop(connection, None)
        self._wheel.discard(connection)
        if self._order is not None:
            self._order.discard(connection)

    def most_idle(self) -> _AnyConnection | None:
        """Return the connection that is to give way (see `IdleOrder`); it is returned once."""
        if self._order is None:
            return None
        now = self._time()
        return self._order.pick(now, partial(self._last_moved, now=now))

    def close(self) -> None:
        """Stop looking."""
        self._wheel.close()
        self._seen.clear()

    def _look(self, connection: _AnyConnection) -> float | None:
        """Cut it or leave it; return in how many seconds to look again."""
        if connection.phase == "closing":  # which has a deadline of its own
            return None
        if connection._cause is not None:  # it was cut, and its handler has not ended
            self._wheel.slice.take(END_UNITS)
            connection.socket.abort()
            return None
        now = self._time()
        next_look = self._period
        for ends, cause in self._due(connection, self._what_was_seen(connection), now):
            if ends <= now:
                self._wheel.slice.take(END_UNITS)
                self._cut(connection, cause)
                return _HARD
            next_look = min(next_look, ends - now)
        return next_look

    def _what_was_seen(self, connection: _AnyConnection) -> _Seen:
        seen = self._seen[connection]
        if seen is None:
            seen = self._seen[connection] = _Seen(connection.started)
        return seen

    def _due(self, connection: _AnyConnection, seen: _Seen, now: float) -> Iterator[tuple[float, CloseCause]]:
        """Yield when each deadline ends, as far as anything is known by now."""
        limits = self._limits
        if connection.phase == "handshake":
            if limits.handshake_timeout is not None:
                yield connection.started + limits.handshake_timeout, CloseCause.HANDSHAKE_TIMEOUT
            return
        if limits.handler_timeout is not None:
            yield connection.started + limits.handler_timeout, CloseCause.HANDLER_TIMEOUT
        moved_at = self._last_moved(connection, now)
        if limits.read_stall_timeout is not None:
            yield _reading_since(connection, seen, now) + limits.read_stall_timeout, CloseCause.READ_STALLED
        if limits.write_stall_timeout is not None:
            yield _writing_since(connection, seen, now) + limits.write_stall_timeout, CloseCause.WRITE_STALLED
        if limits.idle_timeout is not None:
            yield moved_at + limits.idle_timeout, CloseCause.IDLE

    def _last_moved(self, connection: _AnyConnection, now: float) -> float:
        """When it was last seen to have moved bytes."""
        seen, wire = self._what_was_seen(connection), connection.socket._wire
        moved = wire.bytes_read + wire.bytes_written
        if moved != seen.moved:
            seen.moved = moved
            seen.moved_at = now
            if self._order is not None:
                self._order.update(connection, now - (wire.facts()[1] or 0.0))
        return seen.moved_at


def _reading_since(connection: _AnyConnection, seen: _Seen, now: float) -> float:
    wire, received = connection.socket._wire, connection.socket._received
    delivered = wire.bytes_read - len(received or ()) if wire.waits_for_input else -1
    if delivered != seen.delivered or delivered == -1:
        seen.delivered = delivered
        seen.reading_since = now
    return seen.reading_since


def _writing_since(connection: _AnyConnection, seen: _Seen, now: float) -> float:
    wire = connection.socket._wire
    sent = wire.bytes_written if wire.waits_for_room else -1
    if sent != seen.sent or sent == -1:
        seen.sent = sent
        seen.writing_since = now
    return seen.writing_since


def _seconds_of(limits: ConnectionLimits, *, handshakes: bool) -> Iterator[float]:
    deadlines = (
        limits.idle_timeout,
        limits.read_stall_timeout,
        limits.write_stall_timeout,
        limits.handler_timeout,
        limits.handshake_timeout if handshakes else None,
    )
    return (seconds for seconds in deadlines if seconds is not None)
