"""The counters of all workers together, those that have ended included, and the gauges of the living.

Theory of operation
-------------------
Workers send what they have counted once a second and at their end, by messages rather than shared memory:
counting then costs the hot path nothing, a worker of another version may count other things, and there is
nothing to map, to align or to clean up. A worker that is killed loses what it had counted since its last
message, one second's at most. Connections that it was serving are counted as ``lost``.

What was counted stays when its worker ends, so no sum ever goes backwards. A gauge, which says how something
is now, goes with its worker; whether gauges are to be added up or compared is for those to say who read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

__all__ = ["Counters", "Counts"]

Counts: TypeAlias = Mapping[str, float]
"""Numbers by name. Most are whole, and stay so in sums."""

_ACTIVE, _LOST = "active", "lost"


class Counters:
    """Sums of what workers count, by name."""

    def __init__(self) -> None:
        self._ended: dict[str, float] = {}
        self._living: dict[int, Counts] = {}
        self._gauges: dict[int, Counts] = {}

    def tell(self, pid: int, counts: Counts, gauges: Counts) -> None:
        """Worker `pid` has counted so much since it began, and `gauges` are how it is now."""
        self._living[pid] = counts
        self._gauges[pid] = gauges

    def end(self, pid: int) -> None:
        """Worker `pid` has ended; what it was still serving is lost."""
        self._gauges.pop(pid, None)
        counts = dict(self._living.pop(pid, {}))
        counts[_LOST] = counts.pop(_ACTIVE, 0)
        _add(self._ended, counts)

    def of_each(self) -> dict[int, dict[str, float]]:
        """Return the counts of each living worker, by process id."""
        return {pid: dict(counts) for pid, counts in self._living.items()}

    def gauges_of_each(self) -> dict[int, dict[str, float]]:
        """Return the gauges of each living worker, by process id."""
        return {pid: dict(gauges) for pid, gauges in self._gauges.items()}

    def total(self) -> dict[str, float]:
        """Return the sums of the counts."""
        total = dict(self._ended)
        for counts in self._living.values():
            _add(total, counts)
        return total


def _add(sums: dict[str, float], counts: Counts) -> None:
    for name, count in counts.items():
        sums[name] = sums.get(name, 0) + count
