"""Workers that hang: whose event loop does not come round for so long that they are better replaced.

Theory of operation
-------------------
It is gunicorn's ``timeout``. A worker's event loop gives a sign of life several times within the timeout; one
in which a handler computes, or calls what blocks, for longer gives none, and serves nobody meanwhile. It gets
SIGABRT, at which it shows on standard error where each of its threads is (`faulthandler`), and is killed a
moment later if that did not end it. Then it is replaced as any other that has ended. What it was serving is
lost, also of clients who did not mind to wait: that is why there is no timeout unless somebody sets one.

*Who is looking may hang, too.* If this process was stopped or starved, nobody seems to have said anything.
So when a look is late, everybody's silence begins anew with it: what was said is read before the next one.

A worker that is not ready yet has ``start_timeout``, and one that has left its channel is about to end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from ..announcing import Log
from .process import WorkerProcess

__all__ = ["beat_for", "end_those_that_hang"]

_log = Log("aionet.workers", complete=True)

_LOOKS = 4  # within the timeout
_LONGEST_BEAT = 1.0  # seconds


def beat_for(timeout: float) -> float:
    """Return how many seconds apart a worker's signs of life are."""
    return min(timeout / _LOOKS, _LONGEST_BEAT)


async def end_those_that_hang(living: Callable[[], Iterable[WorkerProcess]], timeout: float) -> None:
    """End those of `living` from which nothing was heard for `timeout` seconds, until cancelled.

    Cancel safety: nothing is left undone.
    """
    period = beat_for(timeout)
    since = due = time.monotonic()
    while True:
        due += period
        await asyncio.sleep(due - time.monotonic())
        now = time.monotonic()
        if now - due > period:
            since = due = now
        for worker in living():
            if worker.is_talking and now - max(worker.heard, since) > timeout:
                _log.error(
                    "worker %d (process %d) hangs: no sign of life for %g s",
                    worker.number,
                    worker.pid,
                    timeout,
                )
                worker.abort()
