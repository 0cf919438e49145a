"""The limits of a command that serves where the user gives none: what a stranger may hold, and for how long.

Theory of operation
-------------------
*Connections.* As many as the descriptors allow (`open_files.py`). A connection of `relay` takes two, one for
each side. What a handler opens is not known; for each connection one more is left to it. Beside the default,
a full server takes newcomers in place of those that have been idle for the longest (``evict_idle``): if it
paused, clients that hold all connections in silence would shut out everyone else. Where the user gives
``--max-connections``, the others wait (``pause``), as for every limit that is asked for.

*Idle* connections end after 2 hours and 4 minutes. A NAT on the way has to remember a silent connection for
that long and no longer (RFC 5382, REQ-5), so a protocol that works on the internet speaks more often. Chat
and MQTT, which do so each half hour or hour, are far from it.

*A write stalls* for 5 minutes at most, the time after which TCP itself gives up a peer that takes nothing
(RFC 9293, 3.9.1); a peer that announces a window of zero can prolong that without end.

*A relay* has neither of the two. Which protocol it carries is not known, and a session of SSH is silent for a
weekend, or stopped with Ctrl-S for hours, without any fault. Peers that have vanished are found by TCP's
keepalive, which `relay` sets; those that are there hold a connection only until a newcomer needs it, and 256
KiB each way.

``--no-limits`` gives up all of them. One alone is given up by the value ``off``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..open_files import open_files

__all__ = ["OF_ECHO", "OF_HANDLERS", "OF_RELAYS", "SafeDefault", "SafeLimits", "settle"]

_IDLE = 7440.0
_WRITE_STALL = 300.0
_OWN = 64  # descriptors of the process itself: standard streams, event loop, log, listening sockets
_OWN_SHARE = 4  # but not more than one in so many
_OF_A_LISTENER = 4  # IPv4 and IPv6, and a copy of each from which connections are accepted


@dataclass(frozen=True)
class SafeDefault:
    """The default of an option, which depends on the other ones."""

    text: str
    """For ``--help``."""
    of: Callable[[argparse.Namespace], Any]
    """Returns it, given all options; those that the user did not give may still be `SafeDefault`."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class SafeLimits:
    """The safe limits of one command."""

    descriptors: Literal[1, 2]
    """That a connection takes."""
    idle_timeout: float | None = None
    write_stall_timeout: float | None = None

    def defaults(self) -> dict[str, SafeDefault]:
        """Return the default of each option that has a safe one, by the name of the field."""
        share = "as many as" if self.descriptors == 1 else "half as many as"
        found = {
            "max_connections": SafeDefault(f"{share} the descriptors, less some", self._connections),
            "on_full": SafeDefault("evict_idle; with --max-connections: pause", _on_full),
        }
        for name in ("idle_timeout", "write_stall_timeout"):
            seconds = getattr(self, name)
            if seconds is not None:
                found[name] = SafeDefault(f"{seconds:g}", _unless_given_up(seconds))
        return found

    def _connections(self, args: argparse.Namespace) -> int | None:
        limits = open_files()
        if args.no_limits or limits is None:
            return None
        listeners = len(getattr(args, "bind", None) or [None]) * (getattr(args, "workers", None) or 1)
        own = min(_OWN + _OF_A_LISTENER * listeners, limits.usable // _OWN_SHARE)
        return max((limits.usable - own) // self.descriptors, 1)


OF_HANDLERS = SafeLimits(2, _IDLE, _WRITE_STALL)
OF_ECHO = SafeLimits(1, _IDLE, _WRITE_STALL)
OF_RELAYS = SafeLimits(2)


def settle(args: argparse.Namespace) -> dict[str, Any]:
    """Put values in the place of the safe defaults in `args`; return those values by name."""
    found = dict(_settled(args))
    vars(args).update(found)
    return found


def _settled(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for name, value in vars(args).items():
        if isinstance(value, SafeDefault):
            yield name, value.of(args)


def _unless_given_up(value: float) -> Callable[[argparse.Namespace], float | None]:
    return lambda args: None if args.no_limits else value


def _on_full(args: argparse.Namespace) -> str:
    unlimited = args.no_limits or not isinstance(args.max_connections, SafeDefault)
    return "pause" if unlimited else "evict_idle"
