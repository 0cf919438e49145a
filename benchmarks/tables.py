"""What benchmarks/README.md and README.md say of the stored records: text, made of nothing but the JSON.

Every peer that is ahead of aionet in a case has a line below the table of that case, and `NOTES` says why. A
peer without a note is an error: a record in which somebody new is ahead cannot be written up without an
answer.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aionet.bench.cases import (
    Case,
    best_first,
    case_of,
    cases_of,
    cost_of,
    count_text,
    duration_text,
    figure_of,
    peers_of,
    versions_text,
)
from aionet.bench.peers import PEERS
from aionet.bench.summary import REFERENCE, Figure, Row, summarise

OURS = "aionet"
"""Whom others are ahead of: the compiled engine on its own loop, which is what ``aionet.run()`` gives."""

NOTES: Mapping[str, Mapping[str, str]] = {
    "aiofastnet": {
        "": "transports in C that call a protocol's method: no task for a connection, no coroutine to enter",
        "idle": "a protocol and a transport in C; a connection of ours also has a task, its context and its"
        " handler's frame, which is what `await` is made of",
        "bulk": "`transport.write` takes the chunk and returns: no coroutine is entered for it",
    },
    "uvloop-protocol": {
        "": "a protocol's method is called from libuv: no task for a connection, no coroutine to enter",
        "idle": "a protocol and libuv's handle; a connection of ours also has a task, its context and its"
        " handler's frame, which is what `await` is made of",
        "bulk": "`transport.write` takes the chunk and returns: no coroutine is entered for it",
    },
    "uvloop-streams": {
        "": "libuv's transports below a reader and writer; ahead only where the kernel does nearly all work",
        "idle": "libuv's handle is smaller than a selector's transport",
    },
    "asyncio-protocol": {
        "": "a protocol's method is called from the loop: no task for a connection, no coroutine to enter",
        "idle": "a protocol and a transport, but no task, no context and no frame of a handler",
        "bulk": "`transport.write` takes the chunk and returns: no coroutine is entered for it",
    },
    "asyncio-streams": {
        "": "ahead only where the kernel does nearly all of the work",
    },
    "asyncio-sock": {
        "": "`loop.sock_recv` and `loop.sock_sendall` try the system call first and have no stream around it",
        "idle": "a bare socket without a stream around it",
    },
    "twisted": {
        "": "a protocol's method is called from the reactor: no task for a connection, no coroutine to enter",
        "idle": "a protocol and a transport, but no task, no context and no frame of a handler",
    },
    "gevent": {
        "": "a greenlet's switch is one of stacks in C, below the interpreter: no coroutine is entered",
        "idle": "a greenlet keeps only the part of its stack that is in use",
    },
    "threads": {
        "": "a blocking `recv` and `send` are the only system calls of an exchange: there is no event loop to"
        " ask. It pays with a thread for each connection",
        "idle": "a thread's stack counts only as far as it was touched",
    },
    "go": {
        "": "compiled code: no interpreter takes part, and a goroutine is cheaper than a task",
        "idle": "a goroutine's stack begins at 2 KiB, and its buffer is the handler's own",
    },
    "curio": {"": "a kernel of its own around generators, without a loop's handles and callbacks"},
    "trio": {"": "ahead only where the kernel does nearly all of the work"},
    "anyio": {"": "ahead only where the kernel does nearly all of the work"},
}
"""Why a peer can be ahead: by peer, then by workload; the empty name holds for all others."""

_WIDTH = 120


class MissingNoteError(Exception):
    """Somebody is ahead of aionet, and `NOTES` does not say why."""


def conditions(records: Iterable[Mapping[str, Any]]) -> str:
    """Where and when it was measured; each of the differing conditions, if the records differ."""
    pythons, machines, dates, versions = [], [], [], {}
    for record in records:
        python, machine = record["python"], record["machine"]
        pythons.append(f"{python['version']} ({', '.join(python['build'])})")
        gigabytes = (machine["memory"] or 0) / (1 << 30)
        machines.append(
            f"{machine['kernel']}; {machine['cpu']}, {machine['cpus']} cpus, {gigabytes:.0f} GiB of memory"
        )
        dates.append(record["started"][:10])
        versions |= record["versions"]
    return _filled(
        f"Measured on {_all(dates)}. {_all(pythons)}. {_all(machines)}. Versions: {versions_text(versions)}."
    )


def run_section(title: str, about: str, command: str, record: Mapping[str, Any]) -> str:
    """One record: its command, a table for each case, and who is ahead and why."""
    rows = summarise(record)
    parts = [f"### {title}", _filled(about), f"```sh\n{command}\n```"]
    for case in cases_of(rows):
        own = best_first(row for row in rows if case_of(row) == case)
        parts += [f"**{case.title}**", case_table(own, record.get("kinds", {}))]
        parts += ahead(own)
    parts += mallocs(record)
    if skipped := record.get("skipped"):
        said = "; ".join(f"{peer} ({reason})" for peer, reason in sorted(skipped.items()))
        parts.append(_filled(f"Not measured: {said}."))
    failed = {f"{turn['peer']} ({turn['reason']})" for turn in record.get("failed", ())}
    if failed:
        parts.append(_filled(f"Failed: {'; '.join(sorted(failed))}."))
    return "\n\n".join(parts)


def mallocs(record: Mapping[str, Any]) -> list[str]:
    """A line on which rows were taken with which state of glibc's malloc; servers in C and Go have none."""
    peers_by_state: dict[str, dict[str, None]] = {}
    for turn in record["turns"]:
        state = turn["malloc"] if "malloc" in turn else _malloc_of_all(record, turn["peer"])
        if state is not None:
            peers_by_state.setdefault(state, {})[turn["peer"]] = None
    lists = [
        f"{state} for {', '.join(peers)}" for state, peers in sorted(peers_by_state.items(), reverse=True)
    ]
    if len(lists) == 1:
        lists = [f"{state} for all servers in Python" for state in peers_by_state]
    return [_filled(f"malloc was {'; '.join(lists)}.")] if lists else []


