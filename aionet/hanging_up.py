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

__all__ = ["hang_up_signals", "has_terminal"]


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def hang_up_signals() -> list[signal.Signals]:
    """Return SIGHUP, or nothing if whoever started this process has it ignored."""
    return [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
