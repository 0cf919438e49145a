"""The entry point: finds the command, runs it, and turns how it ended into an exit code.

Theory of operation
-------------------
The first argument that is no option names the command; only that command's module is imported and asked for
its arguments, so that ``aionet connect`` does not pay for ``aionet bench``. ``--check`` and ``--reload`` take
the place of the command's own run. As process 1 of a container all is left to a child (`first_process.py`).

Exit codes: 0, 1 for what went wrong, 2 for bad usage, 130 for Ctrl-C. A reader that closes our standard
output (``aionet info | head -1``) is no error worth a message.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from ..first_process import leave_to_a_child
from ..version import __version__
from .configuration import ConfigurableParser
from .failing import CommandError, complain
from .parsing import CommandParser, did_you_mean
from .standard_streams import flush_standard_output, occupy_standard_streams, release_standard_streams

__all__ = ["main", "parse_again"]

# The module of each command, and its line in the overview.
_COMMANDS = {
    "serve": ("aionet.cli.serve", "serve a handler of yours: module:handler"),
    "echo": ("aionet.cli.echo", "send back whatever comes"),
    "connect": ("aionet.cli.connect", "standard input to a socket, the socket to standard output"),
    "relay": ("aionet.cli.relay", "pass connections on to another address"),
    "bench": ("aionet.bench.command", "measure how fast this machine accepts and echoes"),
    "info": ("aionet.cli.info", "version, engine, loops, Python, kernel, limits"),
}

_EXAMPLES = """\
examples:
  aionet serve app:handler --bind :3000       async def handler(socket) of ./app.py, on every interface
  aionet echo --bind unix:/tmp/echo.sock      an echo server on a Unix socket
  aionet connect 127.0.0.1:3000 < request     like nc -N
  aionet relay :8080 127.0.0.1:80             port 8080 here leads to port 80
  aionet bench --quick                        how fast is this machine?
  aionet info --json                          facts for a bug report

`aionet COMMAND --help` has more. Addresses are HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH.
"""

_CONTROL_C = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default, this process's) and return the exit code."""
    occupy_standard_streams()
    if (code := leave_to_a_child()) is not None:
        return code
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except CommandError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return _CONTROL_C
    except BrokenPipeError:
        return 1
    finally:
        release_standard_streams()


def _run(argv: list[str]) -> int:
    command = next((argument for argument in argv if not argument.startswith("-")), None)
    parser, module = _parser(command)
    try:
        if command is not None and module is None:
            parser.error(f"unknown command {command!r}{did_you_mean(command, _COMMANDS)}")
        args = parser.parse_args(argv)
    except SystemExit as ended:  # --help, --version, or bad usage
        flush_standard_output()
        return ended.code if isinstance(ended.code, int) else 2
    if module is None:
        parser.print_help()
        flush_standard_output()
        return 2
    code = _carry_out(module, args)
    flush_standard_output()
    return code


def parse_again(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line and the configuration once more, as they are now. Raises `SystemExit`."""
    command = next((argument for argument in argv if not argument.startswith("-")), None)
    return _parser(command)[0].parse_args(list(argv))


def _carry_out(module: Any, args: argparse.Namespace) -> int:
    """Run the command, check it only, or have a child run it again and again."""
    if getattr(args, "check", False):
        from .checking import check

        return check(args, module.check)
    if getattr(args, "reload", False):
        from .arguments import bound_addresses
        from .combinations import check_combinations
        from .reloading import report_imports, run_again_at_changes

        if not report_imports():
            check_combinations(args, bound_addresses(args))
            return run_again_at_changes(args.configuration.file)
    code: int = module.run(args)
    return code


def _parser(command: str | None) -> tuple[CommandParser, Any]:
    """Return the parser, in which only `command` is filled in, and the module that runs it."""
    parser = CommandParser(
        prog="aionet",
        description="An asyncio-native networking toolkit.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"aionet {__version__}")
    commands = parser.add_subparsers(
        metavar="COMMAND", dest="command", title="commands", parser_class=ConfigurableParser
    )
    found = None
    for name, (module_name, text) in _COMMANDS.items():
        subparser = commands.add_parser(name, help=text)
        if name == command:
            found = importlib.import_module(module_name)
            found.add_arguments(subparser)
    return parser, found
