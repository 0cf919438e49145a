"""`LoopLag`: how late the event loop is.

Theory of operation
-------------------
One timer a second, and how much later than asked for it is called. A handler that computes, or calls what
blocks, for 0.2 s makes whoever is due then late, and shows here with the probability of a fifth; one that
blocks for seconds always shows. In the long run the histogram is what any callback of the loop experiences.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Self

__all__ = ["LoopLag"]

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """Measures the running loop, from entering the context to leaving it.

    Args:
        period: seconds between two measurements.

    Raises `ValueError` for a period that is not positive; entering, `RuntimeError` where no loop runs.
    """

    bounds: Sequence[float] = _BOUNDS
    """The buckets of the histogram: so many seconds late at the most."""

    def __init__(self, period: float = 1.0) -> None:
        if not period > 0:
            raise ValueError(f"period must be more than 0 seconds, not {period!r}")
        self._period = period
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._timer: asyncio.TimerHandle | None = None
        self.last = 0.0
        """Seconds that the timer was late the last time."""
        self.sum = 0.0
        """Seconds that it was late in all."""

    @property
    def cumulated(self) -> list[int]:
        """How many measurements were within each of `bounds`, and, in the last place, how many there were."""
        return list(accumulate(self._counts))

    def __enter__(self) -> Self:
        self._begin(asyncio.get_running_loop())
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._period
        self._timer = loop.call_at(due, self._measure, loop, due)

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.last = max(loop.time() - due, 0.0)  # a loop rounds its timers to its clock's resolution
        self.sum += self.last
        self._counts[bisect_left(_BOUNDS, self.last)] += 1
        self._begin(loop)
