"""What our server serves while it is attacked: ``aionet serve stress.attacks.handlers:echo``.

Theory of operation
-------------------
*The longest turn* of the event loop is what an honest client waits for at worst. A callback that schedules
itself again runs once in each turn, so the CPU time between two of its runs is that of a turn. It keeps the
loop from sleeping, so it begins with the first question for it and is not used where CPU time per event is
measured. At the end of the process the longest turn since the last question is printed, for what happens
while a server drains.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import time
from typing import Any


async def echo(socket: Any) -> None:
    """Send back what comes; keep nothing of it while the next read waits."""
    while data := await socket.read(65536):
        await socket.write(data)
        del data


async def lines(socket: Any) -> None:
    """Send back lines: a read waits for the whole of one."""
    while line := await socket.read_line():
        await socket.write(line)


async def source_or_echo(socket: Any) -> None:
    """Send as many MiB as the first line asks for, 64 KiB at a time; echo if it begins with no digit."""
    if not (await socket.peek(1)).isdigit():
        await echo(socket)
        return
    for _ in range(16 * int(await socket.read_line())):
        await socket.write(b"x" * 65536)


class _Turns:
    """The CPU time of the longest turn since the last question."""

    def __init__(self) -> None:
        self._before = 0.0
        self._longest = 0.0
        self._running = False

    def longest(self) -> float:
        if not self._running:
            self._running = True
            self._before = time.thread_time()
            self._next_turn()
            atexit.register(lambda: print(json.dumps({"longest_turn": self.longest()}), flush=True))
        longest, self._longest = self._longest, 0.0
        return longest

    def _next_turn(self) -> None:
        now = time.thread_time()
        self._longest = max(self._longest, now - self._before)
        self._before = now
        asyncio.get_running_loop().call_soon(self._next_turn)


_turns = _Turns()


async def echo_and_turns(socket: Any) -> None:
    """Send back what comes; reply to ``?`` with the microseconds of the longest turn since the last ``?``."""
    while data := await socket.read(65536):
        await socket.write(f"{_turns.longest() * 1e6:.0f}\n".encode() if data == b"?" else data)
