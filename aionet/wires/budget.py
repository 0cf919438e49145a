"""The number of fairness, for both engines; what it is for stands in `event_loop.py`.

Nothing is imported here, so that the compiled module, too, can take it from here when it is loaded.
"""

from __future__ import annotations

__all__ = ["BUDGET"]

BUDGET = 64
"""How many operations may complete at once before a task yields a turn of the loop."""
