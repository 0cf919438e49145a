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

*What is raised while watchers run*, by the handler of a signal or for want of memory, ends the turn, as in
any callback of a loop. The kernel is asked for the events of that turn again: each comes once, and a read or
a write that waits for one would wait for ever.

The instance is opened with the first descriptor and closed with the last: a loop without sockets has no
descriptor of ours.

*In a fork's child* the instance is the parent's, too, and so is the loop's own: the reactor leaves both alone
(`forks.py`). The child's descriptor of the instance is closed at once (`abandon`). A loop that is closed in
the child removes its readers with `epoll_ctl(2)`, which acts on the parent's registrations; for a descriptor
that is closed it fails, and the parent's registration stays.

*Ownership.* A descriptor's place belongs to the watcher that was named when it was registered; `forget` does
nothing for any other. The number alone decides nothing: it may have been closed elsewhere and registered
again by another watcher, which then displaces the one before. A wire is watched `weakly`, so that a socket
that is dropped without being closed is collected and warns; what waits for its events keeps it alive: a
reader through its `WeakPlace`, unsent bytes through `held`.

*Where there is no epoll*, `CallbackReactor` asks the loop before every wait and takes its reader off again
when it fires. That is slower and works everywhere; it tells of reading and writing only.
"""

from __future__ import annotations

import asyncio
import contextvars
import select
import weakref
from collections.abc import Callable
from typing import Protocol

from ..errors import SocketInheritedError

__all__ = [
    "ERROR",
    "HANGUP",
    "PEER_ENDED",
    "READABLE",
    "URGENT",
    "WRITABLE",
    "CallbackReactor",
    "EpollReactor",
    "Reactor",
    "Watcher",
    "WeakPlace",
    "make_reactor",
]

# The kernel's numbers (epoll_ctl(2)), so that they pass through untouched.
READABLE = 0x001
URGENT = 0x002
WRITABLE = 0x004
ERROR = 0x008
HANGUP = 0x010
PEER_ENDED = 0x2000  # EPOLLRDHUP

_EDGES = 1 << 31  # EPOLLET
_EVENTS = READABLE | URGENT | WRITABLE | PEER_ENDED | _EDGES
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
    held: dict[object, Watcher]
    """The watchers that it keeps alive, by what waits for their events."""

    inherited: bool
    """Whether this process is a fork's child, and all of it the parent's: then nothing is registered, and
    nothing is heard of (`forks.py`)."""

    def watch(self, fd: int, watcher: Watcher) -> None:
        """Report events on `fd` to `watcher`, those that are there already included."""

    def watch_weakly(self, fd: int, watcher: Watcher) -> WeakPlace:
        """As `watch`, but `watcher` lives only as long as something else refers to it, `held` for one."""

    def forget(self, fd: int, watcher: Watcher) -> None:
        """Report nothing more to `watcher`; to be called before `fd` is closed."""

    def arm_reads(self, fd: int) -> None:
        """With `one_shot`: tell once when `fd` is readable."""

    def arm_writes(self, fd: int) -> None:
        """With `one_shot`: tell once when `fd` is writable."""

    def ask_again(self, fd: int) -> None:
        """Report what is there on `fd` once more, if it is watched."""

    def abandon(self) -> None:
        """In a fork's child, once: close the instance, and change nothing of what the parent watches."""


class _Place:
    """The place of a watcher."""

    __slots__ = ("_watcher",)

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def __call__(self) -> Watcher:
        return self._watcher


class WeakPlace(weakref.ReferenceType[Watcher]):
    """The place of a watcher that the reactor does not keep alive."""

    __slots__ = ("fd", "reader")

    fd: int
    reader: Watcher | None
    """The watcher again, while a task waits for input."""


