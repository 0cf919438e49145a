"""A picture of stored results: ``python benchmarks/plots.py results/FILE.json PLOT.svg`` (or .png)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_OURS, _AWAIT, _CALLBACK = "#c2410c", "#64748b", "#cbd5e1"


def plot(stored: Mapping[str, Any], target: Path) -> None:
    """Horizontal bars of requests per CPU second as a share of C, one panel per workload."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    compared = (row for row in stored["summary"] if row["to_c"] is not None)
    rows = [row for row in compared if not row["server"].startswith("c-")]
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    panels = [
        sorted((row for row in rows if row["workload"] == workload), key=lambda row: row["to_c"])
        for workload in workloads
    ]
    heights = [len(panel) + 1.6 for panel in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        figsize=(8.5, 1.1 + 0.34 * sum(heights)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    kinds = stored["kinds"]
    longest = max(1.08, *(row["to_c_spread"][1] + 0.12 for row in rows))
    for axis, panel, workload in zip(axes[:, 0], panels, workloads, strict=True):
        _draw_panel(axis, panel, workload, kinds, longest)
    axes[-1, 0].set_xlabel(
        "requests per server CPU second, as a share of a bare C epoll loop in the same run", fontsize=9
    )
    figure.suptitle("Echo servers, one core", fontweight="bold", x=0.01, ha="left")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=color) for color in (_OURS, _AWAIT, _CALLBACK)]
    figure.legend(handles, ["aionet (await)", "await", "callback"], loc="upper right", ncols=3, frameon=False)
    machine = stored["machine"]
    figure.supxlabel(
        f"median and range of {stored['rounds']} rounds · {machine['python']}\n"
        f"{machine['kernel']} · {machine['cpu']}",
        fontsize=7.5,
        color="#475569",
    )
    figure.savefig(target, dpi=150)


def _draw_panel(
    axis: Any,
    panel: Sequence[Mapping[str, Any]],
    workload: str,
    kinds: Mapping[str, str],
    longest: float,
) -> None:
    names = [row["server"] for row in panel]
    values = [row["to_c"] for row in panel]
    below = [row["to_c"] - row["to_c_spread"][0] for row in panel]
    above = [row["to_c_spread"][1] - row["to_c"] for row in panel]
    axis.barh(
        names,
        values,
        height=0.68,
        color=[_color(row["server"], kinds) for row in panel],
        xerr=[below, above],
        error_kw={"ecolor": "#334155", "elinewidth": 0.9, "capsize": 2},
    )
    for place, row in enumerate(panel):
        starved = f"  ({row['starved']:,} starved)" if row["starved"] else ""
        axis.text(
            row["to_c_spread"][1] + 0.012,
            place,
            f"{row['to_c']:.2f}{starved}",
            va="center",
            fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    axis.axvline(1, color="#334155", linewidth=1, linestyle=":")
    axis.text(1, len(panel) - 0.35, "C epoll", fontsize=7.5, ha="center", color="#334155")
    axis.set_xlim(0, longest)
    axis.set_title(workload, loc="left", fontsize=10)
    axis.tick_params(axis="y", length=0, labelsize=9)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _color(server: str, kinds: Mapping[str, str]) -> str:
    if server.startswith("aionet"):
        return _OURS
    return _CALLBACK if kinds.get(server) == "callback" else _AWAIT


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python benchmarks/plots.py results/FILE.json PLOT.svg")
    plot(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
