"""The numbers of fairness, for both engines; see `fairness.py`, `pacing.py` and `slices.py`.

Nothing is imported here, so that the compiled module, too, can take them from here when it is loaded.
"""

from __future__ import annotations

__all__ = ["BUDGET", "END_UNITS", "SLICE_SECONDS", "TURN_BYTES", "UNIT_BITS", "WORTH_NOTING"]

BUDGET = 64
"""How much may complete at once before a task yields a turn of the loop: so many small operations."""

UNIT_BITS = 14
"""An operation costs 1, and 1 more for each full ``1 << UNIT_BITS`` bytes that it moved."""

TURN_BYTES = 2 << 20
"""How many bytes large operations, of ``1 << UNIT_BITS`` and more, may move in one turn of the loop before
the next of them is paced."""

WORTH_NOTING = 1024
"""Bytes: a read that filled so much memory, or more, says nothing of how much there was."""

SLICE_SECONDS = 0.001
"""How long a slice of work for many connections lasts."""

END_UNITS = 4
"""What the end of a connection takes of the budget of a slice. With a line in an access log an end costs
much more than a beginning."""
