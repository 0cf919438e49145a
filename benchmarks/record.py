"""Our own record: what runs it, and what is written of it.

    python benchmarks/record.py commands                  # what is run, as one would type it
    python benchmarks/record.py run                       # all of it, stored, and written up (half an hour)
    python benchmarks/record.py run accept idle --rounds 10
    python benchmarks/record.py write                     # tables and pictures anew from what is stored
    python benchmarks/record.py report DIRECTORY          # one page of everything that is stored

Each run is one `aionet bench` command, and one file of ``results/`` that holds its JSON without the
histograms. Between the markers of benchmarks/README.md and README.md stands what `tables` makes of these
files; nothing there is typed, and a test compares. The reference interpreter is Debian's ``python3``, which
is profile-guided: run it with that, on a machine that does nothing else, and what is for other Pythons with
these. `run` with names repeats these runs alone; a run that fails leaves what was stored as it was.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the aionet of this tree

import instructions
import tables

from aionet.bench import plots
from aionet.bench.arguments import seconds, whole_number
from aionet.bench.baseline import read_record
from aionet.bench.cases import Case
from aionet.bench.children import BenchError
from aionet.bench.report_page import write_report
from aionet.bench.summary import summarise

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
REFERENCE = "3.11"  # the version of Python
SECONDS, ROUNDS = 1.0, 3
FILES_BESIDE = 1000  # descriptors left to everything that is no connection


@dataclass(frozen=True)
class Run:
    """One command, one file of results, one section."""

    name: str
    title: str
    about: str
    arguments: str
    python: str = ""
    """The version of Python that it is for; empty for the reference interpreter."""

    @property
    def stored(self) -> Path:
        """Where its record is."""
        return RESULTS / f"{self.name}.json"

    def is_for(self, python: str) -> bool:
        """Whether this version of Python is to measure it."""
        return (self.python or REFERENCE) == python

    def command(self, length: float, rounds: int) -> list[str]:
        """What to type after ``python -m``."""
        arguments = self.arguments.format(most=most_connections()).split()
        return ["aionet", "bench", *arguments, "--rounds", str(rounds), "--seconds", f"{length:g}"]


RUNS = (
    Run(
        "accept",
        "Accept",
        "Connect, a byte each way, reset: the cost of a connection, with few and with many at a time. 4,000"
        " is as many as the queue of a listening socket holds (`somaxconn` is 4,096); more would measure how"
        " long the kernel waits until it tries again.",
        "accept --against all --connections 64,512,4000",
    ),
    Run(
        "connect",
        "Connect only",
        "Connect and end, without a byte: what accepting and closing alone cost.",
        "connect --against all",
    ),
    Run(
        "echo",
        "Echo",
        "A message of 1 KiB on each of 64 connections: the everyday case.",
        "echo --against all",
    ),
    Run(
        "echo-one",
        "Echo, one connection",
        "64 bytes on one connection: the cost of a wait.",
        "echo --against all --connections 1 --size 64",
    ),
    Run(
        "echo-large",
        "Echo, large messages",
        "64 KiB on 4 connections: the cost of a byte.",
        "echo --against all --connections 4 --size 65536",
    ),
    Run(
        "echo-read256k",
        "Echo, a large `max_bytes`",
        "The everyday case, and idle connections, again with reads of up to 256 KiB, which is what asyncio's"
        " transports ask for, on the stock loop; with a settled malloc, and as a fresh process has it.",
        "echo idle --against c,aionet-asyncio,aionet-portable,asyncio-streams,"
        "aionet-256k,aionet-256k-cold,aionet-portable-256k,aionet-portable-256k-cold",
    ),
    Run(
        "echo-many",
        "Echo, many connections",
        "64 bytes on few and on many connections: the cost of many, and whether all of them are served.",
        "echo --against all --size 64 --connections 64,512,4000,{most}",
    ),
    Run(
        "latency",
        "Latency at a given rate",
        "An open loop: 10,000 requests a second are due, whatever the server does, and a latency counts from"
        " when its request was due. So a server that stalls cannot hide it by being asked less (coordinated"
        " omission).",
        "echo --against all --rate 10000",
    ),
    Run(
        "bulk",
        "Bulk",
        "A stream that the server sends as fast as the client takes it, on 4 connections.",
        "bulk --against all",
    ),
    Run(
        "idle",
        "Idle connections",
        "Private bytes of the server's process for a connection that does nothing after its first byte. The"
        " kernel's own memory for a socket is not in them.",
        "idle --against all --connections 4000",
    ),
    Run(
        "tls",
        "TLS 1.3",
        "Echo and accept as above, encrypted; the load is OpenSSL's own.",
        "tls --against all",
    ),
    Run(
        "limits",
        "What limits, counters and close reasons cost",
        "A bare accept loop with a task for each connection (`aionet-accept-loop`), the same as a spawner,"
        " and a spawner with all deadlines, caps on connections and pending bytes, counted traffic and a"
        " reason for every end (`aionet-limits`), all on the stock loop.",
        "accept echo --loop asyncio --against aionet-accept-loop,aionet-limits",
    ),
    *(
        Run(
            f"python-{python}{suffix}",
            f"Python {python}{', one connection' if suffix else ''}",
            f"The main workloads on Debian's build of Python {python}.",
            f"{arguments} --against c,aionet,aionet-asyncio,uvloop-protocol,asyncio-streams",
            python,
        )
        for python in (REFERENCE, "3.14", "3.15")
        for suffix, arguments in (("", "echo accept tls"), ("-one", "echo --connections 1 --size 64"))
    ),
)

PICTURES = {
    "rate-accept": ("accept",),
    "rate-echo": ("echo", "echo-one", "echo-large"),
    "scaling-accept-1": ("accept",),
    "scaling-echo-64": ("echo-many",),
    "latency-echo": ("latency",),
    "memory": ("idle",),
}
"""The pictures of benchmarks/README.md, and the runs that each is drawn from."""

SHOWN = {
    "rate-accept": "connections per CPU second as a share of C",
    "rate-echo": "messages per CPU second as a share of C",
    "scaling-accept-1": "CPU time per connection against connections at a time",
    "scaling-echo-64": "CPU time per message against connections",
    "latency-echo": "latency by percentile, with requests due at a given rate",
    "memory": "private bytes of an idle connection",
}
"""What each of them shows, for who cannot see it."""

COLUMNS = {
    "echo, 64 x 1 KiB": ("echo", Case("echo", 64, 1024)),
    "echo, 1 x 64 B": ("echo-one", Case("echo", 1, 64)),
    "accept, a byte each way, reset": ("accept", Case("accept", 64, 1)),
    "idle connection": ("idle", Case("idle", 4000, 1)),
}
"""The columns of README.md's table."""

