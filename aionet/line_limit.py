"""`LineLimit`: so many lines of a kind within a second, and a count of those that were left out.

Theory of operation
-------------------
A line that a peer can cause once, it can cause a hundred thousand times a second. The first line of a kind
opens a window of one second. The first ten lines of a window are written, the others are only counted, and
the count is due when the window is over; the next line of the kind opens another window. So a kind costs
eleven lines a second at the most, whatever the peers do, and no number is lost.

Kinds do not hide one another: a flood of one leaves the lines of all others as they are. A kind has to come
from the code (a message, a cause, the place of a ``raise``), not from what a peer sent: there is a window in
memory for each kind of the last second.

All windows are equally long, so they stand in the order in which they end, and those that are over stand in
front. Nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

__all__ = ["LINES", "SECONDS", "Excess", "LineLimit"]

LINES = 10
"""Lines of a kind that are written in a window."""

SECONDS = 1.0
"""How long a window is."""

K = TypeVar("K", bound=Hashable)


class Excess(NamedTuple, Generic[K]):
    """What was left out of a window."""

    kind: K
    left_out: int
    example: str
    """The last line that was written."""


class _Window:
    """The lines of one kind within a second."""

    __slots__ = ("ends", "example", "lines")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.lines = 0
        self.example = ""


class LineLimit(Generic[K]):
    """Decides which lines are written. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._windows: dict[K, _Window] = {}

    def admits(self, kind: K, now: float, text: Callable[[], str]) -> bool:
        """Whether one more line of `kind` is written; `text()` returns the line, and is rarely called."""
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window(now + SECONDS)
        window.lines += 1
        if window.lines == LINES:
            window.example = text()
        return window.lines <= LINES

    def over(self, now: float) -> list[Excess[K]]:
        """Forget the windows that are over; return what was left out of them."""
        found = []
        for kind, window in list(self._windows.items()):
            if window.ends > now:
                break
            self._windows.pop(kind, None)  # without a loop another thread may have been faster
            if window.lines > LINES:
                found.append(Excess(kind, window.lines - LINES, window.example))
        return found

    @property
    def due(self) -> float | None:
        """When the next count is due; ``None`` if nothing was left out."""
        full = (window.ends for window in self._windows.values() if window.lines > LINES)
        return next(full, None)
