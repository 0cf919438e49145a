"""Attacks at length beside an honest client, and the table of docs/attacks.md.

    python benchmarks/attacks.py list                     # what is run
    python benchmarks/attacks.py run                      # all of it, stored, and written up (ten minutes)
    python benchmarks/attacks.py run key_update resets --seconds 10
    python benchmarks/attacks.py write                    # the table from what is stored

Theory of operation
-------------------
The programs are those of tests/stress/attacks. A study is one of them at a fixed rate, against aionet with
the limits that the guide recommends and, where these know the situation, against asyncio's streams on uvloop
and a bare server in C. On each server the probe measures a quiet phase, in which the attacker is prepared
and does nothing, and one of the attack. CPU per event is what the server used during the attack, less what
it used for the probe in the quiet phase, divided by the number of events.

Attacker and probe share a core that the server does not use, where there are two: run it on a machine that
does nothing else. A study that fails leaves what was stored as it was.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the aionet of this tree
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


from stress.attacks.attacker import attacking
from stress.attacks.probe import Latencies, probing
from stress.attacks.servers import Certificate, raise_soft_limit, serving

from aionet.bench import facts

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "benchmarks" / "results" / "attacks.json"
DOCUMENT = ROOT / "docs" / "attacks.md"
BEGIN, END = "<!-- generated: attacks -->\n", "<!-- end -->"
SECONDS = 3.0
ALL_SERVERS = ("aionet", "uvloop", "bare")


@dataclass(frozen=True)
class Study:
    """One attack at one rate, and the servers that it is tried on."""

    name: str
    about: str
    attack: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rate: float | None = None
    """Events a second; None for as fast as it goes."""
    count: int | None = None
    """How many events at most; None for as many as there is time for."""
    peers: int = 200
    tls: bool = False
    fresh: bool = False
    """Whether the honest client makes a new connection for each echo."""
    handler: str = "echo"
    limits: Sequence[str] = ()
    """Options beside those that the guide recommends; ``{authority}`` is that of the certificate."""
    servers: Sequence[str] = ALL_SERVERS
    wait: float = 0.0
    """Seconds after the attack that belong to it: for what happens later."""


def _hello(kind: str, about: str, rate: float) -> Study:
    return Study(f"hello_{kind}", about, "hellos", {"kind": kind}, rate, tls=True)


def _records(kind: str, about: str, servers: Sequence[str] = ALL_SERVERS) -> Study:
    return Study(
        kind, about, "empty_records", {"kind": kind, "batches": 75}, 20_000, tls=True, servers=servers
    )


OURS = ("aionet",)

STUDIES = (
    Study("resets", "connect and reset", "strangers", {"how": "resets"}, 2000),
    Study("bytes", "connect, a byte and its echo, reset (honest work)", "strangers", {"how": "bytes"}, 1000),
    Study("plaintext", "an HTTP request to a TLS port", "strangers", {"how": "plaintext"}, 300, tls=True),
    _hello("elliptic", "a ClientHello for x25519, then reset", 200),
    _hello("finite_field", "a ClientHello for ffdhe8192 alone", 5),
    _hello("protocols", "a ClientHello with 8,000 application protocols", 50),
    _hello("fragments", "a ClientHello in records of one byte", 50),
    _hello("foreign_name", "a ClientHello with a name that is not ASCII", 200),
    _hello("ticket", "a ClientHello with a forged session ticket", 200),
    _records("key_update", "TLS records: KeyUpdate"),
    _records("key_update_requested", "TLS records: KeyUpdate that asks for one in return"),
    _records("tiny", "TLS records of one byte"),
    _records("empty", "TLS records of no bytes"),
    _records("alert", "TLS records: warning alerts"),
    _records("renegotiation", "TLS 1.2 records: a ClientHello for another handshake", ("aionet", "uvloop")),
    Study(
        "client_certificates",
        "handshakes with a certificate of 90 kB that nothing trusts, where certificates are asked for",
        "client_certificates",
        {"names": 2500},
        20,
        tls=True,
        limits=("--client-ca", "{authority}", "--client-optional"),
        servers=OURS,
    ),
    Study(
        "handshakes",
        "1,500 silent connections from 38 addresses to a TLS port; the honest client shakes hands each time",
        "strangers",
        {"how": "silent"},
        500,
        1500,
        peers=38,
        tls=True,
        fresh=True,
    ),
    Study(
        "rate",
        "connect and reset, against `--accept-rate 200`; the honest client connects each time",
        "strangers",
        {"how": "resets"},
        2000,
        fresh=True,
        limits=("--accept-rate", "200"),
        servers=OURS,
    ),
    Study(
        "table",
        "silent newcomers to a full table of 200, with `--on-full evict_idle`",
        "table_turning",
        {"slots": 190},
        200,
        limits=("--max-connections", "200", "--on-full", "evict_idle"),
        servers=OURS,
    ),
    Study(
        "expiry",
        "5,000 connections whose `--idle-timeout 2` ends at the same time",
        "crowds",
        {"crowd": 5000, "late": True},
        limits=("--idle-timeout", "2"),
        servers=OURS,
        wait=4.0,
    ),
    Study(
        "stalled",
        "1,000 clients that send and do not read, against `--max-pending-bytes 16MiB`",
        "stalled_echoes",
        {"clients": 1000},
        limits=("--max-pending-bytes", "16MiB"),
        servers=("aionet", "uvloop"),
    ),
    Study(
        "stalled_tls",
        "the same over TLS",
        "stalled_echoes",
        {"clients": 1000, "tls": True},
        tls=True,
        limits=("--max-pending-bytes", "16MiB"),
        servers=("aionet", "uvloop"),
    ),
    Study(
        "fat",
        "TLS clients that exchange 64 KiB once and rest",
        "fat_connections",
        {},
        100,
        tls=True,
        wait=2.0,
    ),
    Study(
        "drips",
        "a byte on each of 1,000 connections just before `--idle-timeout 2` ends",
        "deadline_drips",
        {"connections": 1000, "deadline": 2.0, "late": True},
        limits=("--idle-timeout", "2"),
        wait=2.0,
    ),
    Study(
        "drips_handshake",
        "the same to a TLS port, in a record that never ends, with `--handshake-timeout 2`",
        "deadline_drips",
        {"connections": 500, "deadline": 1.0, "header": True, "late": True},
        tls=True,
        limits=("--handshake-timeout", "2"),
    ),
    Study(
        "drips_line",
        "the same to a handler that reads lines, with `--read-stall-timeout 2`",
        "deadline_drips",
        {"connections": 1000, "deadline": 1.0, "late": True},
        handler="lines",
        limits=("--read-stall-timeout", "2"),
        servers=OURS,
    ),
    Study(
        "window",
        "200 requests for 1 GiB whose window stays shut, with `--write-stall-timeout 2`",
        "zero_windows",
        {"connections": 200},
        handler="source_or_echo",
        limits=("--write-stall-timeout", "2"),
        servers=OURS,
        wait=4.0,
    ),
    Study(
        "window_sips",
        "the same, and 4 KiB are read just before each time-out",
        "zero_windows",
        {"connections": 50, "deadline": 2.0, "sips": True},
        handler="source_or_echo",
        limits=("--write-stall-timeout", "2"),
        servers=OURS,
    ),
)


# Running ------------------------------------------------------------------------------------------------


def run(studies: Sequence[Study], seconds: float) -> int:
    """Run them and store what each brings; the exit status."""
    raise_soft_limit()
    failed = []
    with tempfile.TemporaryDirectory() as directory:
        certificate = Certificate.issue(Path(directory))
        for study in studies:
            for kind in study.servers:
                print(f"{study.name} on {kind}", file=sys.stderr, end=": ", flush=True)
                try:
                    measured = measure(study, kind, certificate if study.tls else None, seconds)
                except Exception as error:  # the others are measured all the same
                    failed.append(f"{study.name} on {kind} ({error})")
                    print("failed", file=sys.stderr)
                    continue
                print(_progress(measured), file=sys.stderr, flush=True)
                store(study.name, kind, measured)
    if failed:
        print("not stored, because it failed:", *failed, sep="\n  ", file=sys.stderr)
    return 1 if failed else 0


def measure(study: Study, kind: str, certificate: Certificate | None, seconds: float) -> dict[str, Any]:
    """Measure a study on one kind of server."""
    authority = "" if certificate is None else str(certificate.authority)
    options = [option.format(authority=authority) for option in study.limits]
    with (
        serving(kind, certificate=certificate, handler=study.handler, options=options) as server,
        attacking(
            study.attack,
            server.port,
            seconds=seconds,
            rate=study.rate,
            count=study.count,
            peers=study.peers,
            **study.options,
        ) as attacker,
        probing(server.port, tls=study.tls, fresh=study.fresh) as probe,
    ):
        probe.phase(1.0)  # connections are made
        began, used = time.monotonic(), server.cpu_seconds()
        quiet = probe.phase(seconds)
        share = (server.cpu_seconds() - used) / (time.monotonic() - began)
        held = server.forget_peak()
        probe.mark()
        began, used = time.monotonic(), server.cpu_seconds()
        done = attacker.attack()
        time.sleep(study.wait)
        during = probe.mark()
        cpu = server.cpu_seconds() - used - share * (time.monotonic() - began)
        return {
            "events": done.events,
            "bytes": done.bytes,
            "seconds": done.seconds,
            "connections": done.connections,
            "cpu_per_event": max(0.0, cpu) / max(1, done.events),
            "peak_bytes": max(0, server.peak_bytes() - held),
            "quiet": _stored(quiet),
            "during": _stored(during),
        }


def _stored(latencies: Latencies) -> dict[str, float]:
    return {name: round(value, 3) for name, value in vars(latencies).items()}


def _progress(measured: Mapping[str, Any]) -> str:
    quiet, during = measured["quiet"], measured["during"]
    return (
        f"{measured['events']:,} events, {measured['cpu_per_event'] * 1e6:,.1f} us each; honest p99"
        f" {quiet['p99']:.1f} ms, then {during['p99']:.1f} ms, {during['lost']} lost"
    )


def stored() -> dict[str, Any]:
    """What was measured so far."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {"studies": {}}


