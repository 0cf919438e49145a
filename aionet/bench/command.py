"""``aionet bench``: arguments in, exit code out.

Exit codes: 0, 1 if any error was counted or a process failed, 2 for bad usage, 130 for Ctrl-C. With
``--json`` standard output holds one JSON list and nothing else; whatever there is to say goes to standard
error.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys

from ..running import LOOPS, LoopName
from .arguments import seconds, whole_number
from .children import BenchError
from .report import ProgressDisplay, print_report
from .runner import BenchPlan, BenchResult, Workload, run_bench

__all__ = ["add_arguments", "run"]

_DEFAULT_SECONDS = 10.0
_QUICK_SECONDS = 3.0
_SPARE_FILES = 64  # what an interpreter has open besides its connections

_EPILOG = """\
examples:
  aionet bench --quick                        both workloads in a few seconds
  aionet bench echo --connections 1 --size 64 one ping-pong
  aionet bench accept --loop uvloop           new connections per second on uvloop
  aionet bench echo --json > result.json      for programs

The figure to compare is "requests per CPU second": on a shared machine the rate and
the latencies move with the neighbours, and figures of different machines say nothing
of each other. Exit code: 0, or 1 if any reply was missing or wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the parser that the command line made for ``bench``."""
    parser.description = "Measure how fast this machine echoes messages and accepts connections."
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "workload",
        nargs="?",
        choices=["accept", "echo"],
        help="echo: messages on connections that stay; accept: a connection for each byte (default: both)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help=f"measure {_QUICK_SECONDS:g} seconds each")
    length.add_argument(
        "--duration",
        type=seconds,
        metavar="SECONDS",
        help=f"how long to measure each workload (default: {_DEFAULT_SECONDS:g})",
    )
    parser.add_argument(
        "--connections",
        type=whole_number(1, 1_000_000),
        default=64,
        metavar="N",
        help="connections at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=whole_number(1, 1 << 26),
        metavar="BYTES",
        help="bytes of an echo message (default: 1024)",
    )
    parser.add_argument(
        "--loop",
        choices=LOOPS,
        default="aionet",
        help="the server's loop (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure what the arguments ask for; the exit code."""
    problem = _usage_problem(args) or _raise_file_limit(args.connections + _SPARE_FILES)
    if problem:
        print(f"bench: error: {problem}", file=sys.stderr)
        return 2
    results: list[BenchResult] = []
    try:
        with ProgressDisplay() as display:
            results.extend(run_bench(plan, on_progress=display.show) for plan in _plans(args))
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    except BenchError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps([result.as_json() for result in results], indent=2))
    else:
        print_report(results)
    return 1 if any(result.errors for result in results) else 0


def _plans(args: argparse.Namespace) -> list[BenchPlan]:
    workloads: list[Workload] = [args.workload] if args.workload else ["echo", "accept"]
    duration = _QUICK_SECONDS if args.quick else args.duration or _DEFAULT_SECONDS
    loop: LoopName = args.loop
    sizes = {"accept": 1, "echo": args.size or 1024}
    return [
        BenchPlan(
            workload=workload,
            connections=args.connections,
            size=sizes[workload],
            seconds=duration,
            loop=loop,
        )
        for workload in workloads
    ]


def _usage_problem(args: argparse.Namespace) -> str | None:
    if args.workload == "accept" and args.size is not None:
        return f"--size {args.size} is for echo: accept sends one byte each way"
    if args.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        return "--loop uvloop: uvloop is not installed; try: pip install 'aionet-toolkit[uvloop]'"
    return None


def _raise_file_limit(needed: int) -> str | None:
    """Raise the soft limit of open files, which the processes inherit; what is wrong if that cannot be."""
    try:
        import resource
    except ImportError:  # no such limit on this system
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    if hard != resource.RLIM_INFINITY and hard < needed:
        return (
            f"--connections needs {needed:,} open files and this system allows {hard:,} (see: ulimit -Hn);"
            f" at most --connections {max(1, hard - _SPARE_FILES)}"
        )
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError) as error:
        return f"--connections needs {needed:,} open files, and the limit could not be raised: {error}"
    return None
