"""Children that are forked from a test, and say how they fared."""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aionet

__all__ = ["in_child", "refused"]

_SECONDS = 20  # after which a child that hangs is killed


def in_child(
    body: Callable[[], Coroutine[Any, Any, object]],
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
) -> None:
    """Run `body` in a forked child, on a new loop, and return at its end; fail if it raised."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # of a child that hangs no handler may ever run
        signal.alarm(_SECONDS)
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(body())
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-50_000:])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        report = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert not report, f"in the child:\n{report}"
    assert status == 0, f"the child ended with {status}"


async def refused(operation: Callable[[], Awaitable[object]]) -> aionet.SocketInheritedError:
    """Return the error with which `operation` is refused, at once."""
    try:
        result = await asyncio.wait_for(operation(), 30)
    except aionet.SocketInheritedError as error:
        return error
    raise AssertionError(f"not refused: {result!r}")
