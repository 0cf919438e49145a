"""What accept(2) can fail with, and what to do about it.

Theory of operation
-------------------
Three kinds. *Transient*: this one connection came to nothing, or the network said something about it (Linux
passes pending network errors of the new connection to accept; accept(2) tells to treat them like EAGAIN): go
on with the next. *Exhausted*: the process or the system has no descriptors or memory left; the connection
stays in the kernel's queue, and trying again at once would spin: back off. *Fatal*: everything else; the
listener itself is unusable.

A shortage is the same whatever system call meets it, so `is_shortage` serves reads, writes and epoll_ctl(2),
too.
"""

from __future__ import annotations

import enum
import errno

__all__ = ["SHORTAGES", "AcceptFailure", "Backoff", "classify", "is_shortage"]


class AcceptFailure(enum.Enum):
    """What a failed accept means for the next one."""

    TRANSIENT = "transient"
    EXHAUSTED = "exhausted"
    FATAL = "fatal"


_TRANSIENT = (
    "ECONNABORTED",  # the client left before it was accepted
    "ECONNRESET",
    "EINTR",
    "EPERM",  # a firewall rule forbade this connection
    # Pending network errors, as accept(2) lists them:
    "ENETDOWN",
    "EPROTO",
    "ENOPROTOOPT",
    "EHOSTDOWN",
    "ENONET",
    "EHOSTUNREACH",
    "EOPNOTSUPP",
    "ENETUNREACH",
    "ETIMEDOUT",
)
_EXHAUSTED = (
    "EMFILE",  # this process's descriptors (RLIMIT_NOFILE)
    "ENFILE",  # the system's
    "ENOBUFS",
    "ENOMEM",
    "ENOSPC",  # epoll_ctl(2): the user's watches (/proc/sys/fs/epoll/max_user_watches)
)

_KINDS = {getattr(errno, name): AcceptFailure.TRANSIENT for name in _TRANSIENT if hasattr(errno, name)} | {
    getattr(errno, name): AcceptFailure.EXHAUSTED for name in _EXHAUSTED if hasattr(errno, name)
}


SHORTAGES = frozenset(number for number, kind in _KINDS.items() if kind is AcceptFailure.EXHAUSTED)
"""What errno says where the machine lacks something."""


def classify(error: OSError) -> AcceptFailure:
    """Return what `error`, raised by accept(2), means."""
    return _KINDS.get(error.errno or 0, AcceptFailure.FATAL)


def is_shortage(error: OSError) -> bool:
    """Whether the machine lacks what the system call needed, whatever call it was."""
    return error.errno in SHORTAGES


class Backoff:
    """Pauses between attempts while resources are exhausted: 0.1 s, doubling to 1 s.

    It also says when to write to the log: at the first failure, and at most once a second after that.
    """

    FIRST = 0.1
    LONGEST = 1.0
    LOG_INTERVAL = 1.0

    def __init__(self) -> None:
        self._pause = self.FIRST
        self.pausing = False
        """Whether the last attempt failed."""
        self._logged_at = float("-inf")

    def next_pause(self) -> float:
        """Return the seconds to wait before the next attempt."""
        self.pausing = True
        pause, self._pause = self._pause, min(self._pause * 2, self.LONGEST)
        return pause

    def succeeded(self) -> None:
        """An accept went through: the next shortage starts with a short pause again."""
        self.pausing = False
        self._pause = self.FIRST

    def may_log(self, now: float) -> bool:
        """Whether a line may be written at `now` (seconds of a monotonic clock); counts it if so."""
        if now - self._logged_at < self.LOG_INTERVAL:
            return False
        self._logged_at = now
        return True
