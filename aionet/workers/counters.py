"""The counters of all workers together, those that have ended included.

Theory of operation
-------------------
Workers send what they have counted once a second and at their end, by messages rather than shared memory:
counting then costs the hot path nothing, a worker of another version may count other things, and there is
nothing to map, to align or to clean up. A worker that is killed loses what it had counted since its last
message, one second's at most. Connections that it was serving are counted as ``lost``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["Counters"]

_ACTIVE, _LOST = "active", "lost"


class Counters:
    """Sums of what workers count, by name."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._living: dict[int, Mapping[str, int]] = {}

    def tell(self, pid: int, counts: Mapping[str, int]) -> None:
        """Worker `pid` has counted so much since it began."""
        self._living[pid] = counts

    def end(self, pid: int) -> None:
        """Worker `pid` has ended; what it was still serving is lost."""
        counts = dict(self._living.pop(pid, {}))
        counts[_LOST] = counts.pop(_ACTIVE, 0)
        self._ended.update(counts)

    def of_each(self) -> dict[int, dict[str, int]]:
        """Return the counts of each living worker, by process id."""
        return {pid: dict(counts) for pid, counts in self._living.items()}

    def total(self) -> dict[str, int]:
        """Return the sums."""
        total = Counter(self._ended)
        for counts in self._living.values():
            total.update(counts)
        return dict(total)
