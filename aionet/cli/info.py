"""``aionet info``: what a bug report, or a puzzled operator, needs to know of this machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..bench.facts import cpu_model, kernel, python_build
from ..engine import implementation
from ..native import why_portable
from ..open_files import open_files
from ..tcp_info import read_tcp_info
from ..version import __version__
from ..wires.delivery import enable_acknowledgement_events
from .arguments import add_json_argument, fill_in
from .standard_streams import print_out

__all__ = ["add_arguments", "facts", "run"]

_EXAMPLES = """\
  aionet info                                 a table
  aionet info --json | jq .limits
"""

_SYSCTLS = {
    "somaxconn": "net/core/somaxconn",
    "ip_local_port_range": "net/ipv4/ip_local_port_range",
    "tcp_rmem": "net/ipv4/tcp_rmem",
    "tcp_wmem": "net/ipv4/tcp_wmem",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the parser of ``info``."""
    fill_in(parser, "Show version, engine, loops, Python, kernel, limits and features.", _EXAMPLES)
    add_json_argument(parser, "print a JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the facts."""
    found = facts()
    print_out((json.dumps(found, indent=2) if args.json else "\n".join(_table(found))) + "\n")
    return 0


def facts() -> dict[str, object]:
    """Return everything, by topic."""
    return {
        "version": __version__,
        "engine": implementation(),
        **({"why_portable": why_portable} if why_portable else {}),
        "loops": {"asyncio": platform.python_version(), "uvloop": _version_of("uvloop")},
        "python": {"version": platform.python_version(), "build": python_build()},
        "kernel": kernel(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "limits": {"open_files": _open_files(), **{name: _sysctl(path) for name, path in _SYSCTLS.items()}},
        "features": {name: test() for name, test in _FEATURES.items()},
    }


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


# Limits -------------------------------------------------------------------------------------------------


def _open_files() -> dict[str, int | None] | None:
    """RLIMIT_NOFILE, where the system has it; ``None`` within it stands for no limit.

    ``serving`` is the soft limit of commands that serve, and ``reserved`` what they have beyond it for
    metrics, control socket and log.
    """
    try:
        import resource
    except ImportError:
        return None
    soft, hard = (
        None if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    raised = open_files()
    more = {} if raised is None else {"serving": raised.usable, "reserved": raised.reserved}
    return {"soft": soft, "hard": hard, **more}


def _sysctl(path: str) -> int | list[int] | None:
    try:
        numbers = [int(part) for part in Path("/proc/sys", path).read_text(encoding="ascii").split()]
    except (OSError, ValueError):  # not Linux, or not in this container
        return None
    return numbers[0] if len(numbers) == 1 else numbers


# Features -----------------------------------------------------------------------------------------------


def _works_when_connected(use: Callable[[socket.socket], object]) -> Callable[[], bool]:
    """Return a test of whether `use` of a connected TCP socket succeeds, and does not return false."""

    def test() -> bool:
        try:
            with (
                socket.create_server(("127.0.0.1", 0)) as server,
                socket.create_connection(server.getsockname(), timeout=1.0) as sock,
            ):
                return use(sock) is not False
        except (OSError, NotImplementedError):
            return False

    return test


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


_FEATURES: Mapping[str, Callable[[], bool]] = {
    "epoll": lambda: hasattr(select, "epoll"),
    "acknowledgement_events": _works_when_connected(enable_acknowledgement_events),  # SO_TIMESTAMPING
    "tcp_info": _works_when_connected(read_tcp_info),
    "sendfile": lambda: hasattr(os, "sendfile"),
    "reuse_port": lambda: hasattr(socket, "SO_REUSEPORT"),
    "ipv6": _has_ipv6,
}


# The table ----------------------------------------------------------------------------------------------


def _table(found: Mapping[str, object]) -> Iterator[str]:
    rows = list(_rows(found))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        yield f"{name:<{width}}  {value}"


def _rows(found: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _as_text(value)


def _as_text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)
