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

*A flood* of lines is another way to fill a disk, and peers can cause most lines. So each kind of line is
written ten times a second at the most, and once more with the count of the others (`line_limit.py`). A kind
is the message before its arguments are put in, or a part of those that the caller names; for an exception it
is where that was raised. DEBUG is not limited: it is switched on to see everything. Neither are the logs of
modules whose lines peers cannot cause, and the access log, whose contract is a line for each connection.
Limits belong to an event loop, so each loop has its full number of lines. The count of a window is written by
a timer of the loop; without one, before the next line, or at the end of the process.

*say* writes a line to standard error, if that can be done.

*report* is for loops that are aionet's own, as their exception handler. asyncio logs what a callback raises,
and where that log raises as well, the error leaves the loop and ends the server.

Code calls these after it has acted, where the order is free: a write may also take long.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import os
import sys
import time
from collections.abc import Hashable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from .line_limit import SECONDS, LineLimit

__all__ = ["Log", "report", "say"]

_CALLER = 3  # frames from `logging.Logger.log` to the code that calls a method of `Log`
_LONGEST_EXAMPLE = 200  # characters

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
    """A logger whose methods raise nothing, and which writes each kind of line ten times a second at most.

    The methods take ``kind=``, too: a part of what the line says, from a small number of values, that makes
    it another kind than the same message with another value.

    Args:
        logger: a name, or a logger.
        complete: write every line, however many there are; for lines that peers cannot cause.
    """

    __slots__ = ("_complete", "_logger", "isEnabledFor")

    def __init__(self, logger: str | logging.Logger, *, complete: bool = False) -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._complete = complete
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
            kind = more.pop("kind", None)
            if self._complete or level <= logging.DEBUG or self._admits(level, message, args, more, kind):
                self._logger.log(level, message, *args, stacklevel=_CALLER, **more)
        except (Exception, asyncio.CancelledError) as error:  # this task was not cancelled: it does not wait
            _note_loss(self._logger.name, error)

    def _admits(
        self, level: int, message: str, args: tuple[object, ...], more: dict[str, Any], kind: Hashable
    ) -> bool:
        """Whether the line is within its limit; else it is counted."""
        if not self._logger.isEnabledFor(level):
            return False
        place = _place_of(more.get("exc_info"))
        return _lines().admits((self._logger, level, message, kind, place), lambda: _example(message, args))


# Floods -------------------------------------------------------------------------------------------------

_Kind: TypeAlias = tuple[logging.Logger, int, str, Hashable, Hashable]


class _Lines:
    """What is written and counted under one event loop, or without one."""

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._limit: LineLimit[_Kind] = LineLimit()
        self._timed = False
        """Whether a timer will write the next count."""

    def admits(self, kind: _Kind, text: Any) -> bool:
        """Whether a line of `kind` is written now."""
        now = self.clock()
        self.report(now)
        if self._limit.admits(kind, now, text):
            return True
        _owing.add(self)
        if not self._timed:
            self._set_timer(SECONDS)
        return False

    def report(self, now: float) -> None:
        """Write the counts of windows that are over."""
        for (logger, level, *_), count, example in self._limit.over(now):
            no_connection = contextvars.Context()  # this line is about many of them
            no_connection.run(_write_count, logger, level, count, example)
        if self._limit.due is None:
            _owing.discard(self)

    def _set_timer(self, seconds: float) -> None:
        loop = _running_loop()
        if loop is not None:
            self._timed = True
            loop.call_later(seconds, self._on_time, context=contextvars.Context())

    def _on_time(self) -> None:
        self._timed = False
        now = self.clock()
        self.report(now)
        if (due := self._limit.due) is not None:
            self._set_timer(due - now)


_without_loop = _Lines()
_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lines] = WeakKeyDictionary()
_owing: set[_Lines] = set()
"""Those that have left out lines, and have not written how many."""


def _lines() -> _Lines:
    loop = _running_loop()
    if loop is None:
        return _without_loop
    found = _of_loop.get(loop)
    if found is None:
        found = _of_loop[loop] = _Lines()
    return found


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _write_count(logger: logging.Logger, level: int, count: int, example: str) -> None:
    try:
        text = "... and %s more like this in the last second: %s"
        logger.log(level, text, f"{count:,}", example, extra={"left_out": count})
    except (Exception, asyncio.CancelledError) as error:
        _note_loss(logger.name, error)


def _report_all() -> None:
    """At the end of the process: loops with timers have ended."""
    for lines in list(_owing):
        lines.report(float("inf"))


atexit.register(_report_all)  # runs before what `logging` has registered
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_owing.clear)  # the parent writes them


def _place_of(exc_info: Any) -> Hashable:
    """Return what is raised and where: crashes at different places are different kinds."""
    error = sys.exception() if exc_info is True else exc_info
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, BaseException):
        return None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), None if trace is None else (trace.tb_frame.f_code, trace.tb_lineno)


def _example(message: str, args: tuple[object, ...]) -> str:
    return str(message % args if args else message).partition("\n")[0][:_LONGEST_EXAMPLE]


# Losses -------------------------------------------------------------------------------------------------


def _note_loss(name: str, error: BaseException) -> None:
    if logging.raiseExceptions and name not in _failed:
        _failed.add(name)
        say(f"{name}: log records are lost: {_in_a_line(error)}")


def _in_a_line(error: BaseException) -> str:
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())
    except Exception:
        return type(error).__name__
