"""What a spawner does when the machine has no resources for connections that it has taken.

Theory of operation
-------------------
A connection whose socket cannot be registered with the reactor, for lack of descriptors, memory or epoll
watches, ends. The next ones would fare alike, so all servers are held for a moment, as after an accept(2)
that failed for the same reason (`accept_errors.Backoff`): the kernel's queue keeps what comes. However many
connections end, there is one line a second in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..accept_errors import Backoff
from ..accepting import Acceptor
from ..announcing import Log
from ..errors import ResourceExhaustedError

__all__ = ["Shortage"]

_log = Log("aionet.server")


class Shortage:
    """Holds the servers of one spawner while its connections lack resources."""

    def __init__(self) -> None:
        self._acceptors: Sequence[Acceptor] = ()
        self._backoff = Backoff()
        self._pause: asyncio.TimerHandle | None = None
        self._ended = float("-inf")

    def begin(self, acceptors: Sequence[Acceptor]) -> None:
        """Hold these when there is reason to."""
        self._acceptors = acceptors

    def note(self, error: ResourceExhaustedError) -> None:
        """`error` has ended a connection."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._pause is None:
            if now - self._ended > Backoff.LONGEST:
                self._backoff.succeeded()
            pause = self._backoff.next_pause()
            self._pause = loop.call_later(pause, self.close)
            for acceptor in self._acceptors:
                acceptor.hold(self)
        if self._backoff.may_log(now):
            seconds = self._pause.when() - now
            _log.warning(
                "a connection ended for lack of resources: %s; accepting again in %.1f s", error, seconds
            )

    def close(self) -> None:
        """Hold the servers no longer."""
        if self._pause is None:
            return
        self._ended = self._pause.when()
        self._pause.cancel()
        self._pause = None
        for acceptor in self._acceptors:
            acceptor.release(self)
