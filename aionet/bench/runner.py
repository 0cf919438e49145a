"""A run: turn after turn, a server process and a load process each, and the record of all of it.

Theory of operation
-------------------
The two processes of a turn are on different cpus where there are two; with one, the load sleeps instead of
spinning and the record says ``spinning: false``. The server's cpu time is read at both ends of the measured
time by the load process, which alone knows when those are; it is None where the system does not tell it.

`run_bench()` blocks. What cannot run here is in the record with the reason; a turn that failed is, too, and
the others go on. On every way out, Ctrl-C included, both processes have been ended and waited for. A run that
is interrupted leaves a record of the turns that were over.

The figure to trust is ``requests_per_cpu_second``: it hardly moves when a neighbour steals the machine, and
it is to be compared as a ratio between turns of the same round (`summary`).
"""

from __future__ import annotations

import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ..version import __version__
from .children import BenchError, Child, module_command
from .facts import build_flags, cpu_name, kernel, listen_losses, memory_bytes, usable_cpus
from .histogram import LatencyHistogram
from .peers import CHECKOUT, compiled_program
from .plan import BenchPlan, Turn

__all__ = ["SCHEMA", "BenchProgress", "NoObserver", "Observer", "Record", "run_bench", "running_server"]

Record = dict[str, Any]
"""What `run_bench` returns, and what is stored as JSON: see `benchmarks/README.md`."""

SCHEMA = 1
"""The form of a record."""

_START_UP = 15.0  # seconds that a process may take to say its first word
_SLACK = 40.0  # seconds beyond warm-up and measuring, opening all connections included
_OPENED_PER_SECOND = 500  # as the load process has it
_LOOK_EVERY = 0.1
_ENDED_WELL = (0, -signal.SIGTERM)  # asked, or told where that takes too long: one with thousands of threads
_OVERHEAD = 0.6  # seconds that starting and ending take, until it is known better
_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "p99.99": 99.99}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchProgress:
    """Where a run is, about four times a second."""

    turn: Turn
    number: int
    """Of the turn, from 1 on."""
    turns: int
    phase: str
    """``starting``, ``opening``, ``warm-up`` or ``measuring``."""
    elapsed: float
    seconds: float
    """How long this phase takes."""
    requests: int
    errors: int
    remaining: float
    """Seconds until the whole run is over, as far as can be told."""


class Observer(Protocol):
    """Who watches a run."""

    def on_progress(self, progress: BenchProgress) -> None: ...
    def on_turn(self, turn: Mapping[str, Any]) -> None:
        """A turn is over; this is what the record holds of it."""

    def on_failure(self, turn: Turn, error: BenchError) -> None: ...


class NoObserver:
    """Nobody watches."""

    def on_progress(self, progress: BenchProgress) -> None: ...
    def on_turn(self, turn: Mapping[str, Any]) -> None: ...
    def on_failure(self, turn: Turn, error: BenchError) -> None: ...


def run_bench(plan: BenchPlan, *, command: Sequence[str] = (), observer: Observer | None = None) -> Record:
    """Measure, and return the record.

    Args:
        command: what repeats this run, to be stored.

    Raises `BenchError` if no turn came to an end, with what the last process wrote to its standard error, and
    `KeyboardInterrupt` if it was interrupted before one had.
    """
    return _Run(plan, observer or NoObserver()).run(command)


