"""The numbers of fairness, for both engines; what they are for stands in `event_loop.py`.

Nothing is imported here, so that the compiled module, too, can take them from here when it is loaded.
"""

from __future__ import annotations

__all__ = ["BUDGET", "UNIT_BITS"]

BUDGET = 64
"""How much may complete at once before a task yields a turn of the loop: so many small operations."""

UNIT_BITS = 14
"""An operation costs 1, and 1 more for each full ``1 << UNIT_BITS`` bytes that it moved."""
