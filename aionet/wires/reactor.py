"""Word from the kernel that a descriptor is ready, brought into the event loop that people already run.

Theory of operation
-------------------
*One epoll instance per event loop*, itself registered with `loop.add_reader`: any loop that has `add_reader`
drives it. A descriptor is registered once, edge-triggered, for both directions, at the first operation that
would block, and stays so until it is closed. Compared with a reader of the loop's for each descriptor that
saves some ten microseconds of Python per connection, fires once per event instead of twice, and behaves the
same on every loop: libuv, for one, silently drops a descriptor that reports an error.

Edge-triggered means that an event is told once. Whoever is told has to remember it until the kernel says
EAGAIN or gives less than was asked for; the end of a stream and errors have to be remembered for good.

The instance is opened with the first descriptor and closed with the last: a loop without sockets has no
descriptor of ours.

*In a fork's child* the instance is the parent's, too, and so is the loop's own: the reactor leaves both alone
(`forks.py`).

*Where there is no epoll*, `CallbackReactor` asks the loop before every wait and takes its reader off again
when it fires. That is slower and works everywhere; it tells of reading and writing only.
"""

from __future__ import annotations

import asyncio
import contextvars
import select
from typing import Protocol

from ..errors import SocketInheritedError

__all__ = [
    "ERROR",
    "HANGUP",
    "PEER_ENDED",
    "READABLE",
    "WRITABLE",
    "CallbackReactor",
    "EpollReactor",
    "Reactor",
    "Watcher",
    "make_reactor",
]

# The kernel's numbers (epoll_ctl(2)), so that they pass through untouched.
READABLE = 0x001
WRITABLE = 0x004
ERROR = 0x008
HANGUP = 0x010
PEER_ENDED = 0x2000  # EPOLLRDHUP

_EVENTS_PER_TURN = 512


class Watcher(Protocol):
    """Whoever is told of events. It must not run code of the user's."""

    def on_events(self, events: int) -> None:
        """`events` is a sum of the constants above."""


class Reactor(Protocol):
    """Tells watchers of events on their descriptors."""

    one_shot: bool
    """Whether `arm_reads` or `arm_writes` has to be called before each wait."""
    tells_errors: bool
    """Whether events of the error queue are told."""

    inherited: bool
    """Whether this process is a fork's child, and all of it the parent's: then nothing is registered, and
    nothing is heard of (`forks.py`)."""

    def watch(self, fd: int, watcher: Watcher) -> None:
        """Tell `watcher` of events on `fd`, those that are there already included."""

    def forget(self, fd: int) -> None:
        """Tell nothing more of `fd`; to be called before it is closed."""

    def arm_reads(self, fd: int) -> None:
        """With `one_shot`: tell once when `fd` is readable."""

    def arm_writes(self, fd: int) -> None:
        """With `one_shot`: tell once when `fd` is writable."""


class EpollReactor:
    """Edge-triggered epoll beneath the loop."""

    one_shot = False
    tells_errors = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watchers: dict[int, Watcher] = {}
        self.inherited = False

    def watch(self, fd: int, watcher: Watcher) -> None:
        if self.inherited:
            raise SocketInheritedError
        if not self._watchers:
            self._open()
        try:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)
            self._watchers[fd] = watcher
        finally:
            if not self._watchers:
                self._close()

    def forget(self, fd: int) -> None:
        del self._watchers[fd]
        if not self.inherited:
            self._epoll.unregister(fd)
        if not self._watchers:
            self._close()

    def arm_reads(self, fd: int) -> None:
        pass

    def arm_writes(self, fd: int) -> None:
        pass

    def _open(self) -> None:
        self._epoll = select.epoll()
        try:
            # The loop keeps the context of this call, and is not to keep alive what is in the caller's.
            contextvars.Context().run(self._loop.add_reader, self._epoll.fileno(), self._turn)
        except BaseException:
            self._epoll.close()
            raise

    def _close(self) -> None:
        if not self.inherited and not self._loop.is_closed():
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _turn(self) -> None:
        watchers = self._watchers
        if self.inherited:  # an event that the child takes is missing in the parent
            return
        for fd, events in self._epoll.poll(0, _EVENTS_PER_TURN):
            watcher = watchers.get(fd)
            if watcher is not None:
                watcher.on_events(events)


class CallbackReactor:
    """The loop's own readers and writers, for one event each."""

    one_shot = True
    tells_errors = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watchers: dict[int, Watcher] = {}
        self.inherited = False

    def watch(self, fd: int, watcher: Watcher) -> None:
        if self.inherited:
            raise SocketInheritedError
        self._watchers[fd] = watcher

    def forget(self, fd: int) -> None:
        del self._watchers[fd]
        if not self.inherited and not self._loop.is_closed():
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    def arm_reads(self, fd: int) -> None:
        if not self.inherited:
            self._loop.add_reader(fd, self._readable, fd)

    def arm_writes(self, fd: int) -> None:
        if not self.inherited:
            self._loop.add_writer(fd, self._writable, fd)

    def _readable(self, fd: int) -> None:
        if not self.inherited:
            self._loop.remove_reader(fd)
            self._watchers[fd].on_events(READABLE)

    def _writable(self, fd: int) -> None:
        if not self.inherited:
            self._loop.remove_writer(fd)
            self._watchers[fd].on_events(WRITABLE)


def make_reactor(loop: asyncio.AbstractEventLoop) -> Reactor:
    """Return the reactor for `loop` that suits this system."""
    return EpollReactor(loop) if hasattr(select, "epoll") else CallbackReactor(loop)
