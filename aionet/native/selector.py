"""`EpollSelector`: a whole selector around the compiled one, for `asyncio.SelectorEventLoop`.

The C type (`selector.c`) waits, and wakes the tasks of our streams; what is left are asyncio's own
descriptors, which are kept here as every selector of the standard library keeps them.

*In a fork's child* the epoll instance is the parent's, too, and so is every descriptor that was registered
before the fork, the pipe among them by which threads wake the loop: a byte that the child read there would be
missing in the parent. So the child polls what it has registered itself, and looks at its loop now and then.
"""

from __future__ import annotations

import math
import select
import selectors
from collections.abc import Iterator, Mapping
from typing import Any

from ._compiled import Selector, forks

__all__ = ["EpollSelector"]

_READ = select.EPOLLIN
_WRITE = select.EPOLLOUT
_LONGEST_WAIT = 0.01  # seconds, in a fork's child, which no thread can wake


class EpollSelector(Selector, selectors.BaseSelector):
    """A selector that an event loop shares with the reactor of our sockets."""

    def __init__(self) -> None:
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._registered: dict[int, int] = {}
        """After how many forks each descriptor was."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        key = selectors.SelectorKey(fileobj, _descriptor(fileobj), events, data)
        if key.fd in self._keys:
            raise KeyError(f"{fileobj!r} (FD {key.fd}) is already registered")
        self._add(key.fd, _as_epoll(events))
        self._keys[key.fd] = key
        self._registered[key.fd] = forks()
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._keys.pop(self._descriptor_of(fileobj))
        try:
            self._remove(key.fd)
        except OSError:  # it was closed meanwhile, which took it out
            pass
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[self._descriptor_of(fileobj)]
        if events != key.events:
            self._change(key.fd, _as_epoll(events))
        key = self._keys[key.fd] = selectors.SelectorKey(key.fileobj, key.fd, events, data)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = []
        events_found = self._select(timeout)
        if events_found is None:  # a fork's child
            events_found = self._poll(timeout)
        for fd, found in events_found:
            key = self._keys.get(fd)
            if key is not None:
                events = (found & ~_READ and selectors.EVENT_WRITE) | (
                    found & ~_WRITE and selectors.EVENT_READ
                )
                ready.append((key, events & key.events))
        return ready

    def _poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """As `_select`, in a fork's child; poll(2) has the same numbers."""
        poll = select.poll()
        for fd, key in self._keys.items():
            if self._registered[fd] == forks():
                poll.register(fd, _as_epoll(key.events))
        seconds = _LONGEST_WAIT if timeout is None else min(max(timeout, 0), _LONGEST_WAIT)
        return poll.poll(math.ceil(seconds * 1000))

    def close(self) -> None:
        self._close()
        self._keys.clear()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        try:
            return self._keys[self._descriptor_of(fileobj)]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return _KeysByFile(self)

    def _descriptor_of(self, fileobj: Any) -> int:
        """The descriptor that `fileobj` was registered with, even if it is closed by now."""
        try:
            return _descriptor(fileobj)
        except ValueError:
            for key in self._keys.values():
                if key.fileobj is fileobj:
                    return key.fd
            raise


class _KeysByFile(Mapping[Any, selectors.SelectorKey]):
    """What is registered, by file object or descriptor."""

    def __init__(self, selector: EpollSelector) -> None:
        self._selector = selector

    def __len__(self) -> int:
        return len(self._selector._keys)

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)

    def __iter__(self) -> Iterator[int]:
        return iter(self._selector._keys)


def _descriptor(fileobj: Any) -> int:
    try:
        fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {fileobj!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def _as_epoll(events: int) -> int:
    return (events & selectors.EVENT_READ and _READ) | (events & selectors.EVENT_WRITE and _WRITE)
