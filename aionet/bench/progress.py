"""Where a run is, while it runs: on a terminal, and nowhere else.

With `rich` one bar for the whole run with the time that is left, a line for the turn that runs now, and above
them a line for each turn that is over; without it the same in one line that is written over.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any

from .cases import count_text
from .children import BenchError
from .plan import Turn
from .runner import BenchProgress

__all__ = ["ProgressDisplay", "has_rich"]


def has_rich() -> bool:
    """Whether `rich` is installed."""
    return importlib.util.find_spec("rich") is not None


class ProgressDisplay:
    """A context manager that is a run's observer; silent where nobody watches."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._visible = self._stream.isatty()
        self._rich: Any = None
        self._task: Any = None
        self._written = 0

    def __enter__(self) -> ProgressDisplay:
        if self._visible and has_rich():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = [TextColumn("{task.fields[place]}"), BarColumn(), TextColumn("{task.fields[what]}")]
            self._rich = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._rich.start()
        return self

    def on_progress(self, progress: BenchProgress) -> None:
        """Draw where the run is."""
        if not self._visible:
            return
        place = f"{progress.number}/{progress.turns} {_name(progress.turn)}"
        what = f"{_what_happens(progress)}, {_left(progress.remaining)} left"
        if self._rich is None:
            self._rewrite(f"{place}  {what}")
            return
        if self._task is None:
            self._task = self._rich.add_task("", total=1.0, place=place, what=what)
        self._rich.update(self._task, completed=progress.share, place=place, what=what)

    def on_turn(self, turn: Mapping[str, Any]) -> None:
        """Leave a line of what came out."""
        figure = turn.get("requests_per_cpu_second")
        if figure is not None:
            text = f"{count_text(figure)} requests per CPU second"
        elif turn.get("private_bytes_per_connection") is not None:
            text = f"{turn['private_bytes_per_connection']:,.0f} bytes per connection"
        else:
            text = f"{turn['rate']:,.0f} requests/s"
        marks = ["load saturated"] if turn.get("saturated") else []
        marks += [f"{count:,} x {kind}" for kind, count in turn["errors"].items()]
        self._leave(f"round {turn['round']}  {turn['workload']} {turn['peer']}: {', '.join([text, *marks])}")

    def on_failure(self, turn: Turn, error: BenchError) -> None:
        """Leave a line of what failed."""
        self._leave(f"round {turn.round}  {_name(turn)}: failed: {str(error).partition(chr(10))[0]}")

    def _leave(self, line: str) -> None:
        if not self._visible:
            return
        if self._rich is not None:
            self._rich.console.print(line, markup=False, highlight=False)
        else:
            self._rewrite(line)
            self._stream.write("\n")
            self._written = 0

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


def _name(turn: Turn) -> str:
    return f"{turn.workload.name} {turn.name}"


def _what_happens(progress: BenchProgress) -> str:
    if progress.phase != "measuring":
        return progress.phase
    errors = f", {progress.errors:,} errors" if progress.errors else ""
    if not progress.requests or progress.elapsed <= 0:
        return f"measuring{errors}"
    return f"{progress.requests / progress.elapsed:,.0f} requests/s{errors}"


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"
