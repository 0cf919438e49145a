"""What becomes of a connection for which there is no room.

Theory of operation
-------------------
Under ``"pause"`` nobody is accepted, so there is nothing to do. Under any other policy the newcomer is in
this process already. A coroutine function may say a word to it, in a task of its own and for a second at
most; only so many of these run at a time, and whoever comes then is reset, because a flood must not fill the
memory that the limit protects.

When the process is out of descriptors nobody can be accepted, not even to be reset, and the kernel would go
on telling that somebody waits. A descriptor kept in reserve makes one free for as long as it takes.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from ..close_reason import CloseCause
from ..wires.lingering import reset_on_close
from .limits import OnFull

__all__ = ["Overload"]

_REGRETS = 64  # at a time
_REGRET_SECONDS = 1.0


class Overload:
    """Applies `on_full` to those who come too many; `turn_away(socket, cause)` resets one and counts it."""

    def __init__(self, policy: OnFull, turn_away: Callable[[Any, CloseCause], object]) -> None:
        self._policy = policy
        self._turn_away = turn_away
        self._regrets: set[asyncio.Task[None]] = set()
        self._reserve = -1
        self.pauses = policy == "pause"
        """Whether those who come too many are left in the kernel's queue."""
        self.evicts = policy == "evict_idle"
        """Whether they take the place of others."""

    def begin(self) -> None:
        """Be ready for the day on which there are no descriptors left."""
        if not self.pauses and not self.evicts and self._reserve == -1:
            self._reserve = _open_reserve()

    def end(self) -> None:
        """Give back what was kept in reserve."""
        if self._reserve != -1:
            os.close(self._reserve)
            self._reserve = -1

    def refuse(self, sock: Any) -> None:
        """Turn `sock` away, as the policy has it."""
        if not callable(self._policy) or len(self._regrets) >= _REGRETS:
            self._turn_away(sock, CloseCause.FULL)
            return
        task = asyncio.get_running_loop().create_task(self._say_regret(self._policy, sock))
        self._regrets.add(task)
        task.add_done_callback(self._regrets.discard)

    async def _say_regret(self, policy: Any, sock: Any) -> None:
        try:
            async with asyncio.timeout(_REGRET_SECONDS):
                await policy(sock)
                await sock.aclose()
        except (OSError, EOFError, TimeoutError):  # it will not be comforted
            pass
        finally:
            self._turn_away(sock, CloseCause.FULL)

    async def stop(self) -> None:
        """End what is still being said. Cancel safety: nothing is lost."""
        for task in self._regrets:
            task.cancel()
        await asyncio.gather(*self._regrets, return_exceptions=True)

    def shed(self, listener: socket.socket) -> bool:
        """Reset one that waits at `listener`, though there is no descriptor for it; whether that worked."""
        if self._reserve == -1:
            self._reserve = _open_reserve()
            return False
        os.close(self._reserve)
        self._reserve = -1
        try:
            sock, _ = listener.accept()
            reset_on_close(sock)
            sock.close()
        except OSError:  # it was not this process's descriptors that ran out
            return False
        finally:
            self._reserve = _open_reserve()
        return True


def _open_reserve() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
