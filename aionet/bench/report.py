"""What a person sees at the end: tables and what must be said beside them.

One peer alone gets a column for each case, so that the table fits a narrow terminal; several get a table for
each case, the best first, with their share of the bare C loop. With `rich` installed and a terminal on the
other side tables are drawn by rich, otherwise they are plain aligned text; both show the same cells.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from .cases import Case, best_first, case_of, cases_of, count_text, duration_text, figure_of, losses_of
from .progress import has_rich
from .summary import Figure, Row, summarise

__all__ = ["Table", "narrowed", "notes", "plain_table", "print_report", "tables_of"]

_SHOWN = ("p50", "p99", "p99.9")
_DISPENSABLE = (
    "errors",
    "p50",
    "p99.9",
    "load",
)  # in this order, where a terminal is narrow; notes have the first


@dataclass(frozen=True, slots=True)
class Table:
    """Cells: the first row is the heading, the first column are names."""

    title: str
    cells: Sequence[Sequence[str]]


def print_report(record: Mapping[str, Any], stream: IO[str] | None = None) -> None:
    """The tables and their notes, on standard output unless ``stream`` is given."""
    stream = sys.stdout if stream is None else stream
    rich = stream.isatty() and has_rich()
    for table in tables_of(record):
        if rich:
            _print_rich(table, stream)
        else:
            print(plain_table(table), end="\n\n", file=stream)
    for note in notes(record):
        print(note, file=stream)


def tables_of(record: Mapping[str, Any]) -> list[Table]:
    """The tables of a record."""
    rows = summarise(record)
    if len({row.peer for row in rows}) == 1:
        return [_upright(rows)]
    return [_beside(case, [row for row in rows if case_of(row) == case]) for case in cases_of(rows)]


def plain_table(table: Table) -> str:
    """The table as aligned text."""
    columns = range(len(table.cells[0]))
    widths = [max(len(row[column]) for row in table.cells) for column in columns]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in table.cells
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join([table.title, *lines] if table.title else lines)


def narrowed(table: Table, width: int) -> Table:
    """The table without columns that can be done without, as far as it must to be that narrow."""
    for name in _DISPENSABLE:
        if len(plain_table(Table("", table.cells)).splitlines()[1]) + 2 <= width:
            break
        if name in table.cells[0]:
            place = list(table.cells[0]).index(name)
            table = Table(table.title, [[*row[:place], *row[place + 1 :]] for row in table.cells])
    return table


def notes(record: Mapping[str, Any]) -> list[str]:
    """What the figures need said beside them."""
    rows = summarise(record)
    machine, python = record["machine"], record["python"]
    said = [
        f"{python['version']} ({', '.join(python.get('build', ()))}), {machine['kernel']}, {machine['cpu']},"
        f" {machine['cpus']} cpus"
    ]
    if any(row.open_loop_rate is None and row.workload not in ("idle", "bulk") for row in rows):
        said.append("closed loop: one request in flight per connection; latencies hold for this load only")
    if not record.get("spinning", True):
        said.append(
            "one cpu: the load sleeps and shares the server's cpu; rates are lower than they could be"
        )
    if any(turn.get("generator") == "python" for turn in record["turns"]):
        said.append("the load ran in plain Python, since no engine was compiled: it may limit the rates")
    said.extend(_row_notes(rows))
    said.extend(f"skipped: {peer}: {reason}" for peer, reason in record["skipped"].items())
    said.extend(
        f"failed: {turn['workload']} {turn['peer']}, round {turn['round']}: {_shortened(turn['reason'])}"
        for turn in record.get("failed", ())
    )
    said.extend(
        f"{peer} wrote to its standard error: {text}" for peer, text in record.get("messages", {}).items()
    )
    return said


def _shortened(text: str) -> str:
    """The first line and the last, between which a traceback may be."""
    first, *more = text.strip().splitlines() or [""]
    return f"{first} {more[-1].strip()}" if more else first


def _row_notes(rows: Sequence[Row]) -> list[str]:
    said = []
    saturated = [f"{row.workload} {row.peer}" for row in rows if row.saturated]
    if saturated:
        said.append(
            f"load saturated: {', '.join(saturated)}: the load, not the server, limited the rate;"
            " requests per CPU second still hold"
        )
    for row in rows:
        name = f"{row.workload} {row.peer}"
        said.extend(f"{name}: {count:,} x {kind}" for kind, count in row.errors.items())
        if row.overdue:
            said.append(f"{name}: {row.overdue:,} requests were due and had no reply in the end")
        if row.starved:
            said.append(f"{name}: {row.starved:,} connections had less than a tenth of the mean service")
        if losses_of(row):
            said.append(
                f"{name}: this machine's listening sockets had no room for {losses_of(row):,} connections"
                f" (ListenOverflows {row.listen_overflows or 0:,}, ListenDrops {row.listen_drops or 0:,})"
            )
    return said


# -- one peer: a column for each case -----------------------------------------------------------------------


def _upright(rows: Sequence[Row]) -> Table:
    labels = ["", *(label for label, _ in _cells_of(rows[0]))]
    columns = [[row.workload, *(cell for _, cell in _cells_of(row))] for row in rows]
    cells = [[label, *(column[place] for column in columns)] for place, label in enumerate(labels)]
    dashes = {"-", ""}
    return Table("", [row for row in cells if set(row[1:]) - dashes])


def _cells_of(row: Row) -> list[tuple[str, str]]:
    return [
        ("peer", row.peer),
        ("engine, loop", ", ".join(filter(None, (row.engine, row.loop)))),
        ("connections x bytes", f"{row.connections:,} x {row.size:,}"),
        ("asked for, per second", _number(row.open_loop_rate, ",.0f")),
        ("requests per CPU second", _figure(row.per_cpu_second)),
        ("bytes per CPU second", _figure(row.bytes_per_cpu_second)),
        ("private bytes of a connection", _figure(row.private_bytes)),
        ("requests per second", _figure(row.rate)),
        *((f"latency {name}", duration_text(_median(row.latency.get(name)))) for name in _SHOWN),
        ("errors", f"{sum(row.errors.values()):,}"),
        ("load busy", _number(_median(row.busy), ".0%")),
    ]


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    if figure.lowest == figure.highest:
        return f"{figure.median:,.0f}"
    return f"{figure.median:,.0f} ({figure.lowest:,.0f}-{figure.highest:,.0f})"


# -- several peers: a table for each case -------------------------------------------------------------------


def _beside(case: Case, rows: Sequence[Row]) -> Table:
    if case.workload == "idle":
        heading = ["peer", "private bytes of a connection", "lowest", "highest", "errors"]
        return Table(case.title, [heading, *(_idle_line(row) for row in best_first(rows))])
    bulk = case.workload == "bulk"
    unit = "bytes" if bulk else "requests"
    heading = ["peer", "per CPU s", "of c", "spread", "per s"]
    if not bulk:
        heading += _SHOWN
    heading += ["load", "errors"]
    title = f"{case.title}: {unit} per CPU second of the server, share of c's, {unit} per second"
    return Table(title, [heading, *(_line(row, bulk=bulk) for row in best_first(rows))])


def _line(row: Row, *, bulk: bool) -> list[str]:
    figure, ratio = figure_of(row), row.to_reference
    mark = "!" if row.saturated else ""
    return [
        _peer(row),
        count_text(figure.median) if figure else "-",
        _number(_median(ratio), ".2f"),
        f"{ratio.lowest:.2f}-{ratio.highest:.2f}" if ratio else "-",
        count_text(row.rate.median * (row.size if bulk else 1)) if row.rate else "-",
        *([] if bulk else [duration_text(_median(row.latency.get(name))) for name in _SHOWN]),
        _number(_median(row.busy), ".0%") + mark,
        f"{sum(row.errors.values()):,}",
    ]


def _idle_line(row: Row) -> list[str]:
    figure = row.private_bytes
    numbers = (
        ["-"] * 3
        if figure is None
        else [f"{figure.median:,.0f}", f"{figure.lowest:,.0f}", f"{figure.highest:,.0f}"]
    )
    return [_peer(row), *numbers, f"{sum(row.errors.values()):,}"]


def _peer(row: Row) -> str:
    told = row.engine in (None, "native") or row.peer.endswith(row.engine or "")
    return row.peer if told else f"{row.peer} ({row.engine})"


def _median(figure: Figure | None) -> float | None:
    return None if figure is None else figure.median


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _print_rich(table: Table, stream: IO[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(file=stream)
    heading, *rows = narrowed(table, console.width).cells
    look: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0)}
    drawn = RichTable(title=table.title or None, title_justify="left", **look)
    drawn.add_column(heading[0], no_wrap=True)
    for name in heading[1:]:
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        bad = (row[0] == "errors" and set(row[1:]) != {"0"}) or (heading[-1] == "errors" and row[-1] != "0")
        ours = row[0].startswith("aionet")
        drawn.add_row(*row, style="bold red" if bad else "bold" if ours else None)
    console.print(drawn)
