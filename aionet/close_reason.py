"""`CloseReason`: why a connection ended, by whom, and how far it had come."""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple, TypeAlias

from .tls_failure import TlsFailure

__all__ = ["CloseCause", "CloseReason", "Outcome", "Phase"]

Outcome: TypeAlias = Literal["completed", "failed", "disconnected", "cancelled", "cut", "rejected"]
Phase: TypeAlias = Literal["handshake", "serving", "closing"]


class CloseCause(enum.Enum):
    """Why a connection ended. Each has a label, who ended it, and the outcome that it counts as."""

    COMPLETED = "completed", "handler", "completed"
    """The handler returned."""
    PEER_ENDED = "ended by the peer", "peer", "completed"
    """The handler returned after it had read the end of the stream."""
    PEER_LOST = "lost", "peer", "disconnected"
    """The connection was reset, timed out, or ended in the middle of a message."""
    RESET = "reset by the handler", "handler", "disconnected"
    """The handler returned after the connection was reset on this side: by its `abort`, by a `relay`."""
    CLOSED = "closed under the handler", "server", "disconnected"
    """Some other task of this process closed the socket."""
    FAILED = "handler failed", "handler", "failed"
    """The handler raised."""
    CANCELLED = "handler cancelled", "handler", "cancelled"
    """The handler's task was cancelled by somebody else than its spawner."""
    DRAINED = "cancelled by the drain", "server", "cancelled"
    ABORTED = "aborted by the drain", "server", "cancelled"
    HANDSHAKE_FAILED = "handshake failed", "peer", "cut"
    """What comes before the handler went wrong: a PROXY header, a TLS handshake."""
    HANDSHAKE_TIMEOUT = "handshake took too long", "server", "cut"
    HANDSHAKE_EVICTED = "handshake evicted", "server", "cut"
    """It was the oldest handshake of the peer with the most, and there was no place for another one's."""
    IDLE = "idle", "server", "cut"
    READ_STALLED = "read stalled", "server", "cut"
    WRITE_STALLED = "write stalled", "server", "cut"
    HANDLER_TIMEOUT = "handler took too long", "server", "cut"
    PEER_GONE = "peer left while the handler worked", "peer", "cut"
    EVICTED = "evicted", "server", "cut"
    """Its place was needed for another one (`ConnectionLimits.on_full`)."""
    PENDING_BYTES = "too many bytes pending", "server", "cut"
    EXHAUSTED = "no resources", "server", "cut"
    """The process or the system had no descriptors, memory or epoll watches left for it."""
    TLS_RECORD_FLOOD = "too many TLS records without data", "server", "cut"
    """The peer sent key updates, tickets or the like, one after the other, and no data."""
    FULL = "no room", "server", "rejected"
    TOO_MANY_OF_PEER = "too many of this peer", "server", "rejected"
    TOO_FAST_OF_PEER = "too many a second of this peer", "server", "rejected"
    TOO_MANY_HANDSHAKES = "too many handshakes of this peer", "server", "rejected"
    RESET_EARLY = "reset before it was accepted", "peer", "rejected"
    """The peer had reset it before the server could take it, under a limit on the rate of connections."""

    def __init__(self, label: str, by: str, outcome: Outcome) -> None:
        self.label = label
        self.by = by
        self.outcome: Outcome = outcome
        self.number = len(type(self).__members__)
        """Its place among the causes: an index is a cheaper key than an enumeration's member."""

    def __str__(self) -> str:
        return self.label


class CloseReason(NamedTuple):
    """Why and how a connection ended."""

    cause: CloseCause
    phase: Phase
    """How far it had come."""
    errno: int | None
    """The system's number for what went wrong, where it had one."""
    bytes_read: int
    bytes_written: int
    unacknowledged: int | None
    """Bytes written that the peer's TCP had not acknowledged; ``None`` where that is not known.

    Over TLS they are the handler's, not those of the ciphertext."""
    age: float
    """Seconds since it was accepted."""
    idle: float | None
    """Seconds since the last byte in either direction; ``None`` where that is not known."""
    tls_failure: TlsFailure | None = None
    """What of a TLS handshake failed, if that is what ended it."""

    @property
    def by(self) -> str:
        """Who ended it: ``"handler"``, ``"peer"`` or ``"server"``."""
        return self.cause.by

    def __str__(self) -> str:
        cause = self.cause if self.tls_failure is None else f"{self.cause} ({self.tls_failure})"
        text = f"{cause} in {self.phase} after {self.age:.3f} s"
        return f"{text}, {self.bytes_read} bytes in, {self.bytes_written} bytes out"
