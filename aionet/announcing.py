"""Act, then announce: what is logged and printed can fail, and changes nothing when it does.

Theory of operation
-------------------
What a server says goes where others decide what happens to it. A disk is full, the reader of a pipe has ended
by the same Ctrl-C, a terminal is closed, a filter of the user's raises. None of that is a reason to serve,
drain or exit otherwise. So everything that aionet says to people passes through here.

*Log* is what modules have in place of a `logging.Logger`. `logging` keeps to itself most of what `emit`
raises; what filters raise, handlers that open a file again, or a `handleError` whose standard error is
closed, comes out of the call. Here it ends. The first failure of each logger is one line on standard error,
unless `logging.raiseExceptions` is off; a line for each lost record would fill the next disk.

*say* writes a line to standard error, if that can be done.

*report* is for loops that are aionet's own, as their exception handler. asyncio logs what a callback raises,
and where that log raises as well, the error leaves the loop and ends the server.

Code calls these after it has acted, where the order is free: a write may also take long.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

__all__ = ["Log", "report", "say"]

_CALLER = 3  # frames from `logging.Logger.log` to the code that calls a method of `Log`

_failed: set[str] = set()
"""The names of loggers that have failed."""


def say(message: str) -> None:
    """Write one line to standard error. Raises nothing: where that fails, the line is lost."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        stream.write(f"{message}\n")
        stream.flush()
    except Exception:
        pass


def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """As `loop.default_exception_handler`, but that it raises nothing."""
    try:
        loop.default_exception_handler(context)
    except (Exception, asyncio.CancelledError) as error:
        _note_loss("asyncio", error)


class Log:
    """A logger whose methods raise nothing."""

    __slots__ = ("_logger", "isEnabledFor")

    def __init__(self, logger: str | logging.Logger) -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self.isEnabledFor = self._logger.isEnabledFor

    def debug(self, message: str, *args: object, **more: Any) -> None:
        """As `logging.Logger.debug`."""
        self._write(logging.DEBUG, message, args, more)

    def info(self, message: str, *args: object, **more: Any) -> None:
        """As `logging.Logger.info`."""
        self._write(logging.INFO, message, args, more)

    def warning(self, message: str, *args: object, **more: Any) -> None:
        """As `logging.Logger.warning`."""
        self._write(logging.WARNING, message, args, more)

    def error(self, message: str, *args: object, **more: Any) -> None:
        """As `logging.Logger.error`."""
        self._write(logging.ERROR, message, args, more)

    def exception(self, message: str, *args: object, **more: Any) -> None:
        """As `logging.Logger.exception`: with the traceback of the exception that is being handled."""
        self._write(logging.ERROR, message, args, {"exc_info": True, **more})

    def critical(self, message: str, *args: object, **more: Any) -> None:
        """As `logging.Logger.critical`."""
        self._write(logging.CRITICAL, message, args, more)

    def log(self, level: int, message: str, *args: object, **more: Any) -> None:
        """As `logging.Logger.log`."""
        self._write(level, message, args, more)

    def _write(self, level: int, message: str, args: tuple[object, ...], more: dict[str, Any]) -> None:
        try:
            self._logger.log(level, message, *args, stacklevel=_CALLER, **more)
        except (Exception, asyncio.CancelledError) as error:  # this task was not cancelled: it does not wait
            _note_loss(self._logger.name, error)


def _note_loss(name: str, error: BaseException) -> None:
    if logging.raiseExceptions and name not in _failed:
        _failed.add(name)
        say(f"{name}: log records are lost: {_in_a_line(error)}")


def _in_a_line(error: BaseException) -> str:
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())
    except Exception:
        return type(error).__name__
