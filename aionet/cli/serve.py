"""``aionet serve module:handler``: a server for a coroutine function of the user's.

Theory of operation
-------------------
The current directory comes first on `sys.path`, as ``python -m`` has it, so ``app:handler`` is found in
``./app.py``. Loading happens before anything is bound. Whatever is wrong with the name is one line; an
exception in the user's own module is theirs to see, with the traceback, less our frames.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import traceback
from types import ModuleType, TracebackType
from typing import Any

from ..announcing import say
from ..early_signals import early_signals_kept
from ..spawner import Handler
from .arguments import (
    add_server_arguments,
    bound_addresses,
    file_path,
    fill_in,
    processes,
    seconds,
)
from .combinations import check_combinations
from .configuration import add_configuration_arguments
from .failing import CommandError
from .observing import add_observing_arguments
from .safe_limits import OF_HANDLERS
from .serving import STARTED_IN, run_server
from .supervising import run_workers_command
from .tcp_options import add_tcp_arguments
from .tls_options import add_server_tls_arguments, check_server_tls

__all__ = ["add_arguments", "check", "run"]

_EXAMPLES = """\
  aionet serve app:handler                    ./app.py has: async def handler(socket)
  aionet serve app:handler --bind :3000       on every interface
  aionet serve package.module:object.method --bind unix:/tmp/app.sock
  aionet serve app:handler --bind 127.0.0.1:0 --json
                                              prints the port that it got
  aionet serve app:handler --drain-grace 5 --max-connections 1000
  aionet serve app:handler --workers 4 --control /run/app/control
  aionet serve app:handler --workers 4 --control /run/app/control --replace
                                              the new version takes over from the one before
  aionet serve app:handler --bind systemd:app.socket
  aionet serve app:handler --bind :443 --cert server.pem --key server.key --alpn http/1.1
                                              TLS; the files are read again when they change
  aionet serve app:handler --access-log json --metrics 127.0.0.1:9100
                                              with --workers, too: one address for all of them
  aionet serve --config app.toml --check      are the options and the handler right?
  aionet serve app:handler --reload           for development: restarts when app.py changes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the parser of ``serve``."""
    fill_in(parser, "Run an async handler in a task of its own for every connection.", _EXAMPLES)
    parser.add_argument(
        "handler",
        nargs="?",  # it may come from the configuration, but from somewhere it must
        type=_handler_name,
        metavar="module:handler",
        help="a coroutine function that is given a connected socket; the current directory is importable",
    )
    add_server_arguments(parser, OF_HANDLERS)
    add_tcp_arguments(parser)
    add_server_tls_arguments(parser)
    _add_process_arguments(parser)
    add_observing_arguments(parser)
    add_configuration_arguments(parser)


def _add_process_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "processes", "SIGUSR2 restarts the program and SIGHUP its workers, and nobody is refused meanwhile."
    )
    group.add_argument(
        "--workers",
        type=processes,
        metavar="N",
        help="serve from so many processes, which are replaced when they end (default: this process alone)",
    )
    group.add_argument(
        "--shared-listener",
        action="store_true",
        help="workers accept from one queue, in place of one queue each (SO_REUSEPORT)",
    )
    group.add_argument(
        "--worker-timeout",
        type=seconds,
        metavar="SECONDS",
        help="end and replace a worker whose event loop hangs for so long; whoever it serves is cut off"
        " (default: never)",
    )
    group.add_argument(
        "--control",
        type=file_path,
        metavar="PATH",
        help="a socket file where --replace, of the same user, finds this server",
    )
    group.add_argument(
        "--replace",
        action="store_true",
        help="take over from the server at --control, if there is one: it drains once this one serves",
    )
    group.add_argument(
        "--start-timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long a worker, or a successor, may take to become ready (default: 30)",
    )


def run(args: argparse.Namespace) -> int:
    """Load the handler, and serve it until a signal."""
    check_combinations(args, bound_addresses(args))
    with early_signals_kept():
        handler = _load(*args.handler)
        if handler is None:
            return 1
        if args.workers is None:
            return run_server(handler, bound_addresses(args), args)
        return run_workers_command(bound_addresses(args), args)


def check(args: argparse.Namespace) -> None:
    """Raise `CommandError` if the handler or the certificates cannot be had."""
    check_server_tls(args)
    if args.handler is not None and _load(*args.handler) is None:
        raise CommandError(f"importing {args.handler[0]} failed, as shown above")


def _load(module_name: str, path: str) -> Handler[Any] | None:
    """Return the handler; ``None`` if its module raised, and its traceback was shown."""
    directory = STARTED_IN.real
    if directory is None:
        raise CommandError("the current directory is gone")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    module = _import(module_name, path)
    return None if module is None else _find_handler(module, path)


def _handler_name(text: str) -> tuple[str, str]:
    """An argparse type: ``module:handler``, both parts possibly dotted."""
    module, _, path = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected module:handler, as in 'app:handler'{_named_as_module(module, path)}"
        )
    return module, path


def _named_as_module(file: str, path: str) -> str:
    """Return the end of a message where `file` is the path of a module's source: how it is named instead."""
    module = file.removeprefix("./").removesuffix(".py").replace("/", ".")
    if not file.endswith(".py") or not all(part.isidentifier() for part in module.split(".")):
        return ""
    return f"; a module is named without .py: {module}:{path or 'handler'}"


def _import(name: str, path: str) -> ModuleType | None:
    """Return the module; ``None`` if it raised, and its traceback was shown."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _is_or_contains(error.name, name):
            hint = _named_as_module(name, path)
            raise CommandError(
                f"there is no module {error.name!r} (looked in {STARTED_IN.name} too){hint}"
            ) from None
        shown = traceback.format_exception(type(error), error, _frames_of_the_module(error.__traceback__))
        say("".join(shown).rstrip("\n"))
        return None


def _is_or_contains(missing: str | None, name: str) -> bool:
    """Whether what is missing is `name` itself or a package on the way to it, not what it imports."""
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def _frames_of_the_module(frames: TracebackType | None) -> TracebackType | None:
    """Leave out our own frame and those of the import system; a syntax error has no others."""
    ours = (__file__, importlib.__file__)
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file not in ours and not file.startswith("<frozen importlib"):
            break
        frames = frames.tb_next
    return frames


def _find_handler(module: ModuleType, path: str) -> Handler[Any]:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            what = f"module {module.__name__!r}" if found is module else f"{found!r}"
            raise CommandError(f"{module.__name__}:{path}: {what} has no attribute {name!r}") from None
    problem = _problem_with(found)
    if problem:
        raise CommandError(f"{module.__name__}:{path} {problem}: expected `async def handler(socket)`")
    handler: Handler[Any] = found
    return handler


def _problem_with(handler: Any) -> str | None:
    if not callable(handler):
        return f"is not callable, but {handler!r}"
    by_instance = not inspect.isclass(handler) and inspect.iscoroutinefunction(type(handler).__call__)
    if not (by_instance or inspect.iscoroutinefunction(handler)):
        return "is not a coroutine function"
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        return f"does not take one argument ({error})"
    except ValueError:  # it has no signature to look at
        pass
    return None
