"""Pictures of a record: what a CPU second brings, how long a reply takes, what many connections cost.

Theory of operation
-------------------
`draw()` makes one matplotlib figure per picture from the rows of `summary`, without pyplot: no window system,
no state between calls. A picture is stored as PNG and SVG, and goes into the report's page as SVG, where text
stays text and the colours of ink, rules and paper become the page's own (`inline_svg()`), so it is readable
in light and dark alike.

Colours are those of Okabe and Ito, which people with any colour vision tell apart. A peer has the same colour
in every picture; relatives (asyncio's streams and protocols) share one and differ by marker and dashes. Lines
are labelled at their ends, so nobody has to look anything up in a legend.

matplotlib is the extra ``plot``, and imported when something is drawn.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from .cases import Case, case_of, cases_of, cost_of, count_text, figure_of, peers_of
from .children import BenchError
from .summary import REFERENCE, Figure, Row

__all__ = ["Picture", "Style", "draw", "inline_svg", "save", "style_of", "why_not"]

INK, MUTED, RULE, PAPER = "#1b1f24", "#59616b", "#d5dae0", "#fefefe"
_PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"}

_ORANGE, _SKY, _GREEN, _YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
_BLUE, _VERMILLION, _PURPLE, _GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8F98"

_FAMILIES = {
    REFERENCE: INK,
    "aionet": _VERMILLION,
    "asyncio": _BLUE,
    "loop": _BLUE,  # loop.sock_*
    "uvloop": _SKY,
    "aiofastnet": _GREEN,
    "anyio": _ORANGE,
    "trio": _PURPLE,
    "curio": _PURPLE,
    "gevent": _YELLOW,
    "twisted": _YELLOW,
}
"""The colour of the peers whose name begins so; others are grey."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

_FONT = 12  # points; a picture is 9 inches wide
_WIDTH = 9.0
_ROW = 0.27  # inches for a peer
_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": _FONT,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
}


@dataclass(frozen=True)
class Picture:
    """One picture."""

    name: str
    """Of its files, without their ending."""
    workload: str
    title: str
    caption: str
    figure: Any


@dataclass(frozen=True)
class Style:
    """How one peer looks, in every picture."""

    colour: str
    marker: str
    dashes: Any


def why_not() -> str | None:
    """Why nothing can be drawn here; None if it can."""
    if importlib.util.find_spec("matplotlib") is None:
        return "pictures need matplotlib, which is not installed; try: pip install 'aionet-toolkit[plot]'"
    return None


def draw(rows: Sequence[Row]) -> list[Picture]:
    """All the pictures that these rows are enough for. Raises `BenchError` without matplotlib."""
    if reason := why_not():
        raise BenchError(reason)
    styles = style_of(peers_of(rows))
    pictures: list[Picture] = []
    with _settings():
        # idle's only replies are those to the rush at the beginning
        timed_workloads = dict.fromkeys(case.workload for case in cases_of(rows) if case.workload != "idle")
        for workload in timed_workloads:
            of_workload = [row for row in rows if row.workload == workload and figure_of(row)]
            if of_workload:
                pictures.append(_rates(workload, of_workload, styles))
        pictures.extend(_scaling(rows, styles))
        for workload in timed_workloads:
            timed = [row for row in rows if row.workload == workload and _points(row)]
            if timed:
                pictures.append(_latencies(workload, timed, styles))
        if idle := [row for row in rows if row.workload == "idle" and figure_of(row)]:
            pictures.append(_memory(idle, styles))
        for picture in pictures:  # once: each of its formats would lay it out anew
            picture.figure.draw_without_rendering()
            picture.figure.set_layout_engine("none")
    return pictures


def style_of(peers: Sequence[str]) -> dict[str, Style]:
    """The look of each of these peers."""
    seen: dict[str, int] = {}
    styles = {}
    for peer in peers:
        colour = _FAMILIES.get(peer.partition("-")[0].partition("_")[0], _GREY)
        number = seen[colour] = seen.get(colour, -1) + 1
        styles[peer] = Style(colour, _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)])
    return styles


def save(picture: Picture, directory: Path, endings: Sequence[str] = ("png", "svg")) -> None:
    """Store it there, as PNG and SVG."""
    with _settings():
        if "png" in endings:
            picture.figure.savefig(directory / f"{picture.name}.png", dpi=160)
        if "svg" in endings:
            path = directory / f"{picture.name}.svg"
            path.write_text(_svg(picture, transparent=False), encoding="utf-8")


