"""From turns to medians, spreads and ratios; works on a record alone, today's or a stored one.

Theory of operation
-------------------
The machines are shared and noisy, so a figure means something only beside another of the same round: ratios
are taken within each round, between turns that ran minutes apart at most, and their median is reported with
the lowest and the highest. A peer may have had several turns in a round: together they are one figure, all
requests by all seconds. What is compared is requests per second of the server's cpu time; for `idle`, which
has none, it is memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["PLAIN", "REFERENCE", "Figure", "Row", "summarise"]

REFERENCE = "c"
PLAIN = "asyncio-streams"

_PER_CPU_SECOND = ("requests", "server_cpu_seconds", "requests_per_cpu_second")


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
        rate=_by_round(turns, "requests", "seconds", "rate"),
        per_cpu_second=_by_round(turns, *_PER_CPU_SECOND),
        bytes_per_cpu_second=_by_round(turns, "bytes_compared", "server_cpu_seconds", "bytes_per_cpu_second"),
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
    own, base = _rates(turns, *_PER_CPU_SECOND), _rates(beside, *_PER_CPU_SECOND)
    return Figure.of([rate / base[number] for number, rate in own.items() if rate and base.get(number)])


def _by_round(turns: Sequence[Mapping[str, Any]], count: str, seconds: str, rate: str) -> Figure | None:
    return Figure.of(list(_rates(turns, count, seconds, rate).values()))


def _rates(turns: Sequence[Mapping[str, Any]], count: str, seconds: str, rate: str) -> dict[int, float]:
    """By round: the count of all its turns by their seconds; `rate` is that of a turn by itself."""
    rounds: dict[int, list[Mapping[str, Any]]] = {}
    for turn in turns:
        if turn.get(rate) is not None:
            rounds.setdefault(turn["round"], []).append(turn)
    return {
        number: own[0][rate]
        if len(own) == 1
        else sum(turn[count] for turn in own) / sum(turn[seconds] for turn in own)
        for number, own in rounds.items()
    }