class _Run:
    """The turns of a plan, one after the other."""

    def __init__(self, plan: BenchPlan, observer: Observer) -> None:
        self._plan = plan
        self._observer = observer
        self._reasons = dict(plan.reasons())
        self._certificate: tuple[Path, ...] = ()
        self._turns: list[Turn] = []
        self._done = 0
        self._overheads: list[float] = []
        self._results: list[Record] = []
        self._failures: list[Record] = []
        self._messages: dict[str, str] = {}

    def run(self, command: Sequence[str]) -> Record:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        error = BenchError("nothing of what was asked for can run here")
        interrupted = False
        with self._prepared():
            self._turns = [turn for turn in self._plan.turns() if self._reason(turn) is None]
            try:
                for turn in self._turns:
                    error = self._attempt(turn) or error
            except KeyboardInterrupt:
                if not self._results:
                    raise
                interrupted = True
        results, failures = self._results, self._failures
        skipped = self._skipped()
        if not results:
            raise error if failures else BenchError("; ".join([str(error), *map(": ".join, skipped.items())]))
        return {
            "schema": SCHEMA,
            "command": list(command),
            "started": started,
            "machine": {
                "cpu": cpu_name(),
                "cpus": len(usable_cpus()),
                "kernel": kernel(),
                "memory": memory_bytes(),
            },
            "python": _python(),
            "versions": self._versions(),
            "kinds": {turn.name: turn.peer.kind for turn in self._turns if turn.peer},
            "rounds": self._plan.rounds,
            "seconds": self._plan.seconds,
            "pinned": self._plan.pinning.server is not None,
            "spinning": self._plan.spinning,
            "malloc": "cold" if self._plan.cold_malloc else "settled",
            "interrupted": interrupted,
            "skipped": skipped,
            "failed": failures,
            "messages": self._messages,
            "turns": results,
        }

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Compile what must be, and make a certificate if there is TLS; what that fails for is skipped."""
        with tempfile.TemporaryDirectory(prefix="aionet-bench-") as directory:
            for workload in self._plan.workloads:
                peers = [
                    peer
                    for peer in (() if self._plan.target else self._plan.peers)
                    if (workload.name, peer.name) not in self._reasons
                ]
                try:
                    if workload.tls and peers:
                        compiled_program(CHECKOUT / "tls_load_generator.c")
                        self._certificate = self._certificate or _make_certificate(Path(directory))
                except BenchError as error:
                    self._reasons |= {(workload.name, peer.name): str(error) for peer in peers}
                    continue
                for peer in peers:
                    try:
                        peer.command(workload)
                    except BenchError as error:
                        self._reasons[workload.name, peer.name] = str(error)
            yield

    def _reason(self, turn: Turn) -> str | None:
        return self._reasons.get((turn.workload.name, turn.name))

    def _skipped(self) -> dict[str, str]:
        """By peer; a reason that is not one for all workloads names those that it is for."""
        ran = {turn.name for turn in self._turns}
        found: dict[str, str] = {}
        for (workload, peer), reason in self._reasons.items():
            said = f"{workload}: {reason}" if peer in ran else reason
            if said not in found.get(peer, ""):
                found[peer] = f"{found[peer]}; {said}" if peer in found else said
        return found

    def _versions(self) -> dict[str, str]:
        versions = {"aionet": __version__}
        for turn in self._turns:
            if turn.peer:
                versions |= turn.peer.versions()
        return versions

    # -- one turn -------------------------------------------------------------------------------------------

    def _attempt(self, turn: Turn) -> BenchError | None:
        """Note what comes of a turn; return why it failed, if it did."""
        begun = time.monotonic()
        error = None
        try:
            result, said = self._take(turn)
        except BenchError as failure:
            error = failure
            self._failures.append(_place(turn) | {"reason": str(failure)})
            self._observer.on_failure(turn, failure)
        else:
            self._results.append(result)
            if said:
                self._messages[turn.name] = said.rpartition("\n")[2]
            self._observer.on_turn(result)
        self._overheads.append(time.monotonic() - begun - turn.expected_seconds)
        self._done += 1
        return error

    def _take(self, turn: Turn) -> tuple[Record, str]:
        """Server and load, and what came of them; also what the server wrote to its standard error."""
        self._tell(turn, "starting", 0.0, 0.0, 0, 0)
        losses = listen_losses()
        with ExitStack() as children:
            server: Child | None = None
            ready: Mapping[str, Any] = {}
            if turn.peer:
                server, ready = children.enter_context(
                    running_server(turn, self._plan, certificate=self._certificate)
                )
            load = children.enter_context(
                Child("load", self._load_command(turn, server, ready), cpu=self._plan.pinning.load)
            )
            record = self._follow(turn, server, load)
            load.end()
            if server is not None and server.end() not in _ENDED_WELL:
                raise server.failure()
            said = "" if server is None else server.messages()
        losses_after = listen_losses()
        if losses and losses_after:
            for place, name in enumerate(("listen_overflows", "listen_drops")):
                record.setdefault(name, losses_after[place] - losses[place])
        return _turn_record(turn, ready, record), said

    def _load_command(self, turn: Turn, server: Child | None, ready: Mapping[str, Any]) -> list[str]:
        pid = self._plan.target_pid if server is None else server.pid
        if turn.workload.tls:
            numbers = (ready["port"], turn.connections, turn.size, turn.seconds, turn.warm_up, pid)
            program = compiled_program(CHECKOUT / "tls_load_generator.c")
            return [str(program), turn.workload.load, *map(str, numbers)]
        target = self._plan.target
        if target is None:
            where = ["--port", str(ready["port"])]
        elif target.port:
            where = ["--host", target.host, "--port", str(target.port)]
        else:
            where = ["--path", target.host]
        return module_command(
            "aionet.bench.load_process",
            *("--workload", turn.workload.load, *where),
            *("--connections", str(turn.connections), "--size", str(turn.size)),
            *("--seconds", repr(turn.seconds), "--warm-up", repr(turn.warm_up)),
            *(["--rate", repr(turn.rate)] if turn.rate else []),
            *([] if pid is None else ["--server-pid", str(pid)]),
            *([] if self._plan.spinning else ["--wait"]),
        )

    def _follow(self, turn: Turn, server: Child | None, load: Child) -> Record:
        """Read what the load process says until its result; both processes are watched meanwhile."""
        begun = time.monotonic()
        slack = _SLACK + turn.connections / _OPENED_PER_SECOND
        deadline = begun + turn.expected_seconds + slack
        while (now := time.monotonic()) < deadline:
            record = load.next_record(_LOOK_EVERY)
            if record is not None and record["event"] == "result":
                return dict(record)
            if server is not None and server.ended():
                raise server.failure()
            if record is not None:
                told: dict[str, Any] = {name: value for name, value in record.items() if name != "event"}
                self._tell(turn, **told)
            elif turn.workload.tls:  # its generator says nothing before the end
                self._tell(turn, "measuring", now - begun, turn.expected_seconds, 0, 0)
        raise BenchError(f"the load process took more than {slack:g} seconds too long")

    def _tell(
        self, turn: Turn, phase: str, elapsed: float, seconds: float, requests: int, errors: int
    ) -> None:
        overhead = sum(self._overheads) / len(self._overheads) if self._overheads else _OVERHEAD
        to_come = sum(later.expected_seconds + overhead for later in self._turns[self._done :])
        spent = {"starting": 0.0, "opening": 0.0, "warm-up": elapsed}.get(phase, turn.warm_up + elapsed)
        self._observer.on_progress(
            BenchProgress(
                turn=turn,
                number=self._done + 1,
                turns=len(self._turns),
                phase=phase,
                elapsed=elapsed,
                seconds=seconds,
                requests=requests,
                errors=errors,
                remaining=max(0.0, to_come - spent),
            )
        )


@contextmanager
def running_server(
    turn: Turn,
    plan: BenchPlan,
    *,
    certificate: Sequence[Path] = (),
    prefix: Sequence[str] = (),
    start_up: float = _START_UP,
) -> Iterator[tuple[Child, Mapping[str, Any]]]:
    """Start the server of a turn and end it in the end; with it comes what it said when it was ready.

    `prefix` is a command to run it under. Raises `BenchError` if it did not start.
    """
    assert turn.peer is not None
    environment = dict(turn.peer.environment)
    if plan.cold_malloc:
        environment["AIONET_BENCH_COLD_MALLOC"] = "1"
    command = [*prefix, *turn.peer.command(turn.workload, certificate if turn.workload.tls else ())]
    with Child("server", command, environment=environment, cpu=plan.pinning.server) as server:
        ready = server.next_record(start_up)
        if ready is None:
            raise BenchError(f"the server process did not start within {start_up:g} seconds")
        yield server, ready


def _turn_record(turn: Turn, ready: Mapping[str, Any], record: Mapping[str, Any]) -> Record:
    latencies = LatencyHistogram.from_json(record["histogram"])
    cpu_seconds = record.get("server_cpu_seconds")
    per_cpu_second = (1 / cpu_seconds) if cpu_seconds else None
    measured = {"until_all_served": None} | dict(record)
    for name in ("event", "workload", "histogram", "closed_loop", "size", "connections", "busy_share"):
        measured.pop(name, None)
    result = (
        _place(turn)
        | {
            "engine": ready.get("engine"),
            "loop": ready.get("loop"),
            "connections": turn.connections,
            "size": turn.size,
            "rate": record["requests"] / record["seconds"] if record["seconds"] else None,
            "open_loop_rate": turn.rate or None,
            "requests_per_cpu_second": per_cpu_second and record["requests"] * per_cpu_second,
            "latency": {
                **{name: _seconds(latencies.percentile(percent)) for name, percent in _PERCENTILES.items()},
                "max": _seconds(latencies.maximum),
            },
            "load_busy_share": record.get("busy_share"),
        }
        | measured
        | {"histogram": record["histogram"]}
    )
    if turn.workload.load == "bulk":
        result["bytes_per_cpu_second"] = per_cpu_second and record["bytes_compared"] * per_cpu_second
        result["bytes_per_second"] = record["bytes_compared"] / record["seconds"]
    return result


def _place(turn: Turn) -> Record:
    return {"workload": turn.workload.name, "peer": turn.name, "round": turn.round}


def _seconds(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def _python() -> Record:

    name = f"{platform.python_implementation()} {platform.python_version()}"
    return {"version": name, "build": build_flags()}


def _make_certificate(directory: Path) -> tuple[Path, Path]:
    """The certificate that all TLS servers show, and its key: P-256, signed by itself."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost"
    )
    try:
        done = subprocess.run(
            [*command.split(), "-keyout", key, "-out", certificate],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BenchError(f"the certificate needs the program openssl: {error}") from error
    if done.returncode:
        raise BenchError(f"openssl made no certificate: {done.stderr.strip()}")
    return certificate, key