NAMES = {
    "aionet": "**aionet**, its own loop (`await`)",
    "aionet-asyncio": "**aionet**, stock asyncio loop (`await`)",
    "aionet-uvloop": "**aionet** on uvloop (`await`)",
    "aiofastnet": "aiofastnet's protocols (callbacks)",
    "uvloop-protocol": "uvloop's protocols (callbacks)",
    "go": "Go (goroutines)",
    "aionet-portable": "aionet, portable engine (`await`)",
    "uvloop-streams": "asyncio streams on uvloop (`await`)",
    "asyncio-streams": "asyncio streams (`await`)",
    "trio": "trio (`await`)",
    "anyio": "anyio (`await`)",
}
"""Its rows."""


def most_connections() -> int:
    """As many connections as the limit of open files allows, in whole thousands."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        hard = 100_000
    return max(1000, (hard - FILES_BESIDE) // 1000 * 1000)


# -- running ------------------------------------------------------------------------------------------------


def run(runs: Sequence[Run], length: float, rounds: int) -> int:
    """Run the commands and store what each brings; the exit status."""
    failed = []
    for each in runs:
        command = each.command(length, rounds)
        print(f"== python -m {shlex.join(command)}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as directory:
            found = Path(directory, "record.json")
            done = subprocess.run(
                [sys.executable, "-m", *command, "--record", str(found)],
                cwd=ROOT,
                stdout=sys.stderr,
                check=False,
            )
            if not found.exists():
                failed.append(f"{each.name} (status {done.returncode})")
                continue
            record = read_record(found)
            if record.get("interrupted"):
                failed.append(f"{each.name} (interrupted)")
                continue
            store(record, each.stored)
    if failed:
        print(f"not stored, because it failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def store(record: dict[str, Any], path: Path) -> None:
    """Store a record without its histograms, and without what processes wrote, which may name directories."""
    kept = {key: value for key, value in record.items() if key != "messages"}
    kept["skipped"] = {peer: _first_line(reason) for peer, reason in record["skipped"].items()}
    kept["failed"] = [turn | {"reason": _first_line(turn["reason"])} for turn in record.get("failed", ())]
    kept["turns"] = [
        {key: _rounded(value) for key, value in turn.items() if key != "histogram"}
        for turn in record["turns"]
    ]
    lines = [json.dumps(turn) for turn in kept.pop("turns")]
    head = json.dumps(kept, indent=1)[: -len("\n}")]
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{head},\n "turns": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n", encoding="utf-8")


def _first_line(text: str) -> str:
    """What follows it is what a process wrote."""
    return text.partition("\n")[0]


def _rounded(value: Any) -> Any:
    """Six significant digits are more than was measured."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value


def stored_records() -> dict[str, dict[str, Any]]:
    """By the name of the run; those that are not stored are left out."""
    return {each.name: read_record(each.stored) for each in RUNS if each.stored.exists()}


# -- writing up ---------------------------------------------------------------------------------------------


