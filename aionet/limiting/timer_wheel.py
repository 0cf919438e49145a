"""`TimerWheel`: very many deadlines for the price of one timer.

Theory of operation
-------------------
Time is cut into ticks. An item stands in the slot of the tick in which it is due; one timer of the event loop
opens the next slot that has anything in it. Entering and leaving a slot is a look-up, whatever the number of
items. An item may come up to a tick late, never early (G. Varghese, A. Lauck: Hashed and Hierarchical Timing
Wheels, 1987; slots here are a dictionary, so there are no rounds to count).

`on_due(item)` says in how many seconds the item is due again, or ``None`` if it is not.

*Many at once.* The items that are due are gone through in slices (`wires/slices.py`), those of the oldest
slot first. An item that waits for a later slice may still be discarded. Where the work for all of them takes
longer than a tick, items come later than a tick by that time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ..wires.slices import Slice

__all__ = ["TimerWheel"]

T = TypeVar("T", bound=Hashable)


class TimerWheel(Generic[T]):
    """Calls `on_due(item)` for each item when its time has come, `tick` seconds late at the most."""

    def __init__(self, tick: float, on_due: Callable[[T], float | None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._tick = tick
        self._on_due = on_due
        self._slots: dict[int, set[T]] = {}
        self._slot_of: dict[T, int] = {}
        self._timer: asyncio.Handle | None = None  # or the call of the next slice
        self._opens = 0  # the slot that the timer opens
        self.slice = Slice()
        """Of the work in progress: `on_due` takes from it what its decision costs later."""

    def __len__(self) -> int:
        return len(self._slot_of)

    def add(self, item: T, seconds: float, now: float | None = None) -> None:
        """Have `item` come up in `seconds`; it must not be in the wheel. `now`: the loop's time, if known."""
        if now is None:
            now = self._loop.time()
        slot = int((now + seconds) / self._tick) + 1
        self._slot_of[item] = slot
        try:
            self._slots[slot].add(item)
        except KeyError:
            self._slots[slot] = {item}
            if self._timer is None or slot < self._opens:
                self._set_timer(slot)

    def discard(self, item: T) -> None:
        """Forget `item`, if it is there."""
        slot = self._slot_of.pop(item, None)
        if slot is not None:
            self._slots[slot].discard(item)

    def close(self) -> None:
        """Forget everything."""
        for due in self._slots.values():  # one of them may be in progress
            due.clear()
        self._slots.clear()
        self._slot_of.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._opens = slot
        self._timer = self._loop.call_at(slot * self._tick, self._turn)

    def _turn(self) -> None:
        self._opens = 0  # what is added meanwhile sets no timer
        self.slice.begin()
        now = self._loop.time() / self._tick
        try:
            while self._slots and (slot := min(self._slots)) <= now and not self.slice.over:
                self._open(slot)
        finally:
            if self._timer is not None:  # else it was closed
                self._timer = None
                self._go_on(now)

    def _go_on(self, now: float) -> None:
        if not self._slots:
            return
        slot = min(self._slots)
        if slot <= now:
            self._timer = self._loop.call_soon(self._turn)
        else:
            self._set_timer(slot)

    def _open(self, slot: int) -> None:
        """Go through the items of `slot`, as far as the slice allows."""
        due = self._slots[slot]
        while due:
            item = due.pop()
            del self._slot_of[item]
            again = self._on_due(item)
            if again is not None:
                self.add(item, again)
            if self.slice.over:
                break
        if not due:
            self._slots.pop(slot, None)