def inline_svg(picture: Picture) -> str:
    """It as an element of an HTML page that defines ``--ink``, ``--muted``, ``--rule`` and ``--paper``."""
    with _settings():
        text = _svg(picture, transparent=True)
    text = text[text.index("<svg") :]
    for colour, variable in _PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    # The page gives the width: an element with width and height in points would not shrink.
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(picture.title)}">{rest}'


def _svg(picture: Picture, *, transparent: bool) -> str:
    import matplotlib as mpl

    file = io.StringIO()
    # The salt keeps the ids of a page's pictures apart, and the same from run to run.
    with mpl.rc_context({"svg.hashsalt": picture.name}):
        picture.figure.savefig(file, format="svg", transparent=transparent, metadata={"Date": None})
    return file.getvalue()


@contextmanager
def _settings() -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        yield


# -- what a CPU second brings ------------------------------------------------------------------------------


def _rates(workload: str, rows: Sequence[Row], styles: Mapping[str, Style]) -> Picture:
    relative = any(row.to_reference for row in rows)
    unit = {"connection": "connections", "message": "messages", "byte": "bytes"}[case_of(rows[0]).unit]

    def shown(row: Row) -> Figure | None:
        return row.to_reference if relative else figure_of(row)

    figure = _bars(
        [row for row in rows if not (relative and row.peer == REFERENCE)],
        styles,
        shown=shown,
        text=(lambda value: f"{value:.2f}") if relative else count_text,
        label=f"{unit} per CPU second of the server{', as a share of C' if relative else ''}",
        best_last=True,
        line=1.0 if relative else None,
    )
    caption = f"{unit.capitalize()} per CPU second of the server" + (
        "; 1.00 is a bare C epoll loop in the same round." if relative else "."
    )
    caption += (
        " Bars are medians over the rounds, whiskers go from the lowest to the highest. Longer is better."
    )
    return Picture(f"rate-{workload}", workload, f"{workload}: what a CPU second brings", caption, figure)


def _memory(rows: Sequence[Row], styles: Mapping[str, Style]) -> Picture:
    figure = _bars(
        rows,
        styles,
        shown=figure_of,
        text=lambda value: f"{value:,.0f} B",
        ticks=lambda value, _: f"{value:,.0f}",
        label="private bytes of the server's process per connection",
        best_last=False,
        line=None,
    )
    caption = (
        "Private memory of the server's process for each connection that does nothing. The kernel's own"
        " memory for a socket is not in it, and a C server keeps nothing. Shorter is better."
    )
    return Picture("memory", "idle", "memory of an idle connection", caption, figure)


def _bars(
    rows: Sequence[Row],
    styles: Mapping[str, Style],
    *,
    shown: Callable[[Row], Figure | None],
    text: Callable[[float], str],
    label: str,
    ticks: Callable[[float, int], str] | None = None,
    best_last: bool,
    line: float | None,
) -> Any:
    """Horizontal bars: a panel per case, two beside each other, the peers in the same order in all."""
    from matplotlib.ticker import MultipleLocator

    cases = cases_of(rows)
    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    peers = _ranked(rows, shown)
    if not best_last:
        peers.reverse()
    figure = _figure(lines * (_ROW * len(peers) + 0.5) + 0.5)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True)
    highest = max((value.highest for row in rows if (value := shown(row))), default=1.0)
    for case, axis in itertools.zip_longest(cases, axes.flat):
        if case is None:  # the panel above is then the lowest of its column
            axis.set_visible(False)
            axes.flat[len(cases) - columns].tick_params(axis="x", labelbottom=True)
            continue
        own = {row.peer: row for row in rows if case_of(row) == case}
        for place, peer in enumerate(peers):
            if peer not in own:
                continue
            found = shown(own[peer])
            if found is None:
                _label_bar(axis, place, 0, "none in the time")
            else:
                _draw_bar(axis, place, found, styles[peer].colour)
                _label_bar(axis, place, found.highest, f"{text(found.median)}{_starved(own[peer])}")
        axis.set_title(case.title, loc="left", fontsize=_FONT, fontweight="bold")
        axis.set_yticks(range(len(peers)), peers)
        axis.set_ylim(-0.6, len(peers) - 0.4)
        axis.set_xlim(0, max(highest, line or 0) * (1.16 if columns == 1 else 1.3))
        axis.tick_params(axis="y", length=0)
        if line is not None:
            _draw_reference(axis, line)
            axis.xaxis.set_major_locator(MultipleLocator(0.2 if highest < 1.5 else 0.5))
        else:
            axis.xaxis.set_major_formatter(ticks or _ticks_up_to(highest))
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(axis="x", color=RULE, linewidth=0.7)
        axis.set_axisbelow(True)
    figure.supxlabel(label, fontsize=_FONT, color=INK)
    return figure


