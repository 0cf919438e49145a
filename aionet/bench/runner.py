"""One measurement: a server process, a load process, and what came of them.

Theory of operation
-------------------
The two processes are pinned to different cpus where there are two; with one, the load sleeps instead of
spinning and the result says ``spinning: false``. The server's cpu time is read at both ends of the measured
time by the load process, which alone knows when those are; it is None where there is no ``/proc``.

`run_bench()` blocks. It returns a result or raises `BenchError`, and on every way out, Ctrl-C included, both
processes have been ended and waited for.

The figure to trust is `BenchResult.requests_per_cpu_second`: it hardly moves when a neighbour steals the
machine.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from ..running import LOOPS, LoopName
from .children import BenchError, Child
from .facts import cpu_model, kernel, python_build, usable_cpus
from .histogram import LatencyHistogram

__all__ = ["BenchPlan", "BenchProgress", "BenchResult", "Workload", "run_bench"]

Workload = Literal["accept", "echo"]

_START_UP = 15.0  # seconds that a process may take to say its first word
_SLACK = 20.0  # seconds beyond warm-up and measuring, opening all connections included
_LOOK_EVERY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What to measure. Raises `ValueError` for numbers that cannot be."""

    workload: Workload
    connections: int = 64
    size: int = 1024
    """Bytes of a message; `accept` always sends one."""
    seconds: float = 10.0
    loop: LoopName = "aionet"

    def __post_init__(self) -> None:
        if self.workload not in ("accept", "echo"):
            raise ValueError(f"the workload is accept or echo, not {self.workload!r}")
        if self.loop not in LOOPS:
            raise ValueError(f"the loop is one of {', '.join(LOOPS)}, not {self.loop!r}")
        if self.connections < 1 or self.size < 1 or self.seconds <= 0:
            raise ValueError(
                "connections, size and seconds are above 0, not"
                f" {self.connections}, {self.size} and {self.seconds}"
            )

    @property
    def warm_up(self) -> float:
        """Seconds of load that are not counted."""
        return min(1.0, self.seconds / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchProgress:
    """Where a measurement is, about four times a second."""

    workload: Workload
    phase: str
    """``opening``, ``warm-up`` or ``measuring``."""
    elapsed: float
    seconds: float
    """How long this phase takes."""
    requests: int
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What was measured. Times are in seconds; a percentile is None if no request was completed."""

    workload: Workload
    engine: str
    loop: LoopName
    python: str
    kernel: str
    cpu: str
    connections: int
    size: int
    seconds: float
    requests: int
    rate: float
    p50: float | None
    p99: float | None
    p99_9: float | None
    errors: Mapping[str, int]
    """How many of each kind: an errno's name, ``mismatch``, ``early end`` or ``no answer``."""
    bytes_compared: int
    server_cpu_seconds: float | None
    requests_per_cpu_second: float | None
    load_busy_share: float
    """Near 1, the load process and not the server limited the rate."""
    closed_loop: bool
    """True: a request waits for the reply before it, so latencies hold for this load only."""
    pinned: bool
    spinning: bool
    server_messages: str
    """The end of what the server wrote to its standard error."""

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, strings and numbers."""
        return dataclasses.asdict(self) | {"errors": dict(self.errors)}


def run_bench(
    plan: BenchPlan, *, on_progress: Callable[[BenchProgress], object] | None = None
) -> BenchResult:
    """Measure. Blocks for about ``plan.warm_up + plan.seconds + 1`` seconds.

    Raises `BenchError` if a process failed (with what it wrote to its standard error) or took too long.
    """
    if plan.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise BenchError("uvloop is not installed; try: pip install 'aionet-toolkit[uvloop]'")
    cpus = usable_cpus()
    apart = len(cpus) > 1
    with ExitStack() as children:
        server = children.enter_context(
            Child(
                "server",
                "aionet.bench.server_process",
                ["--workload", plan.workload, "--loop", plan.loop, *_cpu(cpus[0] if apart else None)],
            )
        )
        ready = server.next_record(_START_UP)
        if ready is None:
            raise BenchError(f"the server process did not start within {_START_UP:g} seconds")
        load_arguments = [
            *("--workload", plan.workload, "--port", str(ready["port"]), "--server-pid", str(server.pid)),
            *("--connections", str(plan.connections), "--size", str(plan.size)),
            *("--seconds", repr(plan.seconds), "--warm-up", repr(plan.warm_up)),
            *(_cpu(cpus[-1]) if apart else ["--wait"]),
        ]
        load = children.enter_context(Child("load", "aionet.bench.load_process", load_arguments))
        record = _follow(plan, server, load, on_progress)
        load.end()
        if server.end() != 0:
            raise server.failure()
        return _result(plan, ready, record, spinning=apart, messages=server.messages())


def _cpu(number: int | None) -> list[str]:
    return [] if number is None else ["--cpu", str(number)]


def _follow(
    plan: BenchPlan, server: Child, load: Child, on_progress: Callable[[BenchProgress], object] | None
) -> Mapping[str, Any]:
    """Read what the load process says until its result; both processes are watched meanwhile."""
    deadline = time.monotonic() + plan.warm_up + plan.seconds + _SLACK
    while time.monotonic() < deadline:
        record: Mapping[str, Any] | None = load.next_record(_LOOK_EVERY)
        if record is not None and record["event"] == "result":
            return record
        if server.ended():
            raise server.failure()
        if record is not None and on_progress is not None:
            told = {name: value for name, value in record.items() if name != "event"}
            on_progress(BenchProgress(workload=plan.workload, **told))
    raise BenchError(f"the load process took more than {_SLACK:g} seconds too long")


def _result(
    plan: BenchPlan, ready: Mapping[str, Any], record: Mapping[str, Any], *, spinning: bool, messages: str
) -> BenchResult:
    latencies = LatencyHistogram.from_json(record["histogram"])

    def percentile(percent: float) -> float | None:
        value = latencies.percentile(percent)
        return None if value is None else value / 1e9

    cpu_seconds = record["server_cpu_seconds"]
    return BenchResult(
        workload=plan.workload,
        engine=ready["engine"],
        loop=plan.loop,
        python=python_build(),
        kernel=kernel(),
        cpu=cpu_model(),
        connections=plan.connections,
        size=record["size"],
        seconds=record["seconds"],
        requests=record["requests"],
        rate=record["requests"] / record["seconds"],
        p50=percentile(50),
        p99=percentile(99),
        p99_9=percentile(99.9),
        errors=record["errors"],
        bytes_compared=record["bytes_compared"],
        server_cpu_seconds=cpu_seconds,
        requests_per_cpu_second=record["requests"] / cpu_seconds if cpu_seconds else None,
        load_busy_share=record["busy_share"],
        closed_loop=record["closed_loop"],
        pinned=ready["pinned"],
        spinning=spinning,
        server_messages=messages,
    )
