"""What several commands take: argparse types whose messages name the value and what was expected."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ..addresses import SocketAddress, UnixAddress, as_address
from ..limiting.limits import ConnectionLimits
from ..proxy_protocol import ProxyProtocol
from ..running import LOOPS
from ..socket_file import FileAccess
from .failing import CommandError
from .parsing import TextOnly
from .safe_limits import SafeLimits, settle
from .systemd_sockets import SystemdSockets

__all__ = [
    "Address",
    "Bound",
    "add_json_argument",
    "add_loop_argument",
    "add_server_arguments",
    "bind_address",
    "bound_addresses",
    "byte_count",
    "connections",
    "file_access_from",
    "file_path",
    "fill_in",
    "limits_from",
    "listen_address",
    "per_second",
    "preface_from",
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


def file_path(text: str) -> str:
    """An argparse type: the path of a file, which may not be there."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: expected the path of a file")
    return text


def seconds(text: str) -> float:
    """An argparse type: a positive, finite number of seconds."""
    number = seconds_or_zero(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected more than 0 seconds")
    return number


def seconds_or_zero(text: str) -> float:
    """An argparse type: a finite number of seconds, 0 or more."""
    number = _number(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds, 0 or more")
    return number


def _number(text: str) -> float:
    """Return a finite number, or NaN, which is neither more nor less than anything."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _whole_number_of(things: str) -> Callable[[str], int]:
    """Return an argparse type: a number of `things`, at least 1."""

    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = 0
        if number < 1:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of {things}, 1 or more")
        return number

    return whole_number


connections = _whole_number_of("connections")
processes = _whole_number_of("processes")


def per_second(text: str) -> float:
    """An argparse type: a rate, more than 0."""
    number = _number(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number per second, more than 0")
    return number


_DIGITS = "[0-9]{1,18}"  # int() of very many digits takes long, or is refused
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}


def byte_count(text: str) -> int:
    """An argparse type: a number of bytes, at least 1, as ``65536``, ``64KiB`` or ``10k`` (10,000)."""
    found = re.fullmatch(rf"({_DIGITS}) ?((?:[kmg]i?)?)b?", text.strip(), re.IGNORECASE)
    number = int(found[1]) * _UNITS[found[2].lower()] if found else 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number of bytes, 1 or more, as in 10k or 64MiB"
        )
    return number


def _trusted_network(text: str) -> str:
    try:
        ProxyProtocol(trusted=[text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def preface_from(args: argparse.Namespace) -> ProxyProtocol | None:
    """Return what comes before the handler, if the options ask for anything."""
    return ProxyProtocol(trusted=args.proxy_protocol) if args.proxy_protocol else None


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


def add_server_arguments(parser: argparse.ArgumentParser, safe: SafeLimits, *, bind: bool = True) -> None:
    """Add what every command that serves takes; without `bind` the address is the caller's affair.

    `safe` is the limits where the user gives none.
    """
    if bind:
        parser.add_argument(
            "--bind",
            type=bind_address,
            action="append",
            default=[_DEFAULT_BIND],
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
        "--log-level",
        choices=["debug", "info", "warning", "error", "critical"],
        default="info",
        help="what is logged to standard error (default: %(default)s)",
    )
    add_loop_argument(parser)
    add_json_argument(parser, "print events as lines of JSON to standard output")
    parser.add_argument(
        "--proxy-protocol",
        type=_trusted_network,
        action="append",
        metavar="NETWORK",
        help="expect a PROXY protocol header, version 1 or 2, on every connection, and trust the proxies in"
        " NETWORK, as 10.0.0.0/8, or unix; may be given several times",
    )
    _add_file_arguments(parser)
    _add_limit_arguments(parser, safe)


def bound_addresses(args: argparse.Namespace) -> list[Bound]:
    """Return what ``--bind`` asked for, or the default."""
    addresses: list[Bound] = args.bind
    return addresses


# Socket files -------------------------------------------------------------------------------------------


def _add_file_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "socket files", "Those of unix:PATH: write permission is permission to connect (unix(7))."
    )
    group.add_argument(
        "--socket-mode",
        type=TextOnly(_mode, "660"),
        metavar="MODE",
        help="permissions, as 660 (default: what the umask leaves of 777)",
    )
    for what, default in (("owner", "that of the process"), ("group", "that of every new file")):
        group.add_argument(
            f"--socket-{what}",
            type=functools.partial(_owner, what),
            metavar=what.upper(),
            help=f"a name or a number (default: {default})",
        )


def _mode(text: str) -> str:
    """An argparse type: permissions of a file, in octal."""
    found = re.fullmatch(r"(?:0o?)?([0-7]{3})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected three octal digits, as 660")
    return found[1]


def _owner(what: str, text: str) -> str | int:
    """An argparse type: a user, or a group."""
    name = int(text) if re.fullmatch(_DIGITS, text) else text
    try:
        FileAccess(owner=name) if what == "owner" else FileAccess(group=name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


def file_access_from(args: argparse.Namespace, bound: Sequence[Bound]) -> FileAccess:
    """Return what is asked for the files of `bound`. Raises `CommandError` if none of them has one."""
    mode = None if args.socket_mode is None else int(args.socket_mode, 8)
    access = FileAccess(mode, args.socket_owner, args.socket_group)
    if access and not any(isinstance(one, UnixAddress) and not one.is_abstract for one in bound):
        given = next(what for what in ("mode", "owner", "group") if getattr(access, what) is not None)
        raise CommandError(f"--socket-{given} needs an address unix:PATH: no other one has a file")
    return access


# Limits -------------------------------------------------------------------------------------------------

_Type: TypeAlias = Callable[[str], Any]


def _or_off(convert: _Type) -> _Type:
    """Return an argparse type: ``off``, which is no limit, or what `convert` takes."""

    def limit(text: str) -> Any:
        if text == "off":
            return None
        try:
            return convert(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, or off") from None

    return limit


_SECONDS: dict[str, Any] = {"type": seconds, "metavar": "SECONDS"}
_SECONDS_OR_OFF: dict[str, Any] = {"type": _or_off(seconds), "metavar": "SECONDS"}

_LIMITS: dict[str, dict[str, Any]] = {
    "max_connections": {
        "type": _or_off(connections),
        "metavar": "N",
        "help": "connections served at a time; --on-full says what becomes of others",
    },
    "on_full": {
        "choices": ["pause", "reset", "evict_idle"],
        "help": "what becomes of connections beyond --max-connections: they wait, are reset, or take the"
        " place of one that has been idle for long, of a peer with many connections first",
    },
    "max_per_peer": {
        "type": connections,
        "metavar": "N",
        "help": "connections from one address at a time; further ones are reset",
    },
    "accept_rate": {
        "type": per_second,
        "metavar": "N",
        "help": "connections accepted per second; others wait in the kernel's queue",
    },
    "accept_rate_per_peer": {
        "type": per_second,
        "metavar": "N",
        "help": "connections accepted per second from one address; further ones are reset",
    },
    "handshake_timeout": {**_SECONDS_OR_OFF, "help": "how long what comes before the handler may take"},
    "max_handshakes": {
        "type": connections,
        "metavar": "N",
        "help": "connections that are in their handshake at a time, TLS or PROXY; others wait in the kernel's"
        " queue, for a second at most where older handshakes can give way",
    },
    "max_handshakes_per_peer": {
        "type": connections,
        "metavar": "N",
        "help": "connections from one address that are in their handshake at a time; further ones are reset",
        "unset": "8, or half of the free places of --max-handshakes",
    },
    "idle_timeout": {
        **_SECONDS_OR_OFF,
        "help": "how long a connection may be without a byte in either direction",
    },
    "read_stall_timeout": {**_SECONDS, "help": "how long a handler's read may wait for the peer"},
    "write_stall_timeout": {
        **_SECONDS_OR_OFF,
        "help": "how long a write may wait without the peer taking a byte",
    },
    "handler_timeout": {**_SECONDS, "help": "how long a connection may be served in all"},
    "max_pending_bytes": {
        "type": byte_count,
        "metavar": "BYTES",
        "help": "what all connections may hold in waiting writes, buffers and reads in hand, as in 64MiB;"
        " beyond that those that hold the most are reset",
    },
    "on_peer_gone": {
        "choices": ["ignore", "event", "cancel"],
        "help": "when the peer has ended its side: nothing, set the socket's peer_gone, or cancel a handler"
        " that does not read",
    },
    "on_unfinished": {
        "choices": ["reset", "close"],
        "help": "how a connection ends whose handler raised, took too long, or was cancelled in the middle of"
        " a write: in a reset, or cleanly, as if its reply were complete",
    },
    "drain_spread": {
        **_SECONDS,
        "help": "over how many seconds, at the end of the grace, those who are left are cancelled",
        "unset": "all at once",
    },
}
"""A field of `ConnectionLimits` -> its option; the default is that of `safe_limits.py`, or the field's own.

``unset`` says what its absence means, where that is not the absence of a limit.
"""


def _add_limit_arguments(parser: argparse.ArgumentParser, safe: SafeLimits) -> None:
    """Add an option for each field of `ConnectionLimits` that has one, by default that of `safe`."""
    group = parser.add_argument_group(
        "limits", "Those with a default are given up one by one by the value off, or all by --no-limits."
    )
    group.add_argument(
        "--no-limits",
        action="store_true",
        help="no limit by default on connections, silence and writes that stall: strangers may hold all"
        " descriptors for as long as they like",
    )
    defaults = safe.defaults()
    for field in _limits():
        option = dict(_LIMITS[field.name])
        unset = option.pop("unset", "no limit")
        default = defaults.get(field.name, field.default)
        option["help"] += f" (default: {unset if default is None else '%(default)s'})"
        group.add_argument(f"--{field.name.replace('_', '-')}", default=default, **option)


def limits_from(args: argparse.Namespace) -> ConnectionLimits:
    """Return the limits that the options ask for. Raises `CommandError` if they do not go together."""
    settle(args)
    try:
        return ConnectionLimits(**{field.name: getattr(args, field.name) for field in _limits()})
    except ValueError as error:
        raise CommandError(str(error)) from error


def _limits() -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(ConnectionLimits) if field.name in _LIMITS]