def _draw_reference(axis: Any, place: float) -> None:
    """A line across the panel, and what it is above it."""
    axis.axvline(place, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    axis.annotate(
        f"C = {place:.2f}",
        (place, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=_FONT - 2.5,
        color=MUTED,
    )


def _ticks_up_to(highest: float) -> Callable[[float, int], str]:
    """What formats the ticks of an axis: all in one unit, as the labels of its longest bars are."""
    units = ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))
    scale, unit = next((scale, unit) for scale, unit in units if highest >= scale or scale == 1.0)
    return lambda value, _: f"{value / scale:,g}{unit if value else ''}"


def _draw_bar(axis: Any, place: int, value: Figure, colour: str) -> None:
    axis.barh(place, value.median, height=0.66, color=colour)
    if value.lowest < value.highest:
        axis.plot([value.lowest, value.highest], [place, place], "-|", color=INK, linewidth=1.6, markersize=6)


def _label_bar(axis: Any, place: int, end: float, text: str) -> None:
    axis.annotate(
        text,
        (end, place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=_FONT - 1.5,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},
    )


def _ranked(rows: Sequence[Row], shown: Callable[[Row], Figure | None]) -> list[str]:
    """The peers, lowest first, by their mean place among the best of each case."""
    best: dict[Case, float] = {}
    for row in rows:
        if (found := shown(row)) is not None:
            best[case_of(row)] = max(best.get(case_of(row), 0.0), found.median)
    shares: dict[str, list[float]] = {}
    for row in rows:
        if (found := shown(row)) is not None:
            shares.setdefault(row.peer, []).append(found.median / (best[case_of(row)] or 1.0))
    return sorted(shares, key=lambda peer: sum(shares[peer]) / len(shares[peer]))


def _starved(row: Row) -> str:
    return f"  {row.starved:,} starved" if row.starved else ""


# -- how long a reply takes --------------------------------------------------------------------------------


def _latencies(workload: str, rows: Sequence[Row], styles: Mapping[str, Style]) -> Picture:
    cases = cases_of(rows)
    longest = max(len({row.peer for row in rows if case_of(row) == case}) for case in cases)
    figure = _figure(len(cases) * max(3.2, 0.2 * longest + 0.9))
    axes = figure.subplots(len(cases), 1, squeeze=False)
    keys = list(dict.fromkeys(key for row in rows for key in row.latency))
    for case, axis in zip(cases, axes.flat, strict=True):
        ends = []
        for row in (row for row in rows if case_of(row) == case):
            if points := [(keys.index(key), seconds) for key, seconds in _points(row)]:
                _draw_line(axis, points, styles[row.peer])
                ends.append((points[-1], row.peer))
        _logarithmic(axis, _tick_text)
        axis.set_xticks(range(len(keys)), keys)
        axis.set_xlim(-0.15, len(keys) - 0.85)
        axis.set_ylabel("latency")
        loop = "closed loop" if case.open_loop_rate is None else "open loop"
        axis.set_title(f"{case.title} ({loop})", loc="left", fontsize=_FONT, fontweight="bold")
        _finish_lines(axis, ends, styles)
    figure.supxlabel("share of the replies that took no longer", fontsize=_FONT, color=INK)
    caption = "Latency by percentile, medians over the rounds, on a logarithmic axis. Lower is better."
    if any(case.open_loop_rate is None for case in cases):
        caption += (
            " In a closed loop a connection asks again only after its last reply: these latencies hold for"
            " that load alone, and a slower server is asked less often."
        )
    return Picture(f"latency-{workload}", workload, f"{workload}: how long a reply takes", caption, figure)


def _points(row: Row) -> list[tuple[str, float]]:
    """Percentiles and seconds; a logarithmic axis has no place for 0."""
    return [(key, figure.median) for key, figure in row.latency.items() if figure and figure.median > 0]


# -- what many connections cost ----------------------------------------------------------------------------


