"""From turns to medians, spreads and ratios; works on a record alone, today's or a stored one.

Theory of operation
-------------------
The machines are shared and noisy, so a figure means something only beside another of the same round: ratios
are taken within each round, whose turns ran side by side where that is possible, and their median is reported
with the lowest and the highest. What is compared is requests per second of the server's cpu time; for `idle`,
which has none, it is memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["PLAIN", "REFERENCE", "Figure", "Row", "summarise"]

REFERENCE = "c"
PLAIN = "asyncio-streams"


@dataclass(frozen=True, slots=True)
class Figure:
    """A median over rounds, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure | None:
        """None if there are no values."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One peer in one workload. A figure is None where it was not or cannot be measured."""

    workload: str
    peer: str
    connections: int
    size: int
    open_loop_rate: float | None
    engine: str | None
    loop: str | None
    rounds: int
    rate: Figure | None
    """Requests per second."""
    per_cpu_second: Figure | None
    bytes_per_cpu_second: Figure | None
    private_bytes: Figure | None
    """Of one idle connection."""
    latency: Mapping[str, Figure | None]
    """Seconds, by percentile."""
    to_reference: Figure | None
    """Requests per cpu second as a share of the bare C loop's, in the same rounds."""
    to_plain: Figure | None
    """The same to asyncio's streams."""
    busy: Figure | None
    """Share of the time in which the load had something to do."""
    saturated: int
    """Turns in which the load, not the server, was the limit of the rate."""
    starved: int
    """The most connections in a round that had less than a tenth of the mean service."""
    errors: Mapping[str, int]
    overdue: int
    """Requests of an open loop that were due and had no reply in the end."""
    listen_overflows: int | None
    listen_drops: int | None


def summarise(record: Mapping[str, Any]) -> list[Row]:
    """One row per workload, numbers and peer, in the order in which they first ran."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for turn in record["turns"]:
        groups.setdefault((*_setting(turn), turn["peer"]), []).append(turn)
    return [_row(turns, record["turns"]) for turns in groups.values()]


def _setting(turn: Mapping[str, Any]) -> tuple[Any, ...]:
    return turn["workload"], turn["connections"], turn["size"], turn.get("open_loop_rate")


def _row(turns: Sequence[Mapping[str, Any]], everything: Sequence[Mapping[str, Any]]) -> Row:
    first = turns[0]
    errors: dict[str, int] = {}
    for turn in turns:
        for kind, count in turn["errors"].items():
            errors[kind] = errors.get(kind, 0) + count
    return Row(
        workload=first["workload"],
        peer=first["peer"],
        connections=first["connections"],
        size=first["size"],
        open_loop_rate=first.get("open_loop_rate"),
        engine=first.get("engine"),
        loop=first.get("loop"),
        rounds=len({turn["round"] for turn in turns}),
        rate=_figure(turns, "rate"),
        per_cpu_second=_figure(turns, "requests_per_cpu_second"),
        bytes_per_cpu_second=_figure(turns, "bytes_per_cpu_second"),
        private_bytes=_figure(turns, "private_bytes_per_connection"),
        latency={
            name: Figure.of([turn["latency"][name] for turn in turns if turn["latency"][name] is not None])
            for name in first["latency"]
        },
        to_reference=_ratio(turns, everything, REFERENCE),
        to_plain=_ratio(turns, everything, PLAIN),
        busy=_figure(turns, "load_busy_share"),
        saturated=sum(bool(turn.get("saturated")) for turn in turns),
        starved=max(turn.get("starved") or 0 for turn in turns),
        errors=errors,
        overdue=sum(turn.get("overdue") or 0 for turn in turns),
        listen_overflows=_sum(turns, "listen_overflows"),
        listen_drops=_sum(turns, "listen_drops"),
    )


def _figure(turns: Sequence[Mapping[str, Any]], name: str) -> Figure | None:
    return Figure.of([turn[name] for turn in turns if turn.get(name) is not None])


def _sum(turns: Sequence[Mapping[str, Any]], name: str) -> int | None:
    known = [turn[name] for turn in turns if turn.get(name) is not None]
    return sum(known) if known else None


def _ratio(
    turns: Sequence[Mapping[str, Any]], everything: Sequence[Mapping[str, Any]], other: str
) -> Figure | None:
    beside = [turn for turn in everything if turn["peer"] == other and _setting(turn) == _setting(turns[0])]
    own, base = _by_round(turns), _by_round(beside)
    return Figure.of([figure / base[number] for number, figure in own.items() if number in base])


def _by_round(turns: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Requests per cpu second."""
    figures = {turn["round"]: turn.get("requests_per_cpu_second") for turn in turns}
    return {number: figure for number, figure in figures.items() if figure}
