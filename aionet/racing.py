"""Racing attempts to connect: Happy Eyeballs, version 2 (RFC 8305).

Theory of operation
-------------------
A host with several addresses is often reachable at only some of them, and an address that does not work often
stays silent. So `race` does not wait for one attempt to end before it starts the next: it starts one, and the
next after a delay, or at once when an attempt fails. The first success ends the race, and what is still in
progress is closed. `interleaved` puts the addresses in order: the families take turns, because it is mostly a
whole family that does not work.

*No tasks.* An attempt is driven by events, not by a task of its own, and all of them together wake the one
task that called. So there is one point at which a cancellation can arrive, and it cannot get lost between
two tasks. Every attempt but the winner is closed in the step in which the race ends, however it ends.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from .addresses import SocketAddress

__all__ = ["Attempt", "interleaved", "race"]


class Attempt(Protocol):
    """One attempt to connect."""

    error: OSError | None
    """Why it failed, once it has."""

    def start(self, wake: Callable[[], object]) -> None:
        """Begin; `wake` is called when there may be something for `has_ended` to find."""

    def has_ended(self) -> bool:
        """Whether it has failed or succeeded by now."""

    def close(self) -> None:
        """Give up: nothing stays open or registered. It may not have begun."""


AttemptT = TypeVar("AttemptT", bound=Attempt)


def interleaved(addresses: Iterable[SocketAddress]) -> list[SocketAddress]:
    """Return `addresses` with their families in turn, the family of the first one first (RFC 8305, 4)."""
    families: dict[int | None, list[SocketAddress]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    rounds = itertools.zip_longest(*families.values())
    return [address for one_round in rounds for address in one_round if address is not None]


async def race(attempts: Iterable[AttemptT], delay: float | None) -> AttemptT | None:
    """Return the first of `attempts` that succeeds, or ``None`` where all fail (RFC 8305, 5).

    The next one starts `delay` seconds after the one before, or when one fails. With a `delay` of 0 all start
    at once; with ``None`` each waits until the one before has failed.

    Cancel safety: every attempt is closed.
    """
    to_come = deque(attempts)
    running: list[AttemptT] = []
    pace = _Pace(delay)
    try:
        while to_come or running:
            if to_come and pace.next_is_due:
                running.append(to_come.popleft())
                running[-1].start(pace.wake)
                if to_come:
                    pace.set_next()
            else:
                await pace.wait()
            for attempt in [attempt for attempt in running if attempt.has_ended()]:
                running.remove(attempt)
                if attempt.error is None:
                    return attempt
                pace.next_is_due = True
        return None
    finally:
        pace.stop()
        for attempt in running:
            attempt.close()


class _Pace:
    """When the next attempt starts, and what the race waits for meanwhile."""

    def __init__(self, delay: float | None) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._woken = self._loop.create_future()
        self.next_is_due = True

    def set_next(self) -> None:
        self.stop()
        self.next_is_due = self._delay == 0
        if self._delay:
            self._timer = self._loop.call_later(self._delay, self._delay_is_over)

    def _delay_is_over(self) -> None:
        self.next_is_due = True
        self.wake()

    def wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def wait(self) -> None:
        """Return when woken since the last time."""
        await self._woken
        self._woken = self._loop.create_future()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