class _Places:
    """Which watcher a descriptor belongs to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watchers: dict[int, _Place | WeakPlace] = {}
        self.held: dict[object, Watcher] = {}

    def watch(self, fd: int, watcher: Watcher) -> None:
        before = self._watchers.get(fd)
        self._register(fd)
        self._watchers[fd] = _Place(watcher)
        if before is not None:
            _displace(before, watcher)

    def watch_weakly(self, fd: int, watcher: Watcher) -> WeakPlace:
        before = self._watchers.get(fd)
        self._register(fd)
        self._watchers[fd] = place = WeakPlace(watcher, self._on_gone)
        place.fd = fd
        if before is not None:
            _displace(before, watcher)
        return place

    def forget(self, fd: int, watcher: Watcher) -> None:
        place = self._watchers.get(fd)
        if place is not None and place() is watcher:
            self._drop(fd)

    def _watcher_of(self, fd: int) -> Watcher | None:
        place = self._watchers.get(fd)
        return None if place is None else place()

    def _on_gone(self, place: WeakPlace) -> None:
        """A wire was collected that was not closed."""
        if self._watchers.get(place.fd) is place:
            self._drop(place.fd)

    def _register(self, fd: int) -> None:
        raise NotImplementedError

    def _drop(self, fd: int) -> None:
        raise NotImplementedError


class EpollReactor(_Places):
    """Edge-triggered epoll beneath the loop."""

    one_shot = False
    tells_errors = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.inherited = False

    def _register(self, fd: int) -> None:
        if self.inherited:
            raise SocketInheritedError
        if not self._watchers:
            self._open()
        try:
            self._epoll.register(fd, _EVENTS)
        except FileExistsError:  # the same open file under the same number: it outlived a close
            self._epoll.modify(fd, _EVENTS)
        except BaseException:
            if not self._watchers:
                self._close()
            raise

    def _drop(self, fd: int) -> None:
        del self._watchers[fd]
        if not self.inherited:
            try:
                self._epoll.unregister(fd)
            except OSError:  # it was closed already, which was enough for the kernel
                pass
        if not self._watchers:
            self._close()

    def arm_reads(self, fd: int) -> None:
        pass

    def arm_writes(self, fd: int) -> None:
        pass

    def ask_again(self, fd: int) -> None:
        if fd in self._watchers and not self.inherited:
            self._epoll.modify(fd, _EVENTS)

    def abandon(self) -> None:
        if self._watchers:
            self._epoll.close()

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
        batch: list[tuple[int, int]] | None = None
        fd = -1
        try:
            batch = self._epoll.poll(0, _EVENTS_PER_TURN)
            for fd, events in batch:
                place = watchers.get(fd)
                if place is not None and (watcher := place()) is not None:
                    watcher.on_events(events)
        except BaseException as error:
            self._repeat(batch, fd, error)
            raise

    def _repeat(self, batch: list[tuple[int, int]] | None, last: int, error: BaseException) -> None:
        """Ask for the events of a turn again, which ended with `error` at the descriptor `last`."""
        if batch is not None:
            descriptors = [fd for fd, _ in batch]
        else:  # the handler of a signal ran between the system call and the assignment, or memory was short
            descriptors = [*self._watchers] if _loses_word(error) else []
        failed = -1 if _loses_word(error) else last
        for fd in descriptors:
            if fd != failed:
                self.ask_again(fd)


class CallbackReactor(_Places):
    """The loop's own readers and writers, for one event each."""

    one_shot = True
    tells_errors = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.inherited = False

    def _register(self, fd: int) -> None:
        if self.inherited:
            raise SocketInheritedError
        if fd in self._watchers:  # what the loop has of the number is of another descriptor
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        del self._watchers[fd]
        if not self.inherited and not self._loop.is_closed():
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    def arm_reads(self, fd: int) -> None:
        if not self.inherited:
            self._loop.add_reader(fd, self._on_event, fd, self._loop.remove_reader, READABLE)

    def arm_writes(self, fd: int) -> None:
        if not self.inherited:
            self._loop.add_writer(fd, self._on_event, fd, self._loop.remove_writer, WRITABLE)

    def ask_again(self, fd: int) -> None:
        pass  # an armed writer is called as long as there is room

    def abandon(self) -> None:
        pass  # there is no descriptor but the sockets'

    def _on_event(self, fd: int, disarm: Callable[[int], bool], event: int) -> None:
        if self.inherited:
            return
        try:
            disarm(fd)
            watcher = self._watcher_of(fd)
            if watcher is not None:
                watcher.on_events(event)
        except BaseException as error:
            if _loses_word(error) and self._watcher_of(fd) is not None:
                (self.arm_reads if event == READABLE else self.arm_writes)(fd)
            raise


def _displace(place: _Place | WeakPlace, by: Watcher) -> None:
    """The descriptor of `place` was closed elsewhere, and its number is of another watcher's."""
    watcher = place()
    if watcher is not None and watcher is not by and hasattr(watcher, "on_displaced"):
        watcher.on_displaced()


def _loses_word(error: BaseException) -> bool:
    """Whether the event has to be repeated; not to a watcher that would only fail again."""
    return isinstance(error, MemoryError) or not isinstance(error, Exception)


def make_reactor(loop: asyncio.AbstractEventLoop) -> Reactor:
    """Return the reactor for `loop` that suits this system."""
    return EpollReactor(loop) if hasattr(select, "epoll") else CallbackReactor(loop)
