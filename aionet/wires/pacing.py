"""`Pacing`: large operations wait for their turn when a turn of the loop has moved enough.

Theory of operation
-------------------
The loop's budget (`fairness.py`) bounds what one task does before it gives the others a turn. It does not
bound a turn: of two hundred tasks, each may move a megabyte in it, and a client with a message of ten bytes
waits for all of them. So large operations, those that move 16 KiB or more, share what a turn may move,
`TURN_BYTES`. Once that is used up, each further one is put into a queue: a write after it has gone, as writes
go in the order of their calls, and a read before it takes anything, so that its cancellation loses nothing.
While the queue is not empty, there is room for `TURN_BYTES` again in each turn, and those at its head
continue, until that is used up. A small operation never waits here.

How much a read will bring is not known. Unless the last one of its wire was small, it may be much.

*Nothing becomes slower by it*: a turn that is over early is followed by the next, and the loop does not sleep
while operations are in the queue. A turn costs some ten microseconds, and 2 MiB take some hundred.

*Room is not saved up.* It is given when an operation in the queue needs it. So one operation in each 2 MiB
passes through the queue where nothing else is to be done, which costs it one turn.

What events do for writes that wait is not counted, as it is not in the budget. On the compiled engine the
operations of streams have a queue of their own (`native/pacing.c`), beside this one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from .budget import TURN_BYTES

__all__ = ["Pacing"]

_SHARE = TURN_BYTES // 8  # of an operation that continues, so that the next ones of its task need not wait


class _HasRoom(Protocol):
    """The state of a loop."""

    room: int
    """Bytes that large operations may move before they wait; less than 0 then."""


class Pacing:
    """The large operations of one loop that wait for their turn."""

    __slots__ = ("_loop", "_queue")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[asyncio.Future[None]] = deque()

    async def turn(self, state: _HasRoom) -> None:
        """Wait for one's turn. Cancel safety: nothing is lost."""
        if not self._queue:
            self._loop.call_soon(self._next_turn, state)
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._queue.append(waiter)
        await waiter
        state.room += _SHARE  # what was reserved; what is moved is counted then

    def _next_turn(self, state: _HasRoom) -> None:
        state.room = TURN_BYTES
        while self._queue and state.room > 0:
            waiter = self._queue.popleft()
            if not waiter.done():
                state.room -= _SHARE
                waiter.set_result(None)
        if self._queue:
            self._loop.call_soon(self._next_turn, state)
