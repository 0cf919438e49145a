"""How often this process, or one before it, was born of a fork.

Theory of operation
-------------------
A fork's child has every object and every descriptor of its parent. The open files behind the descriptors are
shared, so a byte that the child reads is missing in the parent, `shutdown(2)` ends the parent's connection,
and `epoll_ctl(2)` changes what the parent hears of. So what was opened before a fork is *inherited* after it
in the child: every operation on it raises `SocketInheritedError`, and closing it drops the descriptor, by
`close(2)` and nothing else.

Whatever opens descriptors notes `forks()`, and is inherited once that has another value. What belongs to an
event loop leaves that to the loop's state (`event_loop.py`), which has the answer as an attribute, so that a
message costs one look at it.

The compiled engine counts in a handler of the C library's (pthread_atfork(3)), which every fork runs. The
portable one counts in Python's own (`os.register_at_fork`); a fork that C code makes by itself is unknown to
that one.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ..native import compiled

__all__ = ["forks"]

_count = 0


def _count_fork() -> None:
    global _count
    _count += 1


def _counted() -> int:
    return _count


forks: Callable[[], int] = _counted if compiled is None else compiled.forks
"""Return the number of forks between the first process and this one, since aionet was imported."""

if compiled is None and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)
