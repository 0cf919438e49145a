"""What a person sees: progress while it runs, a table at the end.

The table has one column per workload, so that it fits a narrow terminal. With `rich` installed and a terminal
on the other side it is drawn by rich, otherwise it is plain aligned text; both show the same cells. Progress
goes to standard error, and only if that is a terminal.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

from .runner import BenchProgress, BenchResult

__all__ = ["ProgressDisplay", "notes", "plain_table", "print_report"]

_LOAD_LIMITED = 0.9  # a busy share above which the load process is named as the limit


class ProgressDisplay:
    """A context manager whose `show()` is the runner's ``on_progress``; silent where nobody watches."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._visible = self._stream.isatty()
        self._rich: Any = None
        self._tasks: dict[str, Any] = {}
        self._written = 0

    def __enter__(self) -> ProgressDisplay:
        if self._visible and _has_rich():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}")]
            self._rich = Progress(
                *columns, TimeRemainingColumn(), console=Console(file=self._stream), transient=True
            )
            self._rich.start()
        return self

    def show(self, progress: BenchProgress) -> None:
        """Draw where the measurement is."""
        if not self._visible:
            return
        if self._rich is None:
            share = min(1.0, progress.elapsed / progress.seconds)
            self._rewrite(f"{progress.workload:>6}  {share:4.0%}  {_what_happens(progress)}")
            return
        if progress.workload not in self._tasks:
            self._tasks[progress.workload] = self._rich.add_task(progress.workload, what="")
        self._rich.update(
            self._tasks[progress.workload],
            total=progress.seconds,
            completed=min(progress.elapsed, progress.seconds),
            what=_what_happens(progress),
        )

    def _rewrite(self, line: str) -> None:
        self._stream.write("\r" + line.ljust(self._written))
        self._stream.flush()
        self._written = len(line)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
        elif self._written:
            self._rewrite("")
            self._stream.write("\r")


def print_report(results: Sequence[BenchResult], stream: IO[str] | None = None) -> None:
    """The table and its notes, on standard output unless ``stream`` is given."""
    stream = sys.stdout if stream is None else stream
    if stream.isatty() and _has_rich():
        _print_rich(results, stream)
    else:
        print(plain_table(results), file=stream)
    for note in notes(results):
        print(note, file=stream)


def plain_table(results: Sequence[BenchResult]) -> str:
    """The table as aligned text."""
    rows = [("", *(result.workload for result in results)), *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(results) + 1)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * len(results)))
    return "\n".join(lines)


def notes(results: Sequence[BenchResult]) -> list[str]:
    """What the figures need said beside them."""
    first = results[0]
    said = [f"{first.python}, {first.kernel}, {first.cpu}"]
    if all(result.closed_loop for result in results):
        said.append("closed loop: one request in flight per connection; latencies hold for this load only")
    if not first.spinning:
        said.append(
            "one cpu: the load process sleeps and shares the server's cpu; rates are lower than they could be"
        )
    limited = [result.workload for result in results if result.load_busy_share > _LOAD_LIMITED]
    if limited:
        said.append(
            f"{' and '.join(limited)}: the load process was busy nearly all the time and may have limited"
            " the rate; requests per CPU second still hold"
        )
    for result in results:
        said.extend(f"{result.workload}: {count:,} x {kind}" for kind, count in result.errors.items())
        if result.server_messages:
            said.append(f"{result.workload}: the server wrote:\n{result.server_messages}")
    return said


def _rows(results: Sequence[BenchResult]) -> list[tuple[str, ...]]:
    return [
        ("engine, loop", *(f"{result.engine}, {result.loop}" for result in results)),
        ("connections x bytes", *(f"{result.connections:,} x {result.size:,}" for result in results)),
        ("requests per second", *(f"{result.rate:,.0f}" for result in results)),
        ("latency p50", *(_duration(result.p50) for result in results)),
        ("latency p99", *(_duration(result.p99) for result in results)),
        ("latency p99.9", *(_duration(result.p99_9) for result in results)),
        ("errors", *(f"{sum(result.errors.values()):,}" for result in results)),
        ("bytes compared", *(f"{result.bytes_compared:,}" for result in results)),
        ("measured seconds", *(f"{result.seconds:.2f}" for result in results)),
        ("server CPU seconds", *(_number(result.server_cpu_seconds, ".2f") for result in results)),
        ("requests per CPU second", *(_number(result.requests_per_cpu_second, ",.0f") for result in results)),
        ("load process busy", *(f"{result.load_busy_share:.0%}" for result in results)),
    ]


def _print_rich(results: Sequence[BenchResult], stream: IO[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("")
    for result in results:
        table.add_column(result.workload, justify="right")
    for label, *cells in _rows(results):
        bad = label == "errors" and any(result.errors for result in results)
        table.add_row(label, *cells, style="bold red" if bad else None)
    Console(file=stream).print(table)


def _what_happens(progress: BenchProgress) -> str:
    if progress.phase != "measuring":
        return progress.phase
    rate = progress.requests / progress.elapsed if progress.elapsed > 0 else 0
    errors = f", {progress.errors:,} errors" if progress.errors else ""
    return f"{rate:,.0f} requests/s{errors}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds:.2f} s"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None
