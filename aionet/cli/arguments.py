"""What several commands take: argparse types whose messages name the value and what was expected."""

from __future__ import annotations

import argparse
import importlib.util
import math
from typing import TypeAlias

from ..addresses import SocketAddress, UnixAddress, as_address
from ..running import LOOPS
from .systemd_sockets import SystemdSockets

__all__ = [
    "Address",
    "Bound",
    "add_json_argument",
    "add_loop_argument",
    "add_server_arguments",
    "bind_address",
    "bound_addresses",
    "connections",
    "fill_in",
    "listen_address",
    "processes",
    "seconds",
    "seconds_or_zero",
    "target_address",
]

Address: TypeAlias = SocketAddress | UnixAddress
"""Where a command listens or connects to."""

Bound: TypeAlias = Address | SystemdSockets
"""What a server may be bound to."""

_DEFAULT_BIND = SocketAddress("127.0.0.1", 3000)


def fill_in(parser: argparse.ArgumentParser, description: str, examples: str) -> None:
    """Give `parser` its description, and the examples below its options."""
    parser.description = description
    parser.epilog = f"examples:\n{examples}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


# Types --------------------------------------------------------------------------------------------------


def listen_address(text: str) -> Address:
    """An argparse type: where a server listens."""
    try:
        address = as_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if isinstance(address, UnixAddress) and not address.path:
        raise argparse.ArgumentTypeError(f"{text!r} lacks a path: expected 'unix:/path' or 'unix:@abstract'")
    return address


def bind_address(text: str) -> Bound:
    """An argparse type: where a server listens, or what systemd listens on for it."""
    return SystemdSockets.parse(text) or listen_address(text)


def target_address(text: str) -> Address:
    """An argparse type: where to connect to."""
    address = listen_address(text)
    if isinstance(address, SocketAddress) and address.port == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port in 1..65535 to connect to")
    return address


def seconds(text: str) -> float:
    """An argparse type: a positive, finite number of seconds."""
    number = seconds_or_zero(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected more than 0 seconds")
    return number


def seconds_or_zero(text: str) -> float:
    """An argparse type: a finite number of seconds, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds, 0 or more")
    return number


def connections(text: str) -> int:
    """An argparse type: a number of connections, at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of connections, 1 or more")
    return number


def processes(text: str) -> int:
    """An argparse type: a number of processes, at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of processes, 1 or more")
    return number


def _loop_name(text: str) -> str:
    if text == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise argparse.ArgumentTypeError("uvloop is not installed; try: pip install 'aionet-toolkit[uvloop]'")
    return text


# Options ------------------------------------------------------------------------------------------------


def add_loop_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--loop``."""
    parser.add_argument(
        "--loop",
        type=_loop_name,
        choices=LOOPS,
        default="aionet",
        help="the event loop: aionet is asyncio's own over aionet's selector (default: %(default)s)",
    )


def add_json_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--json``; `text` says what is printed then."""
    parser.add_argument("--json", action="store_true", help=text)


def add_server_arguments(parser: argparse.ArgumentParser, *, bind: bool = True) -> None:
    """Add what every command that serves takes; without `bind` the address is the caller's affair."""
    if bind:
        parser.add_argument(
            "--bind",
            type=bind_address,
            action="append",
            metavar="ADDRESS",
            help="HOST:PORT, :PORT for every interface, unix:PATH, or systemd:NAME for the sockets that"
            " systemd passes by that name (systemd: for all); may be given several times"
            f" (default: {_DEFAULT_BIND})",
        )
    parser.add_argument(
        "--drain-grace",
        type=seconds_or_zero,
        default=30.0,
        metavar="SECONDS",
        help="how long connections may finish after SIGINT or SIGTERM; a second signal ends it (default: 30)",
    )
    parser.add_argument(
        "--max-connections",
        type=connections,
        metavar="N",
        help="connections served at a time; others wait in the kernel's queue (default: no limit)",
    )
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error", "critical"],
        default="info",
        help="what is logged to standard error (default: %(default)s)",
    )
    add_loop_argument(parser)
    add_json_argument(parser, "print events as lines of JSON to standard output")


def bound_addresses(args: argparse.Namespace) -> list[Bound]:
    """Return what ``--bind`` asked for, or the default."""
    addresses: list[Bound] = args.bind or [_DEFAULT_BIND]
    return addresses
