"""Compare servers: ``python benchmarks/compare.py --help``. The method is in README.md beside this file."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the aionet of this tree

from measuring import (
    REFERENCE,
    TLS_REFERENCE,
    WARM_UP,
    WORKLOADS,
    TurnError,
    compile_tools,
    take_turn,
    two_cpus,
)
from results import summarise, table
from servers import SERVERS

from aionet.bench.arguments import seconds, whole_number
from aionet.bench.facts import cpu_model, kernel, python_build


def main() -> int:
    options = _parse()
    names = _runnable(options.servers)
    compile_tools(WORKLOADS[name] for name in options.workloads)
    turns: list[dict[str, Any]] = []
    order = list(_turns(options.workloads, names, options.rounds))
    for number, (round_number, workload, server) in enumerate(order, 1):
        progress = f"{number}/{len(order)}  round {round_number}  {workload:14} {server:24}"
        print(progress, end=" ", file=sys.stderr, flush=True)
        try:
            figures = take_turn(server, WORKLOADS[workload], options.seconds, cold_malloc=options.cold_malloc)
        except TurnError as error:
            print(f"failed: {error}", file=sys.stderr)
            continue
        turns.append({"round": round_number, "workload": workload, "server": server, **figures})
        print(f"{figures['requests_per_cpu_second']:>10,.0f} requests/CPU s", file=sys.stderr)
    stored = _to_store(options, names, turns)
    if options.json:
        options.json.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        from plots import plot

        plot(stored, options.plot)
    print(table(stored["summary"]))
    return 0 if len(turns) == len(order) and not any(turn["errors"] for turn in turns) else 1


def _turns(workloads: Sequence[str], names: Sequence[str], rounds: int) -> Iterator[tuple[int, str, str]]:
    """A B C A B C …, one workload after the other, so that the turns of a round lie close together."""
    for workload in workloads:
        fitting = [name for name in names if WORKLOADS[workload].fits(name)]
        for round_number in range(1, rounds + 1):
            for name in dict.fromkeys([WORKLOADS[workload].reference, *fitting]):
                yield round_number, workload, name


def _runnable(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        reason = SERVERS[name].why_not() if name in SERVERS else None
        if reason:
            print(f"skipped: {name}: {reason}", file=sys.stderr)
        elif name not in found:
            found.append(name)
    return found


def _to_store(
    options: argparse.Namespace, names: Sequence[str], turns: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Everything that a table or a plot needs; of the machine only kernel, processor and interpreter."""
    versions: dict[str, str] = {}
    for name in names:
        if name in SERVERS:
            versions |= SERVERS[name].versions()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": _command(options, names),
        "machine": {"kernel": kernel(), "cpu": cpu_model(), "python": python_build()},
        "versions": versions,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "warm_up": WARM_UP,
        "closed_loop": True,
        "malloc": "cold" if options.cold_malloc else "settled",
        "kinds": {name: SERVERS[name].kind for name in names if name in SERVERS},
        "summary": summarise(turns),
        "turns": list(turns),
    }


def _command(options: argparse.Namespace, names: Sequence[str]) -> str:
    """What repeats this run, without the places of its files."""
    arguments = ["--workloads", ",".join(options.workloads), "--servers", ",".join(names)]
    arguments += ["--rounds", str(options.rounds), "--seconds", f"{options.seconds:g}"]
    arguments += ["--cold-malloc"] if options.cold_malloc else []
    return shlex.join(["python", "benchmarks/compare.py", *arguments])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Requests per server CPU second, beside a bare C epoll loop in the same run.",
        epilog="The server is pinned to one core, the generator to another; servers take turns.",
    )
    known = [REFERENCE, TLS_REFERENCE, *SERVERS]
    parser.add_argument("--workloads", type=_names_from(WORKLOADS), default=list(WORKLOADS), metavar="A,B")
    parser.add_argument("--servers", type=_names_from(known), default=known, metavar="A,B")
    parser.add_argument("--rounds", type=whole_number(1, 1000), default=3)
    parser.add_argument("--seconds", type=seconds, default=3.0, help="measured seconds of each turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to store the results")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="where to draw them (.svg or .png)")
    parser.add_argument(
        "--cold-malloc",
        action="store_true",
        help="leave glibc's malloc as a fresh process has it (see README)",
    )
    options = parser.parse_args()
    two_cpus()
    return options


def _names_from(known: Sequence[str] | dict[str, Any]) -> Any:
    def convert(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return text.split(",")

    return convert


if __name__ == "__main__":
    sys.exit(main())
