"""Standard input and output beside an event loop.

Theory of operation
-------------------
These descriptors are inherited: other processes share them, so they are never made non-blocking (a loop's own
readers may do that: libuv does), and they may be anything: a terminal, a pipe, a file, which no poll of the
loop accepts, or a pipe whose reader has stopped reading. So the blocking calls are made in a daemon thread
each, and the loop waits for the result only. A thread that is stuck does not keep the process from ending.

*Input is taken only to be sent.* The thread waits for input together with a pipe of our own, and reads when
it is asked to and something is there. `stop_waiting` makes that pipe readable for good: what is ready is
still read, to the last byte, but nothing is waited for any more, and nothing is read that nobody wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

from .failing import CommandError

__all__ = [
    "StandardInput",
    "StandardOutput",
    "flush_standard_output",
    "occupy_standard_streams",
    "print_out",
    "release_standard_streams",
    "silence_standard_output",
]

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_CHUNK = 256 * 1024


class StandardInput:
    """What is to be sent. Leaving the context lets go of it."""

    def __init__(self) -> None:
        self._calls = _BlockingCalls("standard input")
        self._stop_read, self._stop_write = os.pipe()

    async def read(self) -> bytes | None:
        """Return some bytes, ``b""`` at the end, ``None`` when nothing is ready and waiting was stopped.

        Raises `CommandError`. Cancel safety: none, what was read may be lost.
        """
        try:
            data: bytes | None = await self._calls.make(self._wait_and_read)
        except OSError as error:
            raise CommandError(f"cannot read standard input: {error.strerror}") from error
        return data

    @property
    def is_terminal(self) -> bool:
        """Whether people type it."""
        return os.isatty(_STDIN)

    def stop_waiting(self) -> None:
        """From now on, read only what is ready."""
        os.write(self._stop_write, b"\0")

    def _wait_and_read(self) -> bytes | None:
        poll = select.poll()
        poll.register(_STDIN, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        while True:
            if all(fd == self._stop_read for fd, _ in poll.poll()):
                return None
            try:
                return os.read(_STDIN, _CHUNK)
            except BlockingIOError:  # somebody else made it non-blocking, and was faster
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._stop_write)  # its hang-up stops a thread that still waits
        self._calls.end(lambda: os.close(self._stop_read))


class StandardOutput:
    """Where what was received is written."""

    def __init__(self) -> None:
        self._calls = _BlockingCalls("standard output")

    async def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises `BrokenPipeError` when the reader has gone, `CommandError` for everything else.
        Cancel safety: the thread goes on writing.
        """
        try:
            await self._calls.make(_write_all, data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CommandError(f"cannot write standard output: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._calls.end()


def _write_all(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(_STDOUT, rest) :]
        except BlockingIOError:  # somebody else made it non-blocking
            poll = select.poll()
            poll.register(_STDOUT, select.POLLOUT)
            poll.poll()


class _BlockingCalls:
    """A daemon thread that makes blocking calls, one after the other."""

    def __init__(self, name: str) -> None:
        self._asked: queue.SimpleQueue[tuple[Callable[[bool, Any], None], Callable[..., Any], Any] | None]
        self._asked = queue.SimpleQueue()
        self._last: Callable[[], object] = lambda: None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def make(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what ``function(*arguments)`` returns, or raise what it raises."""
        loop = asyncio.get_running_loop()
        result = loop.create_future()

        def settle(succeeded: bool, value: Any) -> None:
            if not result.done():
                (result.set_result if succeeded else result.set_exception)(value)

        def tell(succeeded: bool, value: Any) -> None:
            try:
                loop.call_soon_threadsafe(settle, succeeded, value)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass

        self._asked.put((tell, function, arguments))
        return await result

    def end(self, last: Callable[[], object] = lambda: None) -> None:
        """Let the thread end after the call that it is making, and after calling `last`."""
        self._last = last
        self._asked.put(None)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            tell, function, arguments = asked
            try:
                value = function(*arguments)
            except Exception as error:
                tell(False, error)
            else:
                tell(True, value)
        self._last()


# The descriptors themselves -----------------------------------------------------------------------------


def occupy_standard_streams() -> None:
    """Put something in the place of a closed descriptor 0, 1 or 2, so that no socket gets its number.

    A closed standard input then reads as empty; writing to a closed standard output fails, as it should.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one


def print_out(text: str) -> None:
    """Write `text`, and what is buffered, to standard output, where there is one.

    Raises `BrokenPipeError` where the reader has gone, `CommandError` for everything else.
    """
    if sys.stdout is None:
        return
    try:
        if text:  # /dev/full refuses to be written nothing
            sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"cannot write standard output: {error.strerror}") from error


def flush_standard_output() -> None:
    """Write what is buffered, while the command's exit code can still say that it could not be.

    Raises as `print_out`.
    """
    print_out("")


def release_standard_streams() -> None:
    """Write what is buffered, and let go of what cannot be written. Raises nothing.

    The interpreter flushes both streams once more when it ends; a failure would replace the exit code by 120.
    """
    for number, stream in ((_STDOUT, sys.stdout), (_STDERR, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except Exception:
            _silence(number)


def silence_standard_output() -> None:
    """The reader has gone: let what is still buffered go nowhere, instead of failing once more."""
    _silence(_STDOUT)


def _silence(number: int) -> None:
    with contextlib.suppress(OSError):  # no descriptor is left: later writes fail as this one did
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, number)
        os.close(devnull)
