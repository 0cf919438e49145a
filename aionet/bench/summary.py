"""From a record's turns to medians, spreads and ratios.

Theory of operation
-------------------
A record holds turns: one peer, one case, one round. A *case* is what the load did: the workload, how many
connections, how many bytes, and the rate if the loop was open. What is compared of a case is its *figure*:
requests per CPU second of the server, for ``bulk`` bytes per CPU second, for ``idle`` private bytes per
connection. (A wall-clock rate moves with the machine's neighbours, a figure per CPU second hardly does.)

A *ratio* is taken within one round, between turns that ran minutes apart at most, to the bare C loop of the
same round; afterwards comes the median over the rounds, with the lowest and the highest. Memory has no
ratio: the C server keeps nothing per connection.

Everything that shows a record, the terminal's table, the report's page, the comparison with an earlier
record, the tables of benchmarks/README.md, shows these rows; so they cannot disagree.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "LATENCIES",
    "REFERENCE",
    "Case",
    "Row",
    "Spread",
    "case_of",
    "cases_of",
    "count_text",
    "duration_text",
    "figure_name",
    "peers_of",
    "size_text",
    "summarise",
]

REFERENCE = "c"
"""The peer that ratios are taken to."""

LATENCIES = ("p50", "p90", "p99", "p99.9", "p99.99", "max")
"""The keys of a turn's ``latency``, which holds seconds."""

_ORDER = ("accept", "connect", "tls-accept", "echo", "tls-echo", "bulk", "fairness", "idle")
_FIGURES = {"bulk": "bytes_per_cpu_second", "idle": "private_bytes_per_connection"}


@dataclass(frozen=True)
class Spread:
    """A median over rounds, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """The spread of what was measured; None if nothing was."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.median(known), min(known), max(known), len(known))


@dataclass(frozen=True)
class Case:
    """What the load did."""

    workload: str
    connections: int
    size: int
    open_loop_rate: float | None = None

    @property
    def title(self) -> str:
        """``echo, 64 connections, 1 KiB``; a page's heading and a plot's."""
        many = f"{self.connections:,} connection{'' if self.connections == 1 else 's'}"
        if self.workload == "idle":
            return f"idle, {many}"
        if self.workload in ("accept", "connect", "tls-accept"):
            many = f"{self.connections:,} at a time"
        sizes = "" if self.size <= 1 else f", {size_text(self.size)}"
        asked = "" if self.open_loop_rate is None else f", {self.open_loop_rate:,.0f}/s asked for"
        return f"{self.workload}, {many}{sizes}{asked}"

    @property
    def unit(self) -> str:
        """What one of the figure's requests is."""
        if self.workload in ("accept", "connect", "tls-accept", "idle"):
            return "connection"
        return "byte" if self.workload == "bulk" else "message"


@dataclass(frozen=True)
class Row:
    """One peer in one case, over all rounds."""

    case: Case
    peer: str
    engine: str | None
    loop: str | None
    rounds: int
    figure: Spread | None
    """`figure_name()` of the case; None if the server used no CPU time that could be measured."""
    ratio: Spread | None
    """The figure as a share of the C server's in the same round; None without one, and for memory."""
    rate: float | None
    """Requests per second of the clock."""
    latency: Mapping[str, float]
    """Seconds by percentile, medians over the rounds; `LATENCIES` has the keys."""
    starved: int
    """Connections served less than a tenth of the mean, in the worst round."""
    errors: int
    listen_losses: int
    """Connections that the kernel turned away because the queue of a listener was full."""
    load_busy_share: float | None
    saturated: bool
    """Whether the load was at its own limit in a round: the rate is then not the server's."""

    @property
    def cost(self) -> Spread | None:
        """CPU seconds of the server per request; None for memory and where nothing was measured."""
        if self.case.workload == "idle" or self.figure is None or self.figure.lowest <= 0:
            return None
        figure = self.figure
        return Spread(1 / figure.median, 1 / figure.highest, 1 / figure.lowest, figure.rounds)


def figure_name(case: Case) -> str:
    """The key of the figure that is compared in that case."""
    return _FIGURES.get(case.workload, "requests_per_cpu_second")


def case_of(turn: Mapping[str, Any]) -> Case:
    """The case that a turn is of."""
    return Case(turn["workload"], turn["connections"], turn["size"], turn.get("open_loop_rate"))


def summarise(record: Mapping[str, Any]) -> list[Row]:
    """One row per case and peer: cases in the order of `cases_of()`, the best peer first."""
    turns: Sequence[Mapping[str, Any]] = record["turns"]
    by_case: dict[Case, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for turn in turns:
        by_case.setdefault(case_of(turn), {}).setdefault(turn["peer"], {})[turn["round"]] = turn
    rows = []
    for case in sorted(by_case, key=_place):
        reference = by_case[case].get(REFERENCE, {})
        found = [_row(case, peer, own, reference) for peer, own in by_case[case].items()]
        rows.extend(sorted(found, key=_best_first))
    return rows


def cases_of(rows: Iterable[Row]) -> list[Case]:
    """The cases that occur: by workload, then from few connections to many."""
    return sorted({row.case for row in rows}, key=_place)


def peers_of(rows: Iterable[Row]) -> list[str]:
    """The peers that occur: the reference, ours, the others by name."""
    return sorted(
        {row.peer for row in rows}, key=lambda peer: (peer != REFERENCE, not peer.startswith("aionet"), peer)
    )


def size_text(size: float) -> str:
    """``64 B``, ``1 KiB``, ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{round(size, 1):,g} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


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


def _row(
    case: Case, peer: str, own: Mapping[int, Mapping[str, Any]], reference: Mapping[int, Mapping[str, Any]]
) -> Row:
    name = figure_name(case)
    turns = list(own.values())
    latency = {
        key: spread.median
        for key in LATENCIES
        if (spread := Spread.of((turn.get("latency") or {}).get(key) for turn in turns)) is not None
    }
    rate, busy = (Spread.of(turn.get(key) for turn in turns) for key in ("rate", "load_busy_share"))
    return Row(
        case=case,
        peer=peer,
        engine=turns[0].get("engine"),
        loop=turns[0].get("loop"),
        rounds=len(turns),
        figure=Spread.of(turn.get(name) for turn in turns),
        ratio=None if case.workload == "idle" else _ratio(name, own, reference),
        rate=None if rate is None else rate.median,
        latency=latency,
        starved=max(turn.get("starved") or 0 for turn in turns),
        errors=sum(sum((turn.get("errors") or {}).values()) for turn in turns),
        listen_losses=sum(
            max(turn.get("listen_overflows") or 0, turn.get("listen_drops") or 0) for turn in turns
        ),
        load_busy_share=None if busy is None else busy.median,
        saturated=any(turn.get("saturated") for turn in turns),
    )


def _ratio(
    name: str, own: Mapping[int, Mapping[str, Any]], reference: Mapping[int, Mapping[str, Any]]
) -> Spread | None:
    ratios = []
    for number, turn in own.items():
        figure, base = turn.get(name), reference.get(number, {}).get(name)
        if figure is not None and base:  # a busy machine may leave a short turn nothing
            ratios.append(figure / base)
    return Spread.of(ratios)


def _place(case: Case) -> tuple[int, str, int, int, float]:
    order = _ORDER.index(case.workload) if case.workload in _ORDER else len(_ORDER)
    return order, case.workload, case.connections, case.size, case.open_loop_rate or 0


def _best_first(row: Row) -> float:
    if row.figure is None:
        return float("inf")
    return row.figure.median if row.case.workload == "idle" else -row.figure.median
