"""The memory of a TLS connection's buffers, and how it is given back.

Theory of operation
-------------------
An `ssl.MemoryBIO` keeps the size that it once needed: OpenSSL enlarges the memory of such a buffer, to a
third more than is needed, and frees it together with the buffer. After one exchange of 64 KiB a connection
would hold 100 kB until it ends. Nothing in the `ssl` module changes that, but OpenSSL has a function for it:
BIO_set_mem_buf(3) replaces the memory of a buffer and frees what was there. `give_back` sets an empty one.

*Finding it.* The function is looked up in the library that the `ssl` module itself is linked with. The buffer
is the only pointer in CPython's object, right behind the head. Where one of the two is not found, with
another interpreter or a library linked in statically, nothing is given back, and all else is the same.
`ctypes` is imported when the first TLS connection needs it: libffi may keep a descriptor open from then on.

*When.* Memory that is given back has to be allocated again, and a busy connection would pay for that with
each large message. So the event loop keeps the large buffers of the connections that needed them last, up to
`MOST_KEPT` bytes; and those of a connection that is at rest are given back at one of the next looks, `PERIOD`
seconds apart. A few connections are looked at in one step.

Nothing is noted for a message, but for one that is larger than all before it.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

__all__ = [
    "MOST_KEPT",
    "PERIOD",
    "SMALL",
    "HasBuffers",
    "LargeBuffers",
    "capacity",
    "give_back",
    "large_buffers_of",
]

SMALL = 2048
"""Bytes in a buffer that is not worth the trouble."""

MOST_KEPT = 2 << 20
"""Bytes of large buffers that an event loop keeps."""

PERIOD = 0.25
"""Seconds between two looks at a connection with large buffers."""

_AT_ONCE = 32  # connections that are looked at in one step
_TRIES = 4  # to find a connection that can give back something when another one's buffers grow
_PENDING, _SET_MEMORY, _CLOSE = 10, 114, 1  # BIO_CTRL_PENDING, BIO_C_SET_BUF_MEM, BIO_CLOSE: openssl/bio.h


class HasBuffers(Protocol):
    """A wire with two `ssl.MemoryBIO`."""

    @property
    def moved(self) -> int:
        """Bytes of either direction so far."""

    def shrink(self) -> bool:
        """Give back the memory of the buffers; false if something is in them."""


class _Entry:
    """One wire in the list."""

    __slots__ = ("looked_at", "moved", "size")

    def __init__(self, size: int, moved: int, looked_at: float) -> None:
        self.size = size
        self.moved = moved
        self.looked_at = looked_at


class LargeBuffers:
    """The wires of one event loop that have large buffers; the one that was looked at first comes first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._entries: dict[weakref.ref[HasBuffers], _Entry] = {}
        self._sum = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def kept(self) -> int:
        """Bytes of all these buffers."""
        return self._sum

    def note(self, wire: HasBuffers, size: int) -> None:
        """The buffers of `wire` have grown to `size` bytes."""
        entry = self._remove(weakref.ref(wire)) or _Entry(size, wire.moved, self._loop.time())
        entry.size, entry.looked_at = size, self._loop.time()
        self._append(wire, entry)
        for _ in range(_TRIES):
            if self._sum > MOST_KEPT:
                self._shrink_first(self._loop.time(), at_rest=False)
        if self._timer is None:
            self._timer = self._loop.call_later(PERIOD, self._look)

    def _look(self) -> None:
        """Have the wires at rest give back what they have."""
        now = self._loop.time()
        for _ in range(_AT_ONCE):
            first = next(iter(self._entries.values()), None)
            if first is None or first.looked_at + PERIOD > now:
                break
            self._shrink_first(now, at_rest=True)
        first = next(iter(self._entries.values()), None)
        self._timer = None
        if first is not None:
            self._timer = self._loop.call_later(max(first.looked_at + PERIOD - now, 0), self._look)

    def _shrink_first(self, now: float, *, at_rest: bool) -> None:
        """Shrink the first wire; if that fails, or it has to be `at_rest` and is not, it becomes the last."""
        reference = next(iter(self._entries))
        entry, wire = self._remove(reference), reference()
        if entry is None or wire is None:
            return
        moved = wire.moved
        if (at_rest and moved != entry.moved) or not wire.shrink():
            entry.moved, entry.looked_at = moved, now
            self._append(wire, entry)

    def _append(self, wire: HasBuffers, entry: _Entry) -> None:
        self._entries[weakref.ref(wire, self._remove)] = entry
        self._sum += entry.size

    def _remove(self, reference: weakref.ref[HasBuffers]) -> _Entry | None:
        entry = self._entries.pop(reference, None)
        if entry is not None:
            self._sum -= entry.size
        return entry


_of_loops: weakref.WeakKeyDictionary[Any, LargeBuffers] = weakref.WeakKeyDictionary()
"""By the state of the loop (`wires/event_loop.py`)."""


def large_buffers_of(state: Any) -> LargeBuffers | None:
    """Return the list of a loop; ``None`` where no memory can be given back."""
    if _replacement() is None:
        return None
    buffers = _of_loops.get(state)
    if buffers is None:
        buffers = _of_loops[state] = LargeBuffers(state.loop)
    return buffers


def capacity(most: int) -> int:
    """Return the size of a buffer that has had `most` bytes in it (BUF_MEM_grow of OpenSSL)."""
    return (most + 3) // 3 * 4


def give_back(buffer: ssl.MemoryBIO) -> None:
    """Give back the memory of `buffer`, in which nothing is."""
    replace = _replacement()
    if replace is not None:
        replace(buffer)


@functools.cache
def _replacement() -> Callable[[ssl.MemoryBIO], None] | None:
    """Return what replaces the memory of a buffer by none, if it can be done here."""
    try:
        import ctypes
    except ImportError:
        return None
    head, pointer = object.__basicsize__, ctypes.sizeof(ctypes.c_void_p)
    if sys.implementation.name != "cpython" or ssl.MemoryBIO.__basicsize__ != head + 2 * pointer:
        return None
    try:
        library: Any = _library_of_ssl()
        control, new_memory, free_memory = library.BIO_ctrl, library.BUF_MEM_new, library.BUF_MEM_free
    except (ImportError, OSError, AttributeError):
        return None
    control.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
    control.restype = ctypes.c_long
    new_memory.argtypes, new_memory.restype = (), ctypes.c_void_p
    free_memory.argtypes, free_memory.restype = (ctypes.c_void_p,), None

    def replace(buffer: ssl.MemoryBIO) -> None:
        place = ctypes.c_void_p.from_address(id(buffer) + head).value
        memory = new_memory()
        if memory and (control(place, _PENDING, 0, None) or control(place, _SET_MEMORY, _CLOSE, memory) != 1):
            free_memory(memory)

    return replace if _works(replace) else None


def _library_of_ssl() -> Any:
    """Return a handle by which the functions of the OpenSSL that the `ssl` module uses are found."""
    import _ssl  # private: it may be gone
    import ctypes

    library = ctypes.CDLL(getattr(_ssl, "__file__", None))
    version = library.OpenSSL_version_num
    version.argtypes, version.restype = (), ctypes.c_ulong
    if version() != ssl.OPENSSL_VERSION_NUMBER:
        raise OSError("another OpenSSL than that of the ssl module was found")
    return library


def _works(replace: Callable[[ssl.MemoryBIO], None]) -> bool:
    buffer = ssl.MemoryBIO()
    buffer.write(bytes(SMALL))
    buffer.read()
    replace(buffer)
    nothing = buffer.read()
    buffer.write(b"as before")
    return not nothing and not buffer.eof and buffer.read() == b"as before"
