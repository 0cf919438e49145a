"""``--check``: is everything right, and which value comes from where? Nothing is bound.

What is printed is a TOML file with the effective options, each with its source in a comment, which can be
given to ``--config`` again; with ``--json`` it is one object. If anything is wrong, all of that is told.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator

from .arguments import bound_addresses, file_access_from, limits_from
from .combinations import check_combinations
from .configuration import TABLE, Configuration
from .configuration_file import toml_value
from .failing import CommandError, complain
from .standard_streams import print_out

__all__ = ["check"]

_BAD_USAGE = 2


def check(args: argparse.Namespace, *checks: Callable[[argparse.Namespace], object]) -> int:
    """Print the options in `args`, or what is wrong with them; return the exit code.

    Each of `checks` raises `CommandError` if it finds anything.
    """
    configuration: Configuration = args.configuration
    problems = [
        *configuration.problems,
        *_problems_found_by((limits_from, _combinations, _files, *checks), args),
    ]
    for problem in problems:
        complain(problem)
    if problems:
        return _BAD_USAGE
    print_out((_as_json(configuration) if args.json else "\n".join(_as_toml(configuration))) + "\n")
    return 0


def _combinations(args: argparse.Namespace) -> None:
    check_combinations(args, bound_addresses(args))


def _files(args: argparse.Namespace) -> None:
    file_access_from(args, bound_addresses(args))


def _problems_found_by(
    checks: tuple[Callable[[argparse.Namespace], object], ...], args: argparse.Namespace
) -> Iterator[str]:
    for find in checks:
        try:
            find(args)
        except CommandError as error:
            yield str(error)


def _as_toml(configuration: Configuration) -> Iterator[str]:
    yield f"[{TABLE}]"
    for name, value in configuration.values.items():
        if value.shown is None:
            yield f"# {name} is not set"
        else:
            yield f"{name} = {toml_value(value.shown)}  # {value.source}"


def _as_json(configuration: Configuration) -> str:
    values = configuration.values.items()
    return json.dumps(
        {name: {"value": value.shown, "source": value.source} for name, value in values}, indent=2
    )
