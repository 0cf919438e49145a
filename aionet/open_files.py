"""How many descriptors this process may have: raised at the start, with a part that clients cannot use up.

Theory of operation
-------------------
The kernel opens a descriptor only if its number is below the soft limit (RLIMIT_NOFILE), and a process may
set that to anything up to the hard limit (setrlimit(2)). `raise_limit` sets it to the hard limit, less a
reserve. What has to work while clients hold all descriptors opens its own within `reserved()`, where the soft
limit is the hard one: metrics, the control socket, the log's file, a restart, a message to systemd. A
descriptor that is open already stays valid when the limit is lowered.

The reserve is a number, and not a set of open descriptors that are closed when one is needed: so it needs no
bookkeeping, and descriptors that a handler opens cannot take it either. Without `raise_limit`, that is, in a
program that uses aionet as a library, there is no reserve, and `reserved()` does nothing.

The limit is one of the whole process. While a block of `reserved()` lasts, other threads may use the reserve
as well, so a block makes a few system calls and waits for nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

__all__ = ["OpenFiles", "open_files", "raise_limit", "reserved"]

_RESERVE = 64  # 32 scrapes, 9 talks at the control socket, and what a restart, the logs and systemd take
_SMALLEST_SHARE = 4  # where there are few descriptors the reserve is one in so many
_WHERE_UNLIMITED = (
    10240  # OPEN_MAX of macOS, which refuses more as a soft limit though the hard one is infinite
)

_HAS_LIMITS = os.name == "posix"
_has_reserve = False


@dataclass(frozen=True)
class OpenFiles:
    """The limits on descriptors, as `raise_limit` sets them."""

    usable: int
    """The soft limit."""
    reserved: int
    """Beyond it, for service connections."""
    hard: int
    """The hard limit; that of the system may be infinite, then the highest soft limit that is asked for."""


def open_files() -> OpenFiles | None:
    """Return what `raise_limit` would set now, or has set; ``None`` where there is no limit."""
    if not _HAS_LIMITS:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    highest = max(soft, _WHERE_UNLIMITED) if hard == resource.RLIM_INFINITY else hard
    reserve = min(_RESERVE, highest // _SMALLEST_SHARE)
    return OpenFiles(highest - reserve, reserve, highest)


def raise_limit() -> None:
    """Set the soft limit to the hard one, less the reserve. A second call changes nothing.

    Where the system refuses, the limit stays as it is, and there is no reserve.
    """
    global _has_reserve
    limits = open_files()
    if limits is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits.usable, hard))
    except (OSError, ValueError):
        return
    _has_reserve = True


@contextmanager
def reserved() -> Iterator[None]:
    """Descriptors of the reserve may be opened while the block lasts, which must not wait."""
    limits = open_files() if _has_reserve else None
    if limits is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limits.hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