def _malloc_of_all(record: Mapping[str, Any], peer: str) -> str | None:
    """Of an earlier record, which knows one state for all servers in Python."""
    known = PEERS.get(peer)
    compiled = known is not None and known.file.endswith((".c", ".go"))
    state: str | None = None if compiled else record.get("malloc")
    return state


def case_table(rows: Sequence[Row], kinds: Mapping[str, str]) -> str:
    """A line for each peer, the best first."""
    if rows[0].workload == "idle":
        lines = [
            [_named(row), kinds.get(row.peer, ""), _spread(row.private_bytes, "{:,.0f}")] for row in rows
        ]
        return _table(["", "written with", "private bytes of a connection"], lines)
    unit = case_of(rows[0]).unit
    heads = [
        "",
        "written with",
        "share of C",
        "times asyncio streams",
        f"{unit}s per CPU second",
        "by the clock",
    ]
    percentiles = [key for key in ("p50", "p99", "p99.9") if any(row.latency.get(key) for row in rows)]
    lines = []
    for row in rows:
        figure, rate = figure_of(row), row.rate
        lines.append(
            [
                _named(row),
                kinds.get(row.peer, ""),
                _spread(row.to_reference, "{:.2f}"),
                _spread(row.to_plain, "{:.2f}"),
                count_text(figure.median) if figure else "-",
                f"{count_text(rate.median)}/s" if rate and unit != "byte" else "-",
                *(
                    duration_text(found.median if (found := row.latency.get(key)) else None)
                    for key in percentiles
                ),
                f"{row.starved:,}",
                f"{sum(row.errors.values()):,}",
            ]
        )
    return _table([*heads, *percentiles, "starved", "errors"], lines)


