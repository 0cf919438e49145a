"""``aionet echo``: sends back whatever comes."""

from __future__ import annotations

import argparse
from typing import Any

from ..stream_socket import AsyncStreamSocket
from .arguments import add_server_arguments, bound_addresses, fill_in
from .combinations import check_combinations
from .configuration import add_configuration_arguments
from .observing import add_observing_arguments
from .safe_limits import OF_ECHO
from .serving import run_server
from .tcp_options import add_tcp_arguments
from .tls_options import add_server_tls_arguments, check_server_tls

__all__ = ["add_arguments", "check", "echo", "run"]

_EXAMPLES = """\
  aionet echo                                 on 127.0.0.1:3000
  aionet echo --bind :7 --bind '[::1]:7777'   on every interface, and on one more
  aionet echo --bind unix:/tmp/echo.sock
  aionet echo --bind 127.0.0.1:0 --json       prints the port that it got
  aionet echo --cert server.pem --key server.key

try it with: printf hello | nc -N 127.0.0.1 3000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the parser of ``echo``."""
    fill_in(parser, "Send back whatever comes, connection by connection.", _EXAMPLES)
    add_server_arguments(parser, OF_ECHO)
    add_tcp_arguments(parser)
    add_server_tls_arguments(parser)
    add_observing_arguments(parser)
    add_configuration_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    check_combinations(args, bound_addresses(args))
    return run_server(echo, bound_addresses(args), args)


def check(args: argparse.Namespace) -> None:
    """Raise `CommandError` if the certificates cannot be used."""
    check_server_tls(args)


async def echo(socket: AsyncStreamSocket[Any]) -> None:
    """Send back what comes until the stream ends."""
    async for chunk in socket:
        await socket.write(chunk)
        del chunk  # else the next read would wait with it
