"""What `ConnectionLimits` ask for, done for each connection of a spawner from its first moment to its last.

Theory of operation
-------------------
A spawner without such limits has no `LimitEnforcer` and pays nothing. With one, a connection is `admit`ted,
looked after, and forgotten. A cut is the decision that a connection ends: its cause is kept, and what follows
depends on it. Where the handler may have something to put in order it is cancelled, and the connection closes
gracefully, if nothing that it wrote is unfinished; where the peer is at fault, or the place is needed, the
connection is reset and the handler, if it waits for it, gets `SocketClosedError`.

Thousands of peers may leave at the same moment. Where handlers are cut for it, they are looked at by a timer
wheel, in slices as deadlines are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ..announcing import Log
from ..close_reason import CloseCause
from ..connection import Connection
from ..peers import peer_of
from ..signals import Signal
from ..wires.budget import END_UNITS
from .admission import PeerCounts
from .deadlines import Deadlines
from .handshakes import Handshakes
from .limits import ConnectionLimits
from .peer_rate import PeerRate
from .pending_bytes import PendingBytes
from .timer_wheel import TimerWheel

__all__ = ["LimitEnforcer"]

_log = Log("aionet.server")

_TIME_TO_READ = 0.1  # seconds in which a handler may find out for itself that its peer has left
_TICK = 0.02  # of the wheel that looks whether it has

_CANCEL = {CloseCause.IDLE, CloseCause.HANDLER_TIMEOUT, CloseCause.PEER_GONE}
_RESET = {CloseCause.READ_STALLED, CloseCause.WRITE_STALLED}
# All others both, because a task waits for what they hold, and a preface may wait for something else.


class LimitEnforcer:
    """Holds the connections of one spawner to its limits, on the running loop."""

    def __init__(
        self,
        limits: ConnectionLimits,
        note: Callable[[Connection[Any], CloseCause], object],
        *,
        handshakes: bool,
    ) -> None:
        """`note(connection, cause)` is called before a connection is cut, while its facts are still known."""
        self._note = note
        self._on_peer_gone = limits.on_peer_gone
        self._peers = None if limits.max_per_peer is None else PeerCounts(limits.max_per_peer)
        self._rate = None
        if limits.accept_rate_per_peer is not None:
            self._rate = PeerRate(limits.accept_rate_per_peer, asyncio.get_running_loop())
        self._pending = None
        if limits.max_pending_bytes is not None:
            self._pending = PendingBytes(limits.max_pending_bytes, self._free)
        self._left: dict[Connection[Any], int] = {}
        """Whose peer has gone, and how many bytes were read at the latest look."""
        self._left_wheel: TimerWheel[Connection[Any]] = TimerWheel(_TICK, self._look_whether_it_reads)
        self._observes = self._pending is not None or self._on_peer_gone != "ignore"
        self._deadlines = None
        if Deadlines.needed(limits, handshakes=handshakes):
            self._deadlines = Deadlines(limits, self.cut, handshakes=handshakes)

    @staticmethod
    def needed(limits: ConnectionLimits, *, handshakes: bool) -> bool:
        """Whether `limits` has anything to enforce for each connection."""
        return (
            limits.max_per_peer is not None
            or limits.accept_rate_per_peer is not None
            or (handshakes and Handshakes.needed(limits))
            or limits.max_pending_bytes is not None
            or limits.on_peer_gone != "ignore"
            or Deadlines.needed(limits, handshakes=handshakes)
        )

    @property
    def counts_peers(self) -> bool:
        """Whether a limit is for each peer; else the address, which takes longest to make, is not needed."""
        return self._peers is not None or self._rate is not None

    def refusal_of(self, peer: Any) -> CloseCause | None:
        """Return why there may not be one more connection of `peer`, if that is so."""
        if self._peers is not None and not self._peers.allows(peer):
            return CloseCause.TOO_MANY_OF_PEER
        if self._rate is not None and peer is not None and not self._rate.allows(peer):
            return CloseCause.TOO_FAST_OF_PEER
        return None

    def admit(self, connection: Connection[Any]) -> CloseCause | None:
        """The peer of `connection` is known now: count it, or return why there may not be one more."""
        if self.counts_peers and (refusal := self.refusal_of(peer_of(connection.socket.peer_address))):
            return refusal
        self.count(connection)
        if self._deadlines is not None:
            self._deadlines.on_peer_known(connection)
        return None

    def count(self, connection: Connection[Any]) -> None:
        """Count `connection`, for which there is no refusal, as one of its peer."""
        if self._peers is not None:
            self._peers.admit(connection)
        if self._rate is not None and (peer := peer_of(connection.socket.peer_address)) is not None:
            self._rate.take(peer)

    def begin(self, connection: Connection[Any]) -> None:
        """Look after `connection` from now on."""
        if self._deadlines is not None:
            self._deadlines.add(connection)
        if self._observes:
            wire = connection.socket._wire
            if self._pending is not None:
                self._pending.add(connection)
            connection._enforcer = self
            wire._observer = connection
            if self._on_peer_gone != "ignore":
                connection.socket._peer_gone = Signal()
                wire.watch_peer()

    def end(self, connection: Connection[Any]) -> None:
        """`connection` has ended."""
        if self._observes:
            connection.socket._wire._observer = None
            if self._left.pop(connection, None) is not None:
                self._left_wheel.discard(connection)
        if self._deadlines is not None:
            self._deadlines.discard(connection)
        if self._peers is not None:
            self._peers.discard(connection)
        if self._pending is not None:
            self._pending.discard(connection)

    def cut(self, connection: Connection[Any], cause: CloseCause) -> None:
        """End `connection` for `cause`, unless it is being ended already."""
        if connection._cause is not None:
            return
        self._note(connection, cause)
        connection._cause = cause
        peer, named = (
            connection.socket.peer_address,
            {"connection_id": connection.id},
        )  # no task of its own runs
        level = logging.DEBUG if cause is CloseCause.EVICTED else logging.INFO  # a flood evicts all day long
        _log.log(level, "connection from %s cut: %s", peer, cause, kind=cause, extra=named)
        if cause is CloseCause.HANDLER_TIMEOUT:
            connection.socket._wire.note_interruption()
        if cause not in _CANCEL:
            connection.socket.abort()
        if cause not in _RESET and connection._task is not None:
            connection._task.cancel(f"connection cut: {cause}")

    def _free(self, connection: Connection[Any]) -> None:
        self.cut(connection, CloseCause.PENDING_BYTES)
        connection.socket.abort()  # whatever else ends it, its bytes are to go now

    def cut_most_idle(self) -> bool:
        """Make room at the cost of an idle connection (see `IdleOrder`); whether there is one."""
        connection = None if self._deadlines is None else self._deadlines.most_idle()
        if connection is not None:
            self.cut(connection, CloseCause.EVICTED)
        return connection is not None

    def close(self) -> None:
        """All have ended."""
        self._left_wheel.close()
        if self._pending is not None:
            self._pending.close()
        if self._deadlines is not None:
            self._deadlines.close()
        if self._rate is not None:
            self._rate.close()

    def on_peer_gone(self, connection: Connection[Any]) -> None:
        """Do what is to be done when a peer leaves; it may be told several times."""
        gone = connection.socket.peer_gone
        if not gone and self._on_peer_gone == "cancel":
            self._left[connection] = connection.socket.bytes_read
            self._left_wheel.add(connection, _TIME_TO_READ)
        gone.set()

    def _look_whether_it_reads(self, connection: Connection[Any]) -> float | None:
        """A handler that reads, though slowly, comes to the end by itself; return when to look again."""
        wire = connection.socket._wire
        if wire.closed or wire.peer_ended or wire.lost is not None or wire.waits_for_input:
            return None
        if wire.bytes_read == self._left[connection]:
            self._left_wheel.slice.take(END_UNITS)
            self.cut(connection, CloseCause.PEER_GONE)
            return None
        self._left[connection] = wire.bytes_read
        return _TIME_TO_READ

    def on_unsent(self, connection: Connection[Any], count: int) -> None:
        """The wire of `connection` holds `count` bytes for its peer."""
        if self._pending is not None:
            self._pending.note(connection, count)

    def on_buffered(self, connection: Connection[Any], count: int) -> None:
        """The socket's buffer of `connection` holds `count` bytes of its peer's."""
        if self._pending is not None:
            self._pending.note_buffered(connection, count)
