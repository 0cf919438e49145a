"""A run: heat after heat, a server process and a load process for each turn, and the record of all of it.

Theory of operation
-------------------
The turns of a heat go on side by side (`plan`): all are started, and then each has a slice of its time after
the other, again and again, while the others are at rest (`measuring`).

The two processes of a turn are on different cpus where there are two; with one, the load sleeps instead of
spinning and the record says ``spinning: false``.

`run_bench()` blocks. What cannot run here is in the record with the reason; a turn that failed is, too, and
the others go on. On every way out, Ctrl-C included, all processes have been ended and waited for. A run that
is interrupted leaves a record of what was measured until then.

The figure to trust is ``requests_per_cpu_second``: it hardly moves when a neighbour steals the machine, and
it is to be compared as a ratio between turns of the same round (`summary`).
"""

from __future__ import annotations

import itertools
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ..version import __version__
from .children import BenchError
from .facts import build_flags, cpu_name, kernel, memory_bytes, usable_cpus
from .measuring import Measurement, Record, place_of, tls_generator
from .plan import BenchPlan, Turn

__all__ = ["SCHEMA", "BenchProgress", "NoObserver", "Observer", "make_certificate", "run_bench"]

SCHEMA = 1
"""The form of a record."""

_OVERHEAD = 0.6  # seconds that starting and ending take, until it is known better


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
    share: float
    """Of the whole run that is over, from 0 to 1."""


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
    """The heats of a plan, one after the other."""

    def __init__(self, plan: BenchPlan, observer: Observer) -> None:
        self._plan = plan
        self._observer = observer
        self._reasons = dict(plan.reasons())
        self._certificate: tuple[Path, ...] = ()
        self._turns: list[Turn] = []
        self._numbers: dict[int, int] = {}
        self._spent: dict[int, float] = {}
        """By the number of a turn: for how many seconds it had its load."""
        self._begun = 0.0
        self._error: BenchError | None = None
        self._results: list[Record] = []
        self._failures: list[Record] = []
        self._messages: dict[str, str] = {}

    def run(self, command: Sequence[str]) -> Record:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._begun = time.monotonic()
        interrupted = False
        with self._prepared():
            heats = [[turn for turn in heat if self._reason(turn) is None] for heat in self._plan.heats()]
            self._turns = list(itertools.chain.from_iterable(heats))
            self._numbers = {id(turn): number for number, turn in enumerate(self._turns, 1)}
            try:
                for heat in heats:
                    self._measure(heat)
            except KeyboardInterrupt:
                if not self._results:
                    raise
                interrupted = True
        results, failures = self._results, self._failures
        skipped = self._skipped()
        if not results:
            nothing = "nothing of what was asked for can run here"
            raise self._error or BenchError("; ".join([nothing, *map(": ".join, skipped.items())]))
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
                        tls_generator()
                        self._certificate = self._certificate or make_certificate(Path(directory))
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

    # -- turns ----------------------------------------------------------------------------------------------

    def _measure(self, heat: Sequence[Turn]) -> None:
        """Measure turns side by side, and note what comes of each.

        If it is interrupted, what was measured until then counts, of those who have had a slice.
        """
        with ExitStack() as stack:
            going = []
            for turn in heat:
                measurement = Measurement(turn, self._plan, self._certificate, self._tell)
                stack.enter_context(measurement)
                if self._succeeds(measurement, Measurement.start):
                    going.append(measurement)
            try:
                for seconds in self._plan.slices(heat):
                    going = [each for each in going if self._succeeds(each, Measurement.go, seconds)]
            except KeyboardInterrupt:
                for each in going:
                    if each.measured:
                        self._succeeds(each, self._finish)
                raise
            for each in going:
                self._succeeds(each, self._finish)

    def _succeeds(self, measurement: Measurement, step: Callable[..., object], *arguments: float) -> bool:
        """Take a step; a failure is noted, ends that turn, and does not concern the others."""
        turn = measurement.turn
        try:
            step(measurement, *arguments)
        except BenchError as failure:
            measurement.close()
            self._error = failure
            self._failures.append(place_of(turn) | {"reason": str(failure)})
            self._observer.on_failure(turn, failure)
            self._over(turn)
            return False
        return True

    def _finish(self, measurement: Measurement) -> None:
        result, said = measurement.finish()
        turn = measurement.turn
        self._results.append(result)
        if said:
            self._messages[turn.name] = said.rpartition("\n")[2]
        self._over(turn)
        self._observer.on_turn(result)

    def _over(self, turn: Turn) -> None:
        self._spent[self._numbers[id(turn)]] = turn.expected_seconds

    def _tell(
        self, turn: Turn, phase: str, elapsed: float, seconds: float, requests: int, errors: int
    ) -> None:
        number = self._numbers[id(turn)]
        known = {"starting": 0.0, "opening": 0.0, "warm-up": elapsed}
        self._spent[number] = known.get(phase, turn.warm_up + elapsed)
        loaded = sum(self._spent.values())
        since = time.monotonic() - self._begun
        overhead = (since - loaded) / len(self._spent) if len(self._spent) > 1 else _OVERHEAD
        to_come = sum(each.expected_seconds for each in self._turns) - loaded
        remaining = max(0.0, to_come + overhead * (len(self._turns) - len(self._spent)))
        self._observer.on_progress(
            BenchProgress(
                turn=turn,
                number=number,
                turns=len(self._turns),
                phase=phase,
                elapsed=elapsed,
                seconds=seconds,
                requests=requests,
                errors=errors,
                share=since / (since + remaining) if remaining else 1.0,
                remaining=remaining,
            )
        )


def _python() -> Record:

    name = f"{platform.python_implementation()} {platform.python_version()}"
    return {"version": name, "build": build_flags()}


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Write the certificate that all TLS servers show, and its key: P-256, signed by itself.

    Raises `BenchError` where there is no program openssl, or it fails.
    """
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
