"""What the rows of a record are called, which of their figures is compared, and in which order they stand.

Theory of operation
-------------------
A *case* is what the load did: the workload, how many connections, how many bytes, and the rate if the loop
was open. What is compared of a case is its *figure*: requests per CPU second of the server, for ``bulk``
bytes per CPU second, for ``idle`` private bytes per connection. The page, the pictures, the comparison with
an earlier record and the tables of benchmarks/README.md all ask here, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .summary import REFERENCE, Figure, Row

__all__ = [
    "Case",
    "best_first",
    "case_of",
    "cases_of",
    "cost_of",
    "count_text",
    "duration_text",
    "figure_of",
    "losses_of",
    "peers_of",
    "size_text",
    "versions_text",
]

_ORDER = ("accept", "connect", "tls-accept", "echo", "tls-echo", "bulk", "fairness", "idle")
_OF_CONNECTIONS = ("accept", "connect", "tls-accept")


@dataclass(frozen=True)
class Case:
    """What the load did."""

    workload: str
    connections: int
    size: int
    open_loop_rate: float | None = None

    @property
    def title(self) -> str:
        """``echo, 64 connections, 1 KiB``: the heading of a table or a picture."""
        many = f"{self.connections:,} connection{'' if self.connections == 1 else 's'}"
        if self.workload == "idle":
            return f"idle, {many}"
        if self.workload in _OF_CONNECTIONS:
            many = f"{self.connections:,} at a time"
        sizes = "" if self.size <= 1 else f", {size_text(self.size)}"
        asked = "" if self.open_loop_rate is None else f", {self.open_loop_rate:,.0f}/s asked for"
        return f"{self.workload}, {many}{sizes}{asked}"

    @property
    def unit(self) -> str:
        """What the figure counts."""
        if self.workload == "bulk":
            return "byte"
        return "connection" if self.workload in (*_OF_CONNECTIONS, "idle") else "message"


def case_of(row: Row) -> Case:
    """The case that a row is of."""
    return Case(row.workload, row.connections, row.size, row.open_loop_rate)


def cases_of(rows: Iterable[Row]) -> list[Case]:
    """The cases that occur: by workload, then from few connections to many."""
    return sorted({case_of(row) for row in rows}, key=_place)


def peers_of(rows: Iterable[Row]) -> list[str]:
    """The peers that occur: the reference, ours, the others by name."""
    return sorted(
        {row.peer for row in rows}, key=lambda peer: (peer != REFERENCE, not peer.startswith("aionet"), peer)
    )


def figure_of(row: Row) -> Figure | None:
    """The figure that is compared; None if the server used no CPU time that could be measured."""
    if row.workload == "idle":
        return row.private_bytes
    return row.bytes_per_cpu_second if row.workload == "bulk" else row.per_cpu_second


def cost_of(row: Row) -> Figure | None:
    """CPU seconds of the server per request; None for memory and where nothing was measured."""
    figure = figure_of(row)
    if row.workload == "idle" or figure is None or figure.lowest <= 0:
        return None
    return Figure(1 / figure.median, 1 / figure.highest, 1 / figure.lowest)


def losses_of(row: Row) -> int:
    """Connections that the kernel turned away because a listener's queue was full.

    Each overflow is a drop as well, so the two are not added.
    """
    return max(row.listen_overflows or 0, row.listen_drops or 0)


def best_first(rows: Iterable[Row]) -> list[Row]:
    """Rows of one case, the best figure first; what has none is last."""

    def place(row: Row) -> float:
        figure = figure_of(row)
        if figure is None:
            return float("inf")
        return figure.median if row.workload == "idle" else -figure.median

    return sorted(rows, key=place)


def versions_text(versions: Mapping[str, object]) -> str:
    """``aionet 0.1.0, uvloop 0.23.0``; compilers say their name themselves."""
    return ", ".join(
        text if (text := str(version)).startswith(name) else f"{name} {text}"
        for name, version in sorted(versions.items())
    )


def size_text(size: float) -> str:
    """``64 B``, ``1 KiB``, ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{round(size, 1):g} {unit}"
        size /= 1024
    return f"{round(size, 1):,g} GiB"


def count_text(count: float) -> str:
    """``830``, ``54.7 k``, ``1.21 M``: three digits are as much as is measured."""
    for unit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= 0.9995 * unit:
            return f"{_three_digits(count / unit)}{suffix}"
    return _three_digits(count)


def duration_text(seconds: float | None) -> str:
    """``830 ns``, ``54.7 µs``, ``1.21 ms``, ``2.00 s``; ``-`` for None."""
    if seconds is None:
        return "-"
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * unit:
            return f"{_three_digits(seconds / unit)} {name}"
    return f"{seconds * 1e9:.0f} ns"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def _place(case: Case) -> tuple[int, str, int, int, float]:
    order = _ORDER.index(case.workload) if case.workload in _ORDER else len(_ORDER)
    return order, case.workload, case.connections, case.size, case.open_loop_rate or 0
