"""From turns to medians, ratios and a table. Everything here works on the stored JSON alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

REFERENCE = "c-epoll"
PLAIN = "asyncio-streams"


def summarise(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per workload and server, in the order in which they first ran.

    A ratio is taken within each round, between turns that ran minutes apart at most; its median is reported
    with its lowest and highest value.
    """
    rows = []
    for workload, server in dict.fromkeys((turn["workload"], turn["server"]) for turn in turns):
        own = {
            turn["round"]: turn for turn in turns if (turn["workload"], turn["server"]) == (workload, server)
        }
        row: dict[str, Any] = {"workload": workload, "server": server, "rounds": len(own)}
        for figure in ("requests_per_cpu_second", "rate", "p50", "p99", "p99_9", "load_busy_share"):
            row[figure] = statistics.median(turn[figure] for turn in own.values())
        for name, base_name in (("to_c", REFERENCE), ("to_streams", PLAIN)):
            other = f"{base_name}-tls" if workload.startswith("tls-") else base_name
            ratios = [
                turn["requests_per_cpu_second"] / base["requests_per_cpu_second"]
                for number, turn in own.items()
                if (base := _turn(turns, workload, other, number)) is not None
                and base["requests_per_cpu_second"]  # a busy machine may leave a short turn nothing
            ]
            row[name] = statistics.median(ratios) if ratios else None
            row[f"{name}_spread"] = [min(ratios), max(ratios)] if ratios else None
        row["until_all_served"] = statistics.median(turn["until_all_served"] for turn in own.values())
        row["starved"] = max(turn["starved"] for turn in own.values())
        row["errors"] = sum(turn["errors"] for turn in own.values())
        row["engine"] = next(iter(own.values())).get("engine")
        rows.append(row)
    return rows


def _turn(
    turns: Sequence[Mapping[str, Any]], workload: str, server: str, number: int
) -> Mapping[str, Any] | None:
    for turn in turns:
        if (turn["workload"], turn["server"], turn["round"]) == (workload, server, number):
            return turn
    return None


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table per workload, best first."""
    parts = []
    for workload in dict.fromkeys(row["workload"] for row in rows):
        parts.append(f"**{workload}**\n\n{_HEADING}")
        of_workload = [row for row in rows if row["workload"] == workload]
        for row in sorted(of_workload, key=lambda row: -row["requests_per_cpu_second"]):
            parts[-1] += "\n" + _line(row)
    return "\n\n".join(parts)


_HEADING = """\
| server | per CPU second | to C (spread) | to asyncio streams (spread) | rate | p50 | p99 | p99.9 | starved | errors |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""  # noqa: E501


def _line(row: Mapping[str, Any]) -> str:
    cells = [
        row["server"] + (f" ({row['engine']})" if row["engine"] else ""),
        f"{row['requests_per_cpu_second']:,.0f}",
        _ratio(row["to_c"], row["to_c_spread"]),
        _ratio(row["to_streams"], row["to_streams_spread"]),
        f"{row['rate']:,.0f}/s",
        *(f"{row[name] * 1e3:.2f} ms" for name in ("p50", "p99", "p99_9")),
        str(row["starved"]),
        str(row["errors"]),
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(value: float | None, spread: Sequence[float] | None) -> str:
    if value is None or spread is None:
        return "-"
    return f"{value:.2f} ({spread[0]:.2f}-{spread[1]:.2f})"
