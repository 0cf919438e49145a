"""`SpawnerStats`: what a spawner has counted.

Theory of operation
-------------------
One counter for each `CloseCause`, in a list by the cause's number, is all that an ending connection pays for.
Everything else is added up when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .close_reason import CloseCause
from .tls_failure import TlsFailure

__all__ = ["SpawnerStats", "TlsCounts", "stats_of"]


@dataclass(frozen=True, slots=True)
class SpawnerStats:
    """Counts since the spawner was made. ``accepted`` is the sum of all the others, less `causes`."""

    accepted: int
    active: int
    """Being served now."""
    completed: int
    """Handlers that returned."""
    failed: int
    """Handlers that raised."""
    disconnected: int
    """Handlers that ended because their peer had gone, or their socket was closed under them, or that reset
    their connection."""
    cancelled: int
    """Handlers that were cancelled."""
    cut: int = 0
    """Connections that one of the limits ended, or that lacked resources."""
    rejected: int = 0
    """Connections that were turned away before a handler saw them."""
    causes: Mapping[CloseCause, int] = field(default_factory=dict, compare=False)
    """The same by cause; those that never occurred are left out."""
    bytes_read: int | None = None
    """By all connections together; ``None`` without `count_traffic`."""
    bytes_written: int | None = None
    tls_handshakes: int = 0
    """TLS handshakes that succeeded."""
    tls_failures: Mapping[TlsFailure, int] = field(default_factory=dict, compare=False)
    """TLS handshakes that failed, by why; those that never occurred are left out."""

    def counters(self) -> dict[str, int]:
        """Return the plain counts by their names, as other processes are told them."""
        named = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in named if isinstance(value, int)}


class TlsCounts:
    """What a spawner counts of TLS."""

    def __init__(self, handshakes: int = 0, failures: Mapping[TlsFailure, int] | None = None) -> None:
        self.handshakes = handshakes
        self.failures = dict(failures or {})

    def failed(self, why: TlsFailure | None) -> None:
        """A handshake has failed; ``None`` if this side ended it."""
        if why is not None:
            self.failures[why] = self.failures.get(why, 0) + 1


def stats_of(
    counts: Sequence[int], active: int, traffic: tuple[int, int] | None, tls: TlsCounts | None = None
) -> SpawnerStats:
    """Return the stats of a spawner with `counts` by the number of the cause."""
    tls = tls or TlsCounts()
    outcomes = dict.fromkeys(("completed", "failed", "disconnected", "cancelled", "cut", "rejected"), 0)
    causes = {cause: count for cause, count in zip(CloseCause, counts, strict=True) if count}
    for cause, count in causes.items():
        outcomes[cause.outcome] += count
    read, written = traffic or (None, None)
    return SpawnerStats(
        accepted=active + sum(outcomes.values()),
        active=active,
        causes=causes,
        bytes_read=read,
        bytes_written=written,
        tls_handshakes=tls.handshakes,
        tls_failures=dict(tls.failures),
        **outcomes,
    )