def drawable(records: Mapping[str, Any]) -> list[str]:
    """The pictures that the stored records are enough for."""
    return [name for name, runs in PICTURES.items() if set(runs) <= records.keys()]


def shown(names: Sequence[str]) -> str:
    """The pictures, as a document has them."""
    return "\n".join(f"![{SHOWN[name]}](results/{name}.svg)" for name in names)


def texts() -> dict[Path, dict[str, str]]:
    """What stands between the markers: by document and by the marker's name."""
    records = stored_records()
    counts = json.loads(instructions.STORED.read_text(encoding="utf-8"))
    measured = [each for each in RUNS if each.name in records]
    sections = [
        tables.run_section(each.title, each.about, typed(records[each.name]), records[each.name])
        for each in measured
    ]
    columns = {name: (case, records[run]) for name, (run, case) in COLUMNS.items() if run in records}
    return {
        ROOT / "benchmarks" / "README.md": {
            "conditions": tables.conditions(records.values()),
            "pictures": shown(drawable(records)),
            "scaling": "\n\n".join(
                tables.scaling_table(records[name]) for name in ("accept", "echo-many") if name in records
            ),
            "results": "\n\n".join(sections),
            "instructions": tables.instructions_table(counts, instructions.UNITS),
        },
        ROOT / "README.md": {
            "measured": "\n\n".join(
                [
                    tables.conditions(record for _, record in columns.values()),
                    tables.summary_table(columns, NAMES),
                ]
            )
        },
    }


def typed(record: Mapping[str, Any]) -> str:
    """The command that repeats a record."""
    return f"python -m {shlex.join(record['command'])}"


def filled_in(document: Path, parts: Mapping[str, str]) -> str:
    """The document with these texts between its markers. Raises `ValueError` if a marker is missing."""
    text = document.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{document.name} has no {begin.strip()} that is closed by {end}")
        text = f"{before}{begin}{part}\n{end}{after}"
    return text


def write() -> int:
    """Fill in the documents and draw their pictures; the exit status."""
    for document, parts in texts().items():
        document.write_text(filled_in(document, parts), encoding="utf-8")
    records = stored_records()
    for name in drawable(records):
        rows = [row for each in PICTURES[name] for row in summarise(records[each])]
        picture = next(picture for picture in plots.draw(rows) if picture.name == name)
        plots.save(picture, RESULTS, endings=("svg",))
    return 0


def everything() -> dict[str, Any]:
    """All records as one, for one page. A case that two runs have in common is that of the first."""
    records = list(stored_records().values())
    merged: dict[str, Any] = {**records[0], "command": ["python", "benchmarks/record.py", "run"], "turns": []}
    merged |= {"skipped": {}, "versions": {}}
    taken: set[tuple[Any, ...]] = set()
    for record in records:
        own = {(t["workload"], t["connections"], t["size"], t.get("open_loop_rate")) for t in record["turns"]}
        merged["turns"] += [
            turn
            for turn in record["turns"]
            if (turn["workload"], turn["connections"], turn["size"], turn.get("open_loop_rate")) not in taken
        ]
        taken |= own
        merged["skipped"] |= record["skipped"]
        merged["versions"] |= record["versions"]
    return merged


# -- the command line ---------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    for name in ("commands", "run"):
        chosen = what.add_parser(name)
        chosen.add_argument(
            "runs", nargs="*", metavar="RUN", help=f"of {', '.join(each.name for each in RUNS)}"
        )
        chosen.add_argument("--rounds", type=whole_number(1, 1000), default=ROUNDS)
        chosen.add_argument("--seconds", type=seconds, default=SECONDS)
    what.add_parser("write")
    what.add_parser("report").add_argument("directory", type=Path)
    options = parser.parse_args()
    try:
        return _do(options, parser.error)
    except (BenchError, ValueError, tables.MissingNoteError) as error:
        print(f"record: error: {error}", file=sys.stderr)
        return 1


def _do(options: argparse.Namespace, refuse: Callable[[str], Any]) -> int:
    if options.what == "write":
        return write()
    if options.what == "report":
        print(write_report(everything(), options.directory))
        return 0
    known = {each.name: each for each in RUNS}
    if unknown := sorted(set(options.runs) - known.keys()):
        refuse(f"{', '.join(unknown)}: not among {', '.join(known)}")
    python = "{}.{}".format(*sys.version_info)
    runs = [each for each in RUNS if (each.name in options.runs if options.runs else each.is_for(python))]
    if foreign := [each.name for each in runs if not each.is_for(python)]:
        refuse(f"{', '.join(foreign)}: not for Python {python}, which runs this")
    if options.what == "commands":
        for each in runs:
            print(f"python -m {shlex.join(each.command(options.seconds, options.rounds))}")
        return 0
    return run(runs, options.seconds, options.rounds) or write()


if __name__ == "__main__":
    sys.exit(main())
