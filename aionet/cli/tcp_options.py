"""``--keepalive`` and ``--user-timeout``: when the kernel gives up a peer that does not answer."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ..options import KeepAlive, TcpOptions

__all__ = ["RELAY_KEEPALIVE", "add_tcp_arguments", "tcp_options_from"]

RELAY_KEEPALIVE = KeepAlive()
"""What ``relay`` has by default: this very object means that no option was given."""

_NUMBER = re.compile(r"\s*[0-9]{1,18}\s*")
_EXPECTED = "expected off, or IDLE[,INTERVAL[,COUNT]], as in 60,10,5"


def add_tcp_arguments(parser: argparse.ArgumentParser, *, keepalive: KeepAlive | None = None) -> None:
    """Add the options to `parser`; `keepalive` is the default, ``None`` the system's setting."""
    default = (
        "the system's setting"
        if keepalive is None
        else f"{keepalive.idle},{keepalive.interval},{keepalive.count}"
    )
    group = parser.add_argument_group("peers that vanish (TCP)")
    group.add_argument(
        "--keepalive",
        type=_keepalive,
        default=keepalive,
        metavar="IDLE[,INTERVAL[,COUNT]]",
        help="probe a connection after IDLE seconds of silence, every INTERVAL seconds, and give it up after"
        f" COUNT probes without an answer; off for no probes (default: {default})",
    )
    group.add_argument(
        "--user-timeout",
        type=_user_timeout,
        metavar="SECONDS",
        help="give a connection up when what was sent is not acknowledged for so long; with --keepalive it"
        " takes the place of COUNT (default: the system's setting, about 15 minutes)",
    )


def tcp_options_from(args: argparse.Namespace) -> TcpOptions | None:
    """Return what the options ask for; ``None`` if they ask for nothing."""
    if args.keepalive is None and args.user_timeout is None:
        return None
    return TcpOptions(keepalive=args.keepalive, user_timeout=args.user_timeout)


def _keepalive(text: str) -> KeepAlive | bool:
    if text == "off":
        return False
    names = ("idle", "interval", "count")
    numbers = text.split(",")
    if len(numbers) > len(names) or not all(map(_NUMBER.fullmatch, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r}: {_EXPECTED}")
    times: dict[str, Any] = dict(zip(names, map(int, numbers), strict=False))
    try:
        return KeepAlive(**times)
    except ValueError as error:
        name, _, rest = str(error).partition("=")
        raise argparse.ArgumentTypeError(f"{text!r}: {name.upper()}={rest}") from None


def _user_timeout(text: str) -> float:
    try:
        seconds = float(text)
        TcpOptions(user_timeout=seconds)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected more than 0 seconds ({error})") from None
    return seconds