def _scaling(rows: Sequence[Row], styles: Mapping[str, Style]) -> Iterator[Picture]:
    """For each workload that ran with several numbers of connections, all else equal."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if cost_of(row) and row.workload != "bulk" and row.open_loop_rate is None:
            groups.setdefault((row.workload, row.size), []).append(row)
    for (workload, size), found in groups.items():
        counts = sorted({row.connections for row in found})
        if len(counts) < 2:
            continue
        unit = case_of(found[0]).unit
        peers = peers_of(found)
        figure = _figure(max(4.2, 0.21 * len(peers) + 1.2))
        axis = figure.subplots()
        ends = []
        for peer in peers:
            points = sorted(
                (row.connections, cost.median) for row in found if row.peer == peer and (cost := cost_of(row))
            )
            _draw_line(axis, points, styles[peer])
            ends.append((points[-1], peer))
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.minorticks_off()
        _logarithmic(axis, _tick_text)
        axis.set_xlim(counts[0] * 0.9, counts[-1] * 1.06)
        axis.set_xlabel("connections" if unit == "message" else "connections at a time")
        axis.set_ylabel(f"CPU time per {unit}")
        _finish_lines(axis, ends, styles)
        sizes = f" of {size:,} bytes" if unit == "message" else ""
        caption = (
            f"CPU time of the server for each {unit}{sizes} against the number of connections, both"
            " logarithmic. Lower is better; a level line scales."
        )
        yield Picture(
            f"scaling-{workload}-{size}", workload, f"{workload}: the cost of many", caption, figure
        )


# -- common ------------------------------------------------------------------------------------------------


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # The space between panels: a title belongs to the panel below it.
    return Figure(figsize=(_WIDTH, height), layout=ConstrainedLayoutEngine(hspace=0.05))


def _draw_line(axis: Any, points: Sequence[tuple[float, float]], style: Style) -> None:
    axis.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=style.colour,
        marker=style.marker,
        linestyle=style.dashes,
        linewidth=1.8,
        markersize=6,
        markeredgecolor=MUTED,
        markeredgewidth=0.7,
    )


def _finish_lines(
    axis: Any, ends: Sequence[tuple[tuple[float, float], str]], styles: Mapping[str, Style]
) -> None:
    """Grid, and a label beside the end of each line, moved apart where they would overlap."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color=RULE, linewidth=0.7)
    axis.set_axisbelow(True)
    if not ends:
        return
    axis.autoscale(False)
    to_axes = axis.transScale + axis.transLimits
    to_data = to_axes.inverted()
    ordered = sorted(ends, key=lambda end: end[0][1])
    wanted = [to_axes.transform(point)[1] for point, _ in ordered]
    last = max(point[0] for point, _ in ends)
    for (point, peer), place in zip(ordered, _apart(wanted, 1 / max(12, len(ordered))), strict=True):
        beside = to_data.transform((1.05, place))
        # Dotted where it would look like more of a line that ends early.
        dashes = "-" if point[0] == last else (0, (1, 3))
        axis.plot(
            *zip(point, beside, strict=True),
            color=styles[peer].colour,
            linestyle=dashes,
            linewidth=1.1,
            clip_on=False,
        )
        axis.text(1.06, place, peer, transform=axis.transAxes, va="center", fontsize=_FONT - 1.5, color=INK)


def _logarithmic(axis: Any, text: Callable[[float], str]) -> None:
    """A logarithmic axis upwards with enough ticks to read a value at."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: text(value))
    axis.yaxis.set_minor_locator(NullLocator())


def _apart(wanted: Sequence[float], distance: float) -> list[float]:
    """Places from 0 to 1 for labels: at least ``distance`` apart, near those that are wanted, in their order.

    Labels that would overlap form a block around the mean of what they want; a block that then touches the
    one below takes that in.
    """
    blocks: list[list[float]] = []  # of the places wanted, less what the order alone asks for

    def mean(block: Sequence[float]) -> float:
        return sum(block) / len(block)

    for number, place in enumerate(wanted):
        blocks.append([place - number * distance])
        while len(blocks) > 1 and mean(blocks[-2]) > mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    starts = [mean(block) for block in blocks for _ in block]
    highest = 1 - (len(starts) - 1) * distance  # the first one's place if they fill all there is
    return [min(max(start, 0.0), highest) + number * distance for number, start in enumerate(starts)]


def _tick_text(seconds: float) -> str:
    """``20 µs``: a tick's value is round."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds * 1e9:g} ns"
