"""SIGHUP has two meanings: "read your configuration again", and "your terminal has gone".

Theory of operation
-------------------
To a service it means the first; to a program that was started by hand, whose window is closed, the second
(termios(3), POSIX.1). The terminal tells them apart: a process that had one can no longer open ``/dev/tty``
once it is gone. Under nohup(1) the signal is ignored, and stays so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

__all__ = ["hang_up_signals", "when_hung_up"]


def when_hung_up(end: Callable[[], object], read_again: Callable[[], object]) -> Callable[[], object]:
    """Return what to do at SIGHUP: `end` where the terminal that is there now has gone, else `read_again`."""
    had_terminal = _has_terminal()
    return lambda: end() if had_terminal and not _has_terminal() else read_again()


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def hang_up_signals() -> list[signal.Signals]:
    """Return SIGHUP, or nothing if whoever started this process has it ignored."""
    return [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
