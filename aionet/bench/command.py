"""``aionet bench``: arguments in, exit code out.

Exit codes: 0, 1 if any error was counted or a turn failed, 2 for bad usage, 130 for Ctrl-C, after which what
was measured until then is shown and stored like a whole run. With ``--json`` standard output holds the
record and nothing else; whatever there is to say goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..announcing import say
from ..cli.arguments import target_address
from ..cli.parsing import did_you_mean
from ..running import LOOPS
from . import plots
from .arguments import number, seconds, whole_number
from .baseline import compare, comparison_text, read_record
from .children import BenchError
from .facts import usable_cpus
from .measuring import Record
from .peers import PEERS, REFERENCE, Peer, peers_named
from .plan import BenchPlan, Pinning, resolved
from .progress import ProgressDisplay
from .report import print_report
from .report_page import write_report
from .runner import run_bench
from .workloads import WORKLOADS, Workload, workloads_named

__all__ = ["add_arguments", "plan_from", "run"]

_SECONDS = 3.0
_LONE_SECONDS = 10.0  # where nothing else is measured beside
_QUICK_SECONDS = 2.0
_INTERRUPTED = 130  # as shells say that SIGINT ended a program
_NAMES = ("accept", "echo", "bulk", "idle", "connect", "tls", "fairness")
_OF_LOOP = {"aionet": "aionet", "asyncio": "aionet-asyncio", "uvloop": "aionet-uvloop"}

_EPILOG = """\
examples:
  aionet bench --quick                              echo and accept in a few seconds
  aionet bench accept --against all --rounds 3      aionet beside everything that is installed
  aionet bench echo --against asyncio-streams,uvloop-protocol --connections 64,512,4000
  aionet bench echo --rate 20000 --seconds 30       an open loop: latencies that can be trusted
  aionet bench accept --target 127.0.0.1:3000       a server that is already running
  aionet bench accept --against all --record run.json --report out
  aionet bench accept --against all --baseline run.json

workloads:
{workloads}

peers:
  {peers}
They are files of benchmarks/peers/ in a checkout of the project, apart from aionet itself;
pip install 'aionet-toolkit[bench]' brings what they need. What cannot run is skipped and named.

