"""One turn: a server process and a load process, from their start to what the record says of them.

Theory of operation
-------------------
The load opens its connections and warms the server up; then both rest. Measuring comes in slices, as many and
as long as is asked for, with rests between them in which neither does anything, so that turns can go on side
by side. The server's cpu time is read by the load process, which alone knows when it begins and ends; what
the kernel drops at listening sockets is counted here, for each slice, because it is the machine's.

On every way out both processes have been ended and waited for.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .children import BenchError, Child, module_command
from .facts import listen_losses
from .histogram import LatencyHistogram
from .peers import CHECKOUT, COLD_MALLOC, compiled_program
from .plan import BenchPlan, Turn

__all__ = ["Measurement", "Record", "TellProgress", "place_of", "running_server", "tls_generator"]

Record = dict[str, Any]
"""What a turn was, or a whole run, as it is stored: see `benchmarks/README.md`."""

TellProgress = Callable[[Turn, str, float, float, int, int], None]
"""Called with a turn, its phase, how far that is and how long it takes, requests and errors."""

_START_UP = 15.0  # seconds that a process may take to say its first word
_SLACK = 40.0  # seconds beyond warm-up and measuring, opening all connections included
_OPENED_PER_SECOND = 500  # as the load process has it
_LOOK_EVERY = 0.1
_ENDED_WELL = (0, -signal.SIGTERM)  # asked, or told where that takes too long: one with thousands of threads
_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "p99.99": 99.99}


def tls_generator() -> Path:
    """The load for TLS, compiled. Raises `BenchError` if that is not possible."""
    return compiled_program(CHECKOUT / "tls_load_generator.c")


class Measurement:
    """A turn that is going on. Leaving the context ends its processes."""

    def __init__(self, turn: Turn, plan: BenchPlan, certificate: Sequence[Path], tell: TellProgress) -> None:
        self.turn = turn
        self.measured = 0.0
        """Seconds, so far."""
        self._plan = plan
        self._certificate = certificate
        self._tell = tell
        self._children = ExitStack()
        self._server: Child | None = None
        self._ready: Mapping[str, Any] = {}
        self._result: Record | None = None
        self._losses: tuple[int, int] | None = None

    def start(self) -> None:
        """Start both processes and wait until the load is at rest: all connections are open, and warm.

        A load that has no time to measure is at its end then. Raises `BenchError`, as all here.
        """
        turn = self.turn
        self._tell(turn, "starting", 0.0, 0.0, 0, 0)
        if turn.peer:
            self._server, self._ready = self._children.enter_context(
                running_server(turn, self._plan, certificate=self._certificate)
            )
        self._load = self._children.enter_context(
            Child("load", self._load_command(), cpu=self._plan.pinning.load)
        )
        with self._counting_losses(turn.workload.load == "idle"):
            self._follow("ready", turn.expected_seconds - turn.seconds)

    def go(self, seconds: float) -> None:
        """Measure for so long."""
        if self._result is None:
            if self.turn.workload.tls:  # its generator does not tell how far it is
                self._pass_on("measuring", 0.0, seconds, 0, 0)
            self._load.say(repr(seconds))
            with self._counting_losses():
                self._follow("rest", seconds)
            self.measured += seconds

    def finish(self) -> tuple[Record, str]:
        """End it; what the record holds of it, and what the server wrote to its standard error."""
        if self._result is None:
            self._load.say_no_more()
            self._follow("result", 0.0)
        assert self._result is not None
        self._load.end()
        if self._server is not None and self._server.end() not in _ENDED_WELL:
            raise self._server.failure()
        said = "" if self._server is None else self._server.messages()
        if self._losses is not None:
            self._result |= zip(("listen_overflows", "listen_drops"), self._losses, strict=True)
        return _turn_record(self.turn, self._ready, self._result), said

    def close(self) -> None:
        """End both processes, whatever they do."""
        self._children.close()

    def __enter__(self) -> Measurement:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._children.__exit__(*exc_info)

    def _load_command(self) -> list[str]:
        turn, plan, ready = self.turn, self._plan, self._ready
        pid = plan.target_pid if self._server is None else self._server.pid
        if turn.workload.tls:
            numbers = (ready["port"], turn.connections, turn.size, turn.warm_up, pid)
            return [str(tls_generator()), turn.workload.load, *map(str, numbers)]
        target = plan.target
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
            *("--as-told", "--warm-up", repr(turn.warm_up)),
            *(["--rate", repr(turn.rate)] if turn.rate else []),
            *([] if pid is None else ["--server-pid", str(pid)]),
            *([] if plan.spinning else ["--wait"]),
        )

    def _follow(self, event: str, seconds: float) -> None:
        """Read what the load says until that, or its result, comes; both processes are watched meanwhile."""
        slack = _SLACK + self.turn.connections / _OPENED_PER_SECOND
        deadline = time.monotonic() + seconds + slack
        while time.monotonic() < deadline:
            record = self._load.next_record(_LOOK_EVERY)
            if record is None:
                if self._server is not None and self._server.ended():
                    raise self._server.failure()
            elif record["event"] == "progress":
                told: dict[str, Any] = {name: value for name, value in record.items() if name != "event"}
                self._pass_on(**told)
            else:
                if record["event"] == "result":
                    self._result = dict(record)
                if record["event"] in (event, "result"):
                    return
        raise BenchError(f"the load process took more than {slack:g} seconds too long")

    def _pass_on(self, phase: str, elapsed: float, seconds: float, requests: int, errors: int) -> None:
        """Tell how far it is; a slice is a part of the turn."""
        if phase == "measuring":
            elapsed, seconds = self.measured + elapsed, self.turn.seconds
        self._tell(self.turn, phase, elapsed, seconds, requests, errors)

    @contextmanager
    def _counting_losses(self, wanted: bool = True) -> Iterator[None]:
        before = listen_losses()
        yield
        after = listen_losses()
        if wanted and before is not None and after is not None:
            overflows, drops = self._losses or (0, 0)
            self._losses = overflows + after[0] - before[0], drops + after[1] - before[1]


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
        environment[COLD_MALLOC] = "1"
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
        place_of(turn)
        | {
            "engine": ready.get("engine"),
            "loop": ready.get("loop"),
            "malloc": ready.get("malloc"),
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


def place_of(turn: Turn) -> Record:
    """What tells a turn from the others of a record."""
    return {"workload": turn.workload.name, "peer": turn.name, "round": turn.round}


def _seconds(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9