def ahead(rows: Sequence[Row]) -> list[str]:
    """A paragraph that names who is ahead of aionet in a case, and why; none if nobody is.

    Raises `MissingNoteError` if there is no answer.
    """
    lines = []
    for row in winners(rows):
        notes = NOTES.get(row.peer, {})
        note = notes.get(row.workload) or notes.get("")
        if note is None:
            raise MissingNoteError(f"{row.peer} is ahead in {case_of(row).title}: say why in NOTES")
        lines.append(_filled(f"- `{row.peer}`: {note}.", indent="  "))
    return ["Ahead of aionet here:", "\n".join(lines)] if lines else []


def winners(rows: Sequence[Row]) -> list[Row]:
    """Who has a better median than aionet, the reference apart."""
    own = next((figure_of(row) for row in rows if row.peer == OURS), None)
    if own is None:
        return []
    return [
        row
        for row in rows
        if not row.peer.startswith(OURS)
        and row.peer != REFERENCE
        and (figure := figure_of(row)) is not None
        and (figure.median < own.median if row.workload == "idle" else figure.median > own.median)
    ]


def scaling_table(record: Mapping[str, Any]) -> str:
    """CPU time per message or connection by the number of connections, and who is starved there."""
    rows = summarise(record)
    cases = cases_of(rows)
    found = {(row.peer, case_of(row)): row for row in rows}
    ranked = sorted(peers_of(rows), key=lambda peer: _cost_at(found.get((peer, cases[0]))))
    lines = [[_bold(peer), *(_scaling_cell(found.get((peer, case))) for case in cases)] for peer in ranked]
    heads = [f"{case.connections:,}" for case in cases]
    return _table([f"CPU time per {cases[0].unit}, with so many connections", *heads], lines)


def summary_table(columns: Mapping[str, tuple[Case, Mapping[str, Any]]], peers: Mapping[str, str]) -> str:
    """The project's README: one column for each case, peers by what they are called there."""
    cells: dict[str, list[str]] = {peer: [] for peer in peers}
    for case, record in columns.values():
        own = {row.peer: row for row in summarise(record) if case_of(row) == case}
        for peer, row in cells.items():
            row.append(_summary_cell(own.get(peer)))
    lines = [[name, *cells[peer]] for peer, name in peers.items() if set(cells[peer]) != {"-"}]
    return _table(["", *columns], lines)


def instructions_table(stored: Mapping[str, Any], units: Mapping[str, str]) -> str:
    """The guard's counts: one line for each build."""
    builds: Mapping[str, Mapping[str, Mapping[str, int]]] = stored["builds"]
    columns = sorted({(w, peer) for counts in builds.values() for w, of in counts.items() for peer in of})
    columns.sort(key=lambda column: list(units).index(column[0]))
    lines = [
        [build, *(f"{found:,}" if (found := counts.get(w, {}).get(peer)) else "-" for w, peer in columns)]
        for build, counts in sorted(builds.items())
    ]
    return _table(["build", *(f"`{peer}`, a {units[workload]}" for workload, peer in columns)], lines)


# -- cells --------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    aligned = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, aligned, *lines))


def _named(row: Row) -> str:
    return _bold(row.peer)


def _bold(peer: str) -> str:
    return f"**{peer}**" if peer.startswith(OURS) else peer


def _spread(figure: Figure | None, form: str) -> str:
    if figure is None:
        return "-"
    median, lowest, highest = (form.format(value) for value in (figure.median, figure.lowest, figure.highest))
    return median if lowest == highest else f"{median} ({lowest} to {highest})"


def _cost_at(row: Row | None) -> float:
    cost = None if row is None else cost_of(row)
    return float("inf") if cost is None else cost.median


def _scaling_cell(row: Row | None) -> str:
    cost = None if row is None else cost_of(row)
    if row is None or cost is None:
        return "-"
    return duration_text(cost.median) + (f", {row.starved:,} starved" if row.starved else "")


def _summary_cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row.workload == "idle":
        return f"{row.private_bytes.median:,.0f} bytes" if row.private_bytes else "-"
    return f"{row.to_reference.median:.2f}" if row.to_reference else "-"


def _all(values: Iterable[str]) -> str:
    """Each once, in the order in which they come; those that follow each other are often the same."""
    return " and ".join(dict.fromkeys(key for key, _ in itertools.groupby(values)))


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