The figure to compare is "requests per CPU second", as a share of the bare C loop's in the
same run: on a shared machine rates and latencies move with the neighbours, and figures of
different machines say nothing of each other. Nothing leaves this machine unless --target
does. Exit code: 0, or 1 if any reply was missing or wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the parser that the command line made for ``bench``."""
    parser.description = "Measure how fast this machine accepts connections and echoes messages."
    helps = "\n".join(f"  {workload.name:<10} {workload.help}" for workload in WORKLOADS.values())
    parser.epilog = _EPILOG.format(workloads=helps, peers=_wrapped(", ".join(["all", *PEERS]), 86))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "workload",
        nargs="*",
        type=_workload,
        metavar="WORKLOAD",
        help=f"{', '.join(_NAMES)} (default: echo and accept)",
    )
    _add_whom(parser)
    _add_how(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the record instead of tables")
    output.add_argument("--record", type=Path, metavar="FILE", help="store the record (JSON)")
    output.add_argument("--report", type=Path, metavar="DIR", help="make a page and plots of it")
    output.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="compare with a stored record: what moved by more than the spread",
    )


def _workload(text: str) -> str:
    """An argparse type: the name of a workload."""
    if text not in _NAMES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected {', '.join(_NAMES[:-1])} or {_NAMES[-1]}{did_you_mean(text, _NAMES)}"
        )
    return text


def _add_whom(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("whom to measure")
    whom = group.add_mutually_exclusive_group()
    whom.add_argument(
        "--against",
        type=_peers,
        metavar="A,B,...",
        help=f"peers to measure beside aionet, or all; with them comes {REFERENCE}, the reference",
    )
    whom.add_argument(
        "--target", type=target_address, metavar="ADDRESS", help="a server that is already running"
    )
    group.add_argument(
        "--target-pid",
        type=whole_number(1, 1 << 31),
        metavar="PID",
        help="its process, to count its CPU seconds",
    )
    group.add_argument("--loop", choices=LOOPS, default="aionet", help="aionet's loop (default: %(default)s)")


def _add_how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to measure")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help=f"measure {_QUICK_SECONDS:g} seconds each")
    length.add_argument(
        "--seconds",
        "--duration",
        type=seconds,
        metavar="SECONDS",
        help=f"how long each is measured in a round (default: {_SECONDS:g}, without --against"
        f" {_LONE_SECONDS:g})",
    )
    group.add_argument(
        "--rounds", type=whole_number(1, 1000), default=1, help="how often each is measured (default: 1)"
    )
    group.add_argument(
        "--connections",
        type=_list_of(whole_number(1, 1_000_000)),
        default=(),
        metavar="N,N,...",
        help="connections at a time (default: 64; bulk 4; idle and fairness 4000)",
    )
    group.add_argument(
        "--size",
        type=_list_of(whole_number(1, 1 << 26)),
        default=(),
        metavar="BYTES,...",
        help="bytes of a message of echo, fairness and tls (default: 1024, fairness 64)",
    )
    group.add_argument(
        "--rate",
        type=number(0, 1e9),
        default=0.0,
        metavar="PER_SECOND",
        help="requests per second, due whatever the server does (default: the next follows the reply)",
    )
    group.add_argument(
        "--pin",
        type=_pinning,
        default=None,
        metavar="SERVER,LOAD",
        help="the cpus of server and load, or none (default: the first and the last)",
    )
    group.add_argument(
        "--cold-malloc", action="store_true", help="leave glibc's malloc of servers as a fresh process has it"
    )


def run(args: argparse.Namespace) -> int:
    """Measure what the arguments ask for; the exit code."""
    try:
        plan = plan_from(args)
        stored = read_record(args.baseline) if args.baseline else None
        _check_outputs(args)
    except (ValueError, OSError, BenchError) as error:
        say(f"bench: error: {error}")
        return 2
    problem = _raise_file_limit(plan)
    if problem:
        say(f"bench: error: {problem}")
        return 2
    try:
        with ProgressDisplay() as display:
            record = run_bench(plan, command=_command(), observer=display)
    except KeyboardInterrupt:
        say("bench: interrupted")
        return _INTERRUPTED
    except BenchError as error:
        say(f"bench: error: {error}")
        return 1
    if record["interrupted"]:
        say(f"bench: interrupted; turns that were over: {len(record['turns'])}")
    try:
        _hand_over(args, record, stored)
    except (OSError, BenchError) as error:
        say(f"bench: error: {error}")
        return 1
    if record["interrupted"]:
        return _INTERRUPTED
    return 1 if record["failed"] or any(turn["errors"] for turn in record["turns"]) else 0


def plan_from(args: argparse.Namespace) -> BenchPlan:
    """What the arguments ask for.

    Raises `ValueError` for what does not go together, `OSError` if the target's name cannot be resolved.
    """
    names = args.workload or [None]
    workloads = list(dict.fromkeys(workload for name in names for workload in workloads_named(name)))
    _check_fit(args, workloads)
    own = PEERS[_OF_LOOP[args.loop]]
    peers = (
        peers_named([own.name, REFERENCE, *(peer.name for peer in args.against)]) if args.against else [own]
    )
    default = _SECONDS if args.against else _LONE_SECONDS
    return BenchPlan(
        workloads=workloads,
        peers=() if args.target else peers,
        target=resolved(args.target) if args.target else None,
        target_pid=args.target_pid,
        connections=args.connections,
        sizes=args.size,
        rate=args.rate,
        seconds=_QUICK_SECONDS if args.quick else args.seconds or default,
        rounds=args.rounds,
        pinning=Pinning.apart() if args.pin is None else args.pin,
        cold_malloc=args.cold_malloc,
    )


def _check_fit(args: argparse.Namespace, workloads: Sequence[Workload]) -> None:
    asked = " ".join(args.workload or ["echo", "accept"])
    if args.size and not any(workload.sized for workload in workloads):
        sizes = ",".join(map(str, args.size))
        raise ValueError(f"--size {sizes} is for echo, fairness and tls: {asked} has its own")
    if args.rate and not all(workload.paced for workload in workloads):
        raise ValueError(f"--rate {args.rate:g} is for accept, connect, echo and fairness, not for {asked}")
    if args.target_pid and not args.target:
        raise ValueError(f"--target-pid {args.target_pid} is the process of a --target")
    if args.target:
        unfit = [w.name for w in workloads if w.tls or (w.load == "idle" and not args.target_pid)]
        if unfit:
            needs = "needs --target-pid" if "idle" in unfit else "cannot be measured of a target"
            raise ValueError(f"{', '.join(unfit)} {needs}")
    if args.loop == "uvloop" and (reason := PEERS["aionet-uvloop"].why_not(workloads[0])):
        raise ValueError(f"--loop uvloop: {reason}")


def _check_outputs(args: argparse.Namespace) -> None:
    """What would fail after minutes of measuring fails now."""
    if args.report and (reason := plots.why_not()):
        raise ValueError(f"--report {args.report}: {reason}")
    if args.record and not args.record.parent.is_dir():
        raise ValueError(f"--record {args.record}: there is no directory {args.record.parent}")


def _hand_over(args: argparse.Namespace, record: Record, stored: dict[str, Any] | None) -> None:
    said = sys.stderr if args.json else sys.stdout
    if args.json:
        print(json.dumps(record, indent=1))
    else:
        print_report(record)
    if args.record:
        args.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if stored is not None:
        print(f"beside {args.baseline}:\n{comparison_text(compare(record, stored))}", file=said)
    if args.report:
        print(f"report: {write_report(record, args.report)}", file=said)


def _command() -> list[str]:
    """What repeats this run, without the places of its files."""
    arguments, skip = [], False
    for argument in sys.argv[1:]:
        if skip or argument.partition("=")[0] in ("--record", "--report", "--baseline", "--json"):
            skip = not skip and "=" not in argument and argument != "--json"
            continue
        arguments.append(argument)
    return ["aionet", *(["bench"] if arguments[:1] != ["bench"] else []), *arguments]


# -- argparse types -----------------------------------------------------------------------------------------


def _list_of(convert: Callable[[str], int]) -> Callable[[str], tuple[int, ...]]:
    def convert_all(text: str) -> tuple[int, ...]:
        return tuple(dict.fromkeys(convert(part) for part in text.split(",")))

    return convert_all


def _peers(text: str) -> list[Peer]:
    try:
        return peers_named(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pinning(text: str) -> Pinning:
    if text == "none":
        return Pinning()
    server, comma, load = text.partition(",")
    cpus = usable_cpus()
    if not comma or not server.isdecimal() or not load.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither two cpus, as in 0,1, nor none")
    for cpu in (int(server), int(load)):
        if cpu not in cpus:
            raise argparse.ArgumentTypeError(
                f"{text!r}: this process may not run on cpu {cpu}, but on {cpus}"
            )
    return Pinning(int(server), int(load))


def _wrapped(text: str, width: int) -> str:
    return "\n  ".join(textwrap.wrap(text, width))


# -- limits -------------------------------------------------------------------------------------------------


def _raise_file_limit(plan: BenchPlan) -> str | None:
    """Raise the soft limit of open files, which the processes inherit; what is wrong if that cannot be."""
    try:
        import resource
    except ImportError:  # no such limit on this system
        return None
    needed = plan.open_files
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    if hard != resource.RLIM_INFINITY and hard < needed:
        most = max(1, hard - (needed - plan.most_connections))
        return (
            f"--connections needs {needed:,} open files and this system allows {hard:,} (see: ulimit -Hn);"
            f" at most --connections {most}"
        )
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError) as error:
        return f"--connections needs {needed:,} open files, and the limit could not be raised: {error}"
    return None
