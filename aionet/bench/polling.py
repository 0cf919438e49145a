"""Readiness for the load process: epoll where there is one, `selectors` elsewhere, behind one shape.

The shape is epoll's own (`register`, `modify`, `unregister`, `poll`), so that on Linux the load process calls
the system's object directly, with nothing of ours in between.
"""

from __future__ import annotations

import select
import selectors
import sys
from typing import Protocol

__all__ = ["BROKEN", "READABLE", "WRITABLE", "Poller", "SelectorPoller", "make_poller"]

READABLE = 0x001  # the values of EPOLLIN, EPOLLOUT and EPOLLERR | EPOLLHUP
WRITABLE = 0x004
BROKEN = 0x018

_READY_BITS = {
    selectors.EVENT_READ: READABLE,
    selectors.EVENT_WRITE: WRITABLE,
    selectors.EVENT_READ | selectors.EVENT_WRITE: READABLE | WRITABLE,
}


class Poller(Protocol):
    """What the load process needs of ``select.epoll``."""

    def register(self, fd: int, eventmask: int) -> None: ...

    def modify(self, fd: int, eventmask: int) -> None: ...

    def unregister(self, fd: int) -> None: ...

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]: ...

    def close(self) -> None: ...


class SelectorPoller:
    """The same shape over `selectors.DefaultSelector` (kqueue, poll or select)."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, eventmask: int) -> None:
        self._selector.register(fd, self._events(eventmask))

    def modify(self, fd: int, eventmask: int) -> None:
        self._selector.modify(fd, self._events(eventmask))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        ready = self._selector.select(timeout)[:maxevents]
        return [(key.fd, _READY_BITS[events]) for key, events in ready]

    def close(self) -> None:
        self._selector.close()

    @staticmethod
    def _events(eventmask: int) -> int:
        reading = selectors.EVENT_READ if eventmask & READABLE else 0
        return reading | (selectors.EVENT_WRITE if eventmask & WRITABLE else 0)


def make_poller() -> Poller:
    """The fastest poller of this system."""
    if sys.platform == "linux":
        return select.epoll()
    else:  # noqa: RET505 - mypy knows this shape
        return SelectorPoller()
