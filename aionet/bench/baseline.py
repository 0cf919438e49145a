"""What moved since an earlier record.

Theory of operation
-------------------
Absolute figures of two runs say nothing about each other on machines that are shared: what is compared is a
peer's ratio to the bare C loop of its own run (for ``idle``, which has none, the bytes, which hardly vary).
A ratio has *moved* if its medians then and now differ by more than the spread: the wider of the two ranges
over the rounds, and never less than `SMALLEST`, since three rounds may agree by luck. Less than three rounds
show no spread; `UNKNOWN_SPREAD` is taken for theirs.

Other conditions are named beside it: another interpreter, kernel or processor moves ratios by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases import Case, case_of, figure_of
from .children import BenchError
from .summary import REFERENCE, Figure, Row, summarise

__all__ = [
    "SCHEMA",
    "SMALLEST",
    "UNKNOWN_SPREAD",
    "Change",
    "Comparison",
    "compare",
    "comparison_text",
    "read_record",
]

SCHEMA = 1
"""The form of the records that are read here."""

SMALLEST = 0.03
"""A change below this share of the earlier median is not told."""

UNKNOWN_SPREAD = 0.10
"""The spread of a figure that was measured less than three times, as a share of its median."""

_NEEDED = ("workload", "peer", "connections", "size", "round")


@dataclass(frozen=True)
class Change:
    """One peer in one case, then and now."""

    case: Case
    peer: str
    then: Figure
    now: Figure
    rounds: int
    """Of the run that had fewer."""

    @property
    def share(self) -> float:
        """How much the median changed, as a share of the earlier one."""
        return self.now.median / self.then.median - 1 if self.then.median else 0.0

    @property
    def spread(self) -> float:
        """The change that chance explains, as a share of the earlier median."""
        if not self.then.median:
            return float("inf")
        least = SMALLEST if self.rounds >= 3 else UNKNOWN_SPREAD
        widths = [(figure.highest - figure.lowest) / self.then.median for figure in (self.then, self.now)]
        return max(least, *widths)

    @property
    def moved(self) -> bool:
        """Whether that is more than the spread."""
        return abs(self.share) > self.spread

    @property
    def better(self) -> bool:
        """Whether the change is for the better: more for the CPU second, or less memory."""
        return (self.share < 0) == (self.case.workload == "idle")


@dataclass(frozen=True)
class Comparison:
    """Everything that two records have in common."""

    changes: tuple[Change, ...]
    conditions: tuple[str, ...]
    """What is different about the runs themselves, a line each."""

    @property
    def moved(self) -> tuple[Change, ...]:
        """What moved by more than the spread, the largest change first."""
        found = [change for change in self.changes if change.moved]
        return tuple(sorted(found, key=lambda change: -abs(change.share)))


def read_record(path: Path) -> dict[str, Any]:
    """The record that ``aionet bench --json`` stored there.

    Raises `BenchError`, which names the file, if it cannot be read or holds something else.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise BenchError(f"{path}: not JSON: {error}") from error
    if not isinstance(record, dict) or "schema" not in record:
        raise BenchError(f"{path}: not a record of aionet bench: it has no schema")
    if record["schema"] != SCHEMA:
        raise BenchError(f"{path}: its schema is {record['schema']!r}, and {SCHEMA} is what is read here")
    turns = record.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BenchError(f"{path}: not a record of aionet bench: its turns are {turns!r:.40}")
    for number, turn in enumerate(turns):
        if missing := [key for key in _NEEDED if key not in turn]:
            raise BenchError(f"{path}: turn {number} has no {', '.join(missing)}")
    return record


def compare(record: Mapping[str, Any], stored: Mapping[str, Any]) -> Comparison:
    """What ``record`` and an earlier one both measured, and how it changed."""
    earlier = {(case_of(row), row.peer): row for row in summarise(stored)}
    changes = []
    for row in summarise(record):
        before = earlier.get((case_of(row), row.peer))
        if before is None or row.peer == REFERENCE:
            continue
        then, now = _compared(before), _compared(row)
        if then is not None and now is not None:
            changes.append(Change(case_of(row), row.peer, then, now, min(before.rounds, row.rounds)))
    return Comparison(tuple(changes), tuple(_conditions(record, stored)))


def comparison_text(comparison: Comparison) -> str:
    """What a person reads of it."""
    lines = list(comparison.conditions)
    if not comparison.changes:
        lines.append("nothing to compare: the two runs have no peer and case in common beside the reference")
        return "\n".join(lines)
    moved = comparison.moved
    lines.append(f"{len(moved)} of {len(comparison.changes)} moved by more than the spread")
    width = max((len(f"{change.peer}  {change.case.title}") for change in moved), default=0)
    for change in moved:
        name = f"{change.peer}  {change.case.title}".ljust(width)
        verdict = "better" if change.better else "worse"
        lines.append(
            f"  {name}  {_figure(change, change.then)} -> {_figure(change, change.now)}"
            f"  {change.share:+.0%} ({verdict}; spread {change.spread:.0%})"
        )
    return "\n".join(lines)


def _compared(row: Row) -> Figure | None:
    return figure_of(row) if row.workload == "idle" else row.to_reference


def _figure(change: Change, figure: Figure) -> str:
    if change.case.workload == "idle":
        return f"{figure.median:,.0f} B"
    return f"{figure.median:.2f} C"


def _conditions(record: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for part in ("machine", "python", "versions"):
        now, then = record.get(part) or {}, stored.get(part) or {}
        if not isinstance(now, Mapping) or not isinstance(then, Mapping):
            now, then = {"": now}, {"": then}
        found.extend(
            f"not the same {f'{part} {key}'.strip()}: {then[key]} -> {now[key]}"
            for key in sorted(now.keys() & then.keys())
            if now[key] != then[key]
        )
    return found
