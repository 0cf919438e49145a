"""Options that do not go together: refused before anything is bound, with one line.

Theory of operation
-------------------
An option that would change nothing is a mistake of the caller's, so it is an error and not ignored. The rules
stand here where they are about what a command serves or connects to, and how. What belongs to TLS alone or to
socket files alone is checked with those options.

``--start-timeout`` is of use without workers, too: it limits the start of a successor. ``--access-log off``
goes with an ``--access-log-file``: a flag has to be able to switch off what the configuration switches on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from ..addresses import UnixAddress
from .arguments import Bound
from .failing import CommandError
from .systemd_sockets import SystemdSockets
from .tcp_options import RELAY_KEEPALIVE

__all__ = ["check_combinations"]


def check_combinations(args: argparse.Namespace, addresses: Sequence[Bound]) -> None:
    """Raise `CommandError` for the first thing in `args` that cannot work, or would change nothing.

    `addresses` are those that the command listens on or connects to.
    """
    for problem in _problems(args, addresses):
        raise CommandError(problem)


def _problems(args: argparse.Namespace, addresses: Sequence[Bound]) -> Iterator[str]:
    if all(isinstance(address, UnixAddress) for address in addresses):
        for option, given in (
            ("--keepalive", _is_given(args.keepalive)),
            ("--user-timeout", args.user_timeout is not None),
        ):
            if given:
                yield f"{option} needs an address HOST:PORT: Unix sockets have no such thing"
    if getattr(args, "workers", None) is None:
        for option, given in (
            ("--worker-timeout", getattr(args, "worker_timeout", None) is not None),
            ("--shared-listener", getattr(args, "shared_listener", False)),
        ):
            if given:
                yield f"{option} needs --workers: one process alone has no use for it"
    if getattr(args, "replace", False) and getattr(args, "control", None) is None:
        yield "--replace needs --control, the socket file of the server that is replaced"
    spread = getattr(args, "drain_spread", None)
    if spread is not None and spread > args.drain_grace:
        yield (
            f"--drain-spread {spread:g} is longer than --drain-grace {args.drain_grace:g},"
            " of which it is the last part"
        )
    if getattr(args, "reload", False):
        for address in addresses:
            if isinstance(address, SystemdSockets):
                yield f"--reload cannot serve {address}: systemd passes sockets to one process (LISTEN_PID)"


def _is_given(keepalive: object) -> bool:
    """Whether probes were asked for; ``off`` says nothing untrue of a Unix socket."""
    return bool(keepalive) and keepalive is not RELAY_KEEPALIVE
