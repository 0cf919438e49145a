"""Signals that come while a server starts: kept until the server handles them.

Theory of operation
-------------------
The import of a handler, and the start of workers, may take seconds. A process without a handler for SIGHUP,
SIGUSR1 or SIGUSR2 is ended by them, and tools that rotate logs or renew certificates send them at any time.
So these signals are noted from the beginning of a start, and sent to this process again once its event loop
handles them.

SIGTERM and SIGINT end a start at once, as they end any program. So does SIGQUIT, without a core dump.

A signal that has a handler already, or is ignored, as SIGHUP is under nohup(1), stays as it is.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["early_signals_kept", "send_early_signals"]

_noted: set[int] = set()


@contextmanager
def early_signals_kept() -> Iterator[None]:
    """Note the signals that a server handles later; nothing outside of the main thread."""
    before: dict[signal.Signals, Any] = {}
    for number, handler in _HANDLERS.items() if _in_main_thread() else ():
        if signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _noted.clear()


def send_early_signals() -> None:
    """Send the noted signals again, to the handlers that are there by now."""
    while _noted:
        os.kill(os.getpid(), _noted.pop())


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _note(number: int, _: FrameType | None) -> None:
    _noted.add(number)


def _end(number: int, _: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


_HANDLERS = {
    signal.SIGHUP: _note,
    signal.SIGUSR1: _note,
    signal.SIGUSR2: _note,
    signal.SIGQUIT: _end,
}
