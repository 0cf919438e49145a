"""``--bind systemd:NAME``: the listening sockets that systemd passes to a command that serves."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ..adapters.systemd import inherited_listeners
from ..addresses import SocketAddress, UnixAddress
from ..held_listeners import InheritedListeners, SharedPath, WantedListener
from ..socket_file import AS_EVERY_FILE, FileAccess
from .failing import CommandError, explain

__all__ = ["SystemdSockets", "wanted_listeners"]

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_PREFIX = "systemd:"


@dataclass(frozen=True)
class SystemdSockets:
    """The sockets of one name; an empty one stands for all."""

    name: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return what `text` names, ``None`` if it names an address."""
        return cls(text.removeprefix(_PREFIX)) if text.startswith(_PREFIX) else None

    def __str__(self) -> str:
        return _PREFIX + self.name


def wanted_listeners(
    bound: Iterable[SocketAddress | UnixAddress | SystemdSockets], access: FileAccess = AS_EVERY_FILE
) -> list[WantedListener]:
    """Return what `bound` asks for, with the sockets that systemd passed to this process.

    The files of Unix addresses get `access`; those of systemd are its own affair. A successor finds nothing
    here: it takes its sockets from its predecessor, by the same names. Raises `CommandError` for what systemd
    passes wrongly, or in vain.
    """
    names = list(bound)
    try:
        passed = inherited_listeners()
    except (ValueError, OSError) as error:
        reason = explain(error) if isinstance(error, OSError) else error
        raise CommandError(f"what systemd passes is wrong: {reason}") from error
    problem = next(
        (text for name in passed for sock in passed[name] if (text := _problem_with(name, sock))), ""
    )
    wanted: list[WantedListener] = []
    if not problem:
        wanted += [_wanted(name, passed, access) for name in names]
        for left in passed:
            problem = f"sockets named {left!r}, but nothing is bound to systemd:{left}"
    if problem:
        for sock in (sock for sockets in passed.values() for sock in sockets):
            sock.close()
        raise CommandError(f"systemd passes {problem}")
    return wanted


def _wanted(
    bound: SocketAddress | UnixAddress | SystemdSockets,
    passed: dict[str, list[socket.socket]],
    access: FileAccess,
) -> WantedListener:
    if isinstance(bound, SystemdSockets):
        return _inherited(bound, passed)
    if isinstance(bound, UnixAddress) and access and not bound.is_abstract:
        return SharedPath(bound, access)
    return bound


def _inherited(wanted: SystemdSockets, passed: dict[str, list[socket.socket]]) -> InheritedListeners:
    names = [wanted.name] if wanted.name else list(passed)
    return InheritedListeners(str(wanted), tuple(sock for name in names for sock in passed.pop(name, [])))


def _problem_with(name: str, sock: socket.socket) -> str | None:
    """Return what is wrong with `sock` and its ``.socket`` unit; ``None`` for a listening stream socket."""
    if sock.type == socket.SOCK_DGRAM:
        return f"a datagram socket named {name!r}: expected ListenStream="
    if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
        return f"a socket named {name!r} of a kind that is not served: expected ListenStream="
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return f"a socket named {name!r} that does not listen: set Accept=no"
    return None
