"""``--report DIR``: a page that shows a record, and the pictures on it as files.

Theory of operation
-------------------
`write_report()` needs a record and nothing else, so a page can be made of an old one. The page is one file:
pictures are in it as SVG, its style is in it, and it asks no network for anything. A reader first sees what
ran where, then for each workload the pictures, and below them, folded, the figures. What makes a figure
doubtful, such as errors, a load that was at its own limit or connections that the kernel turned away, is said
above all of them, because nobody looks for it at the bottom.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .cases import (
    Case,
    best_first,
    case_of,
    cases_of,
    count_text,
    duration_text,
    figure_of,
    losses_of,
    size_text,
    versions_text,
)
from .children import BenchError
from .plots import Picture, draw, inline_svg, save
from .summary import REFERENCE, Figure, Row, summarise

__all__ = ["warnings_of", "write_report"]

_ABOUT = {
    "accept": "A client connects, sends a byte, gets it back and resets: the cost of a connection.",
    "connect": "A client connects and ends, without a byte: what accepting alone costs.",
    "tls-accept": "A client connects, shakes hands, exchanges a byte: the cost of an encrypted connection.",
    "echo": "Each connection has one message in flight: the cost of a message.",
    "tls-echo": "As echo, encrypted.",
    "bulk": "The server sends as fast as the client takes it: the cost of a byte.",
    "fairness": "How evenly many connections are served.",
    "idle": "Connections that do nothing after one byte: what each costs in memory.",
}


def write_report(record: Mapping[str, Any], directory: Path) -> Path:
    """Store the page and its pictures, as PNG and SVG, in ``directory``, which is made; the page's path.

    Raises `BenchError` if matplotlib is not installed, nothing was measured or a file cannot be written.
    """
    rows = summarise(record)
    if not rows:
        raise BenchError("nothing was measured, so there is nothing to report")
    pictures = draw(rows)
    page = directory / "index.html"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            save(picture, directory)
        page.write_text(_page(record, rows, pictures), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"the report cannot be written: {error}") from error
    return page


def warnings_of(rows: Sequence[Row]) -> list[str]:
    """What a reader has to know before any figure, a sentence each."""
    found = []
    for case in cases_of(rows):
        own = [row for row in rows if case_of(row) == case]
        if said := _each(
            own, lambda row: ", ".join(f"{count:,} x {kind}" for kind, count in row.errors.items())
        ):
            found.append(f"{case.title}: errors, so that these figures are not to be trusted: {said}.")
        if said := _each(own, lambda row: f"{row.overdue:,}" if row.overdue else ""):
            found.append(f"{case.title}: requests that were due and had no reply in the end: {said}.")
        if said := _each(own, lambda row: f"{losses_of(row):,}" if losses_of(row) else ""):
            found.append(
                f"{case.title}: connections that the kernel turned away, because a listener's queue was full:"
                f" {said}."
            )
    worst: dict[str, Row] = {}
    for row in rows:
        if row.starved > (worst[row.peer].starved if row.peer in worst else 0):
            worst[row.peer] = row
    if worst:
        names = ", ".join(
            f"{peer} ({row.starved:,} of {row.connections:,})" for peer, row in sorted(worst.items())
        )
        found.append(
            f"Connections served less than a tenth of the mean, where it was worst: {names}. A server that"
            " leaves some connections waiting looks cheaper than one that serves all."
        )
    if any(row.saturated for row in rows):
        found.append(
            "Turns marked “load at its limit” were limited by the program that makes the load: there the rate"
            " is not the server's own; the cost per request still holds."
        )
    return found


def _each(rows: Sequence[Row], text: Callable[[Row], str]) -> str:
    """``aionet (3), trio (1)``: the rows that there is something to say of."""
    return ", ".join(f"{row.peer} ({said})" for row in rows if (said := text(row)))


# -- the page ----------------------------------------------------------------------------------------------


def _page(record: Mapping[str, Any], rows: Sequence[Row], pictures: Sequence[Picture]) -> str:
    body = "\n".join([*_head(record, rows), *_sections(rows, pictures), *_foot(record)])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>aionet bench</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _head(record: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    yield "<h1>What a CPU second brings</h1>"
    rounds = max(row.rounds for row in rows)
    many = "one round" if rounds == 1 else f"medians of {rounds} rounds; peers take turns in each"
    yield f"<p class=lead>Servers on TCP, measured in one run on one machine: {many}.</p>"
    yield "<dl>"
    yield _fact("command", f"<code>{escape(shlex.join(record.get('command') or ['aionet', 'bench']))}</code>")
    yield _fact("started", escape(str(record.get("started", "not recorded"))))
    yield _fact("machine", _facts(record.get("machine")))
    yield _fact("Python", _facts(record.get("python")))
    yield "</dl>"
    if warnings := [*_failures(record), *warnings_of(rows)]:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
        yield f"<section class=warnings><h2>Before you read on</h2><ul>{items}</ul></section>"
    if skipped := record.get("skipped"):
        items = "; ".join(f"{escape(peer)} ({escape(str(reason))})" for peer, reason in skipped.items())
        yield f"<p class=note>Not measured here: {items}.</p>"


def _failures(record: Mapping[str, Any]) -> Iterator[str]:
    for turn in record.get("failed", ()):
        reason = turn["reason"].partition("\n")[0]  # what follows is what its process wrote
        yield f"{turn['peer']}, {turn['workload']}, round {turn['round']} failed: {reason.rstrip(':.')}."


def _sections(rows: Sequence[Row], pictures: Sequence[Picture]) -> Iterator[str]:
    for workload in dict.fromkeys(case.workload for case in cases_of(rows)):
        own = [row for row in rows if row.workload == workload]
        yield f"<section><h2>{escape(workload)}</h2>"
        if workload in _ABOUT:
            yield f"<p>{escape(_ABOUT[workload])}</p>"
        for picture in pictures:
            if picture.workload == workload:
                yield f"<h3>{escape(_heading(picture.title))}</h3>"
                caption = escape(picture.caption)
                yield f"<figure>{inline_svg(picture)}<figcaption>{caption}</figcaption></figure>"
        cases = cases_of(own)
        yield f"<details{' open' if len(cases) == 1 else ''}><summary>The figures</summary>"
        for case in cases:
            yield _table(case, [row for row in own if case_of(row) == case])
        yield "</details></section>"


def _heading(title: str) -> str:
    """The title of a picture below the heading of its workload, which it begins with."""
    text = title.rpartition(": ")[2]
    return text[:1].upper() + text[1:]


def _foot(record: Mapping[str, Any]) -> Iterator[str]:
    yield "<section><h2>How it was measured</h2><ul>"
    for sentence in (
        "The figure to trust is requests per CPU second of the server: replies received, divided by the"
        " user and system time that the server's process used meanwhile. It hardly moves when a neighbour"
        " takes the machine.",
        "A ratio is taken between two turns of the same round. 1.00 is a bare epoll loop in C: what a server"
        " reaches that does nothing but system calls.",
        "Every byte is compared with what was sent.",
        "Rates and latencies by the clock move with what else the machine does, and figures of different"
        " machines say nothing of each other.",
    ):
        yield f"<li>{escape(sentence)}</li>"
    yield "</ul>"
    if versions := record.get("versions"):
        yield f"<p>Versions: {escape(versions_text(versions))}.</p>"
    yield "</section>"


def _fact(name: str, html: str) -> str:
    return f"<dt>{name}</dt><dd>{html}</dd>"


def _facts(value: object) -> str:
    """What a record says of the machine or the interpreter, in one line."""
    if not isinstance(value, Mapping):
        return escape(str(value or "not recorded"))
    parts = []
    for key, fact in value.items():
        if key == "memory" and isinstance(fact, int):
            parts.append(f"{size_text(fact)} of memory")
        elif key == "cpus":
            parts.append("1 cpu" if fact == 1 else f"{fact} cpus")
        elif isinstance(fact, Sequence):
            parts.append(fact if isinstance(fact, str) else ", ".join(map(str, fact)))
        else:
            parts.append(f"{key}: {fact}")
    return escape(", ".join(parts))


# -- tables ------------------------------------------------------------------------------------------------


def _table(case: Case, rows: Sequence[Row]) -> str:
    rows = best_first(rows)
    columns = _columns(case, rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", *columns))
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell[number])}</td>" for cell in columns.values())
        kind = "ours" if row.peer.startswith("aionet") else "reference" if row.peer == REFERENCE else ""
        lines.append(f'<tr class="{kind}"><th>{escape(row.peer)}</th>{cells}</tr>')
    return (
        f"<h4>{escape(case.title)}</h4>"
        f'<div class=wide tabindex=0 role=region aria-label="{escape(case.title)}"><table>'
        f"<thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _columns(case: Case, rows: Sequence[Row]) -> dict[str, list[str]]:
    """The columns in which anything is to be said: name -> cells."""
    if case.workload == "idle":
        return {
            "bytes per connection": [
                _spread(row, figure_of(row), lambda value: f"{value:,.0f}") for row in rows
            ]
        }
    unit = "bytes" if case.unit == "byte" else f"{case.unit}s"
    columns = {
        f"{unit} per CPU second": [_spread(row, figure_of(row), count_text) for row in rows],
        "of C": [_spread(row, row.to_reference, lambda value: f"{value:.2f}") for row in rows],
        "of asyncio streams": [_spread(row, row.to_plain, lambda value: f"{value:.2f}") for row in rows],
        "by the clock": [
            "-" if row.rate is None or case.unit == "byte" else f"{count_text(row.rate.median)}/s"
            for row in rows
        ],
    }
    for key in dict.fromkeys(key for row in rows for key in row.latency):
        latencies = (row.latency.get(key) for row in rows)
        columns[key] = [duration_text(latency.median if latency else None) for latency in latencies]
    columns["starved"] = [f"{row.starved:,}" for row in rows]
    columns["errors"] = [f"{sum(row.errors.values()):,}" for row in rows]
    columns["notes"] = ["load at its limit" if row.saturated else "" for row in rows]
    return {name: cells for name, cells in columns.items() if set(cells) - {"", "-"}}


def _spread(row: Row, figure: Figure | None, text: Callable[[float], str]) -> str:
    if figure is None:
        return "-"
    if row.rounds == 1:
        return text(figure.median)
    return f"{text(figure.median)} ({text(figure.lowest)} to {text(figure.highest)})"


_STYLE = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --muted: #59616b; --rule: #d5dae0; --paper: #fefefe; --ours: #fff0e6; --warn: #fff8e0;
  --tint: #ff8c3c24; --shade: #1b1f2447; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e9ed; --muted: #9ba4ae; --rule: #363c44; --paper: #15181c; --ours: #33231a; --warn: #2d2815;
  --tint: #ff8c3c22; --shade: #e6e9ed55; } }
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); background: var(--paper);
  max-width: 58rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
h3 { margin: 1.5rem 0 .5rem; } h4 { margin: 1.25rem 0 .25rem; }
.lead { font-size: 1.15rem; color: var(--muted); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; } dt { color: var(--muted); }
dd { margin: 0; } code { font-size: .9em; overflow-wrap: anywhere; }
.warnings { background: var(--warn); border-radius: .5rem; padding: .1rem 1rem .5rem; margin-top: 1.5rem; }
.warnings h2 { border: 0; margin: .5rem 0 0; padding: 0; font-size: 1.1rem; }
.note, figcaption, summary { color: var(--muted); }
figure { margin: 0 0 1.5rem; } figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .9rem; margin-top: .25rem; } summary { cursor: pointer; padding: .25rem 0; }
.wide { overflow-x: auto; width: fit-content; min-width: 100%; max-width: calc(100vw - 3rem);
  margin-left: 50%; transform: translateX(-50%);
  background: linear-gradient(to left, var(--paper) 3rem, transparent 6rem) local,
    linear-gradient(to left, transparent 1px, var(--shade) 1px, transparent 2.5rem); }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
tbody th, thead th:first-child { text-align: left; font-weight: 600; position: sticky; left: 0;
  background: var(--paper); box-shadow: 1px 0 var(--rule); }
tr.ours td { background: var(--tint); } tr.ours th { background: var(--ours); }
tr.reference { color: var(--muted); }
"""
