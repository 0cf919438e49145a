"""Processes by their number: those that another one has started, and how to see their end all the same."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Process", "children_of"]

PATIENCE = 15.0


def children_of(pid: int) -> list[int]:
    """The processes that it has started and that have not ended."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


class Process:
    """A process by its number, held so that the number cannot become another's (pidfd). Killed at the end."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        signal.pidfd_send_signal(self._fd, number)

    def ends(self, seconds: float = PATIENCE) -> bool:
        """Whether it ends within `seconds`."""
        return bool(select.select([self._fd], [], [], seconds)[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self._fd)