def store(name: str, kind: str, measured: Mapping[str, Any]) -> None:
    """Keep what was measured, in place of what was there of it."""
    record = stored()
    record["machine"] = f"{facts.python_build()}; {facts.kernel()}; {facts.cpu_model()}"
    record["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    record["studies"].setdefault(name, {})[kind] = dict(measured)
    STORED.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


# Writing up ---------------------------------------------------------------------------------------------

HEADS = (
    "attack",
    "cost to the attacker",
    "CPU of the server for an event",
    "times bare C",
    "memory, at the most",
    "honest p99 before and during",
    "on uvloop",
    "honest connections lost",
)


def table(record: Mapping[str, Any]) -> str:
    """The table of everything that is stored."""
    found = [(study, record["studies"].get(study.name, {})) for study in STUDIES]
    rows = [HEADS, ["---", *["---:"] * (len(HEADS) - 1)]]
    rows += [_row(study, servers) for study, servers in found if "aionet" in servers]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"Measured on {record['date']}. {record['machine']}.", "", *lines])


def _row(study: Study, found: Mapping[str, Any]) -> list[str]:
    ours = found["aionet"]
    bare = found.get("bare", {}).get("cpu_per_event")
    return [
        study.about,
        _cost(ours),
        f"{ours['cpu_per_event'] * 1e6:,.1f} µs",
        f"{ours['cpu_per_event'] / bare:.1f}" if bare else "-",
        f"{ours['peak_bytes'] / (1 << 20):.1f} MiB",
        _before_and_during(ours),
        _before_and_during(found["uvloop"]) if "uvloop" in found else "-",
        f"{ours['during']['lost']:.0f}",
    ]


def _cost(measured: Mapping[str, Any]) -> str:
    events = f"{measured['events'] / measured['seconds']:,.0f} events/s"
    sent = measured["bytes"] / measured["seconds"]
    if sent < 1:
        return events
    return f"{events}, {sent / 1e6:.2f} MB/s" if sent > 1e5 else f"{events}, {sent / 1e3:.1f} kB/s"


def _before_and_during(measured: Mapping[str, Any]) -> str:
    return f"{measured['quiet']['p99']:.1f} to {measured['during']['p99']:.1f} ms"


def written(text: str) -> str:
    """The document with what is stored between its markers."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise SystemExit(f"{DOCUMENT.name} has no {BEGIN.strip()} that is closed by {END}")
    return f"{before}{BEGIN}{table(stored())}\n{END}{after}"


def main() -> int:
    """Do as the command line says; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [study.name for study in STUDIES]
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("list")
    what.add_parser("write")
    running = what.add_parser("run")
    running.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(names)}")
    running.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"of each phase (default: {SECONDS:g})"
    )
    asked = parser.parse_args()
    if asked.what == "list":
        print(*(f"{study.name:22} {study.about}" for study in STUDIES), sep="\n")
        return 0
    status = 0
    if asked.what == "run":
        if unknown := set(asked.studies) - set(names):
            parser.error(f"{', '.join(sorted(unknown))}: expected {', '.join(names)}")
        status = run(
            [study for study in STUDIES if not asked.studies or study.name in asked.studies], asked.seconds
        )
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
