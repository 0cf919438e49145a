"""The load that `aionet bench` puts on a server: one thread, a process of its own.

Theory of operation
-------------------
Run as ``python -m aionet.bench.load_process --workload echo --port N``. It *spins*: its poll has a zero
timeout, because a generator that sleeps makes the server pay for waking it, and slower servers pay more
often. (On a machine with a single cpu it must not spin, for it would spin on the server's time; see
``--wait``.)

A run has three phases. *Opening*: connections are opened until each has had a reply, so that slow acceptance
is not taken for starvation. *Warm-up*: requests flow and are forgotten, errors are not. *Measuring*:
latencies, bytes and the server's cpu time count. What it says goes to standard output as
lines of JSON: ``progress`` about four times a second and one final ``result``. It ends by itself after its
time, or as soon as nobody reads its lines any more.

With ``--as-told`` several can take turns: it says ``ready`` before it measures, and then, whenever a line of
its standard input tells seconds, measures for so long and says ``rest``. The end of the input ends it. The
load's clock stands still at rest. What the server still does then is for requests that count, so its cpu time
is that of the whole.

``busy_share`` is the share of the measured time in which the load had something to do, ``load_cpu_share``
what it used of its cpu; with a busy share near 1 it was the load, not the server, that limited the rate, and
the result is marked as ``saturated``. A short turn goes on until as many requests were answered as there are
connections, for 5 seconds at most: thousands that wait for their turn are no error.

`idle` has no time: it opens connections, lets each have one reply, and reads the server's memory; a first,
smaller batch goes before, so that what a server sets up once does not count.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing

from ..cli.standard_streams import silence_standard_output
from .arguments import number, seconds, whole_number
from .facts import pin_to, private_bytes, process_cpu_seconds
from .generating import GENERATORS, GeneratorName, Load, Target, make_load, named_errors
from .payloads import STREAM_BYTES

__all__ = ["LOADS", "main"]

LOADS = ("accept", "bulk", "connect", "echo", "idle")

_SLICE = 0.25  # seconds between two words
_OPENING_AT_MOST = 10.0  # seconds, and one more for each so many connections:
_OPENED_PER_SECOND = 500
_PATIENCE = 5.0  # seconds after which a request has no answer
_HOPELESS = 100  # errors more than connections: waiting for all to be served makes no sense
_SATURATED = 0.97  # busy share from which the load is taken for the limit
_FIRST_BATCH = 200  # idle connections that do not count


class _Run:
    """One run: a load and its phases."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._generator: GeneratorName = "python"
        self._until_served: float | None = None

    def run(self) -> dict[str, object]:
        """Drive the load through its phases; the final record."""
        if self._options.workload == "idle":
            return self._idle()
        with closing(self._load(self._options.connections)) as load:
            if self._stays() or not self._options.rate:  # else a connection is a request, and not due yet
                seconds = self._open(load)
                self._until_served = seconds if load.served >= self._options.connections else None
            self._phase(load, "warm-up", self._options.warm_up)
            return self._measure(load)

    def _load(self, connections: int) -> Load:
        options = self._options
        load, self._generator = make_load(
            options.workload,
            Target(options.path, 0) if options.path else Target(options.host, options.port),
            connections,
            options.size,
            rate=options.rate,
            wait=options.wait,
            generator=options.generator,
        )
        return load

    def _open(self, load: Load) -> float:
        """Seconds until every connection had a reply."""
        most = _OPENING_AT_MOST + self._options.connections / _OPENED_PER_SECOND
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < most:
            load.drive(min(_SLICE, most - elapsed), True)
            hopeless = sum(load.errors().values()) > self._options.connections + _HOPELESS
            if hopeless or load.served >= self._options.connections:
                break
            self._tell("opening", time.monotonic() - started, most, load)
        return time.monotonic() - started

    def _phase(self, load: Load, name: str, seconds: float) -> float:
        """Put the load on for so long; how long it was."""
        started = time.monotonic()
        self._tell(name, 0.0, seconds, load)  # once at least, however short the time is
        while (elapsed := time.monotonic() - started) < seconds:
            load.drive(min(_SLICE, seconds - elapsed))
            self._tell(name, min(seconds, time.monotonic() - started), seconds, load)
        return elapsed

    def _until_all_answered(self, load: Load, measured: float) -> float:
        """Go on where many connections have not had their turn yet; how long it was altogether."""
        started = time.monotonic() - measured
        most = measured + _PATIENCE
        while (
            not self._options.rate
            and load.requests < self._options.connections
            and not load.errors()
            and measured < most
        ):
            load.drive(_SLICE / 10)
            measured = time.monotonic() - started
        return measured

    def _as_told(self, load: Load) -> float:
        """Measure for as long as each line of the input says; how long it was together."""
        measured = 0.0
        _say({"event": "ready"})
        for line in sys.stdin:
            measured += self._phase(load, "measuring", seconds(line.strip()))
            _say({"event": "rest"})
        if not measured:
            raise BrokenPipeError("nobody told what to measure")
        return measured

    def _measure(self, load: Load) -> dict[str, object]:
        own, cpu = time.process_time(), self._server_cpu()
        load.begin()
        if self._options.as_told:
            measured = self._as_told(load)
        else:
            measured = self._phase(load, "measuring", self._options.seconds)
        measured = self._until_all_answered(load, measured)
        cpu_after, own_after = self._server_cpu(), time.process_time()
        load.finish(_PATIENCE)
        least, most, starved = load.service()
        mean = load.requests / self._options.connections
        busy = max(0.0, 1 - load.idle / 1e9 / measured)
        return self._result(load) | {
            "seconds": measured,
            "server_cpu_seconds": None if cpu is None or cpu_after is None else cpu_after - cpu,
            "busy_share": busy,
            "load_cpu_share": (own_after - own) / measured,
            "saturated": busy > _SATURATED and not self._options.wait,
            "overdue": load.overdue,
            "until_all_served": self._until_served,
            "starved": starved if self._stays() else 0,
            "least_service": least / mean if mean and self._stays() else None,
            "most_service": most / mean if mean and self._stays() else None,
        }

    def _idle(self) -> dict[str, object]:
        """Memory of connections that had one reply each."""
        pid = self._options.server_pid
        with (
            closing(self._load(_FIRST_BATCH)) as first,
            closing(self._load(self._options.connections)) as load,
        ):
            first.drive(_OPENING_AT_MOST, True)
            before = None if pid is None else private_bytes(pid)
            seconds = self._open(load)
            after = None if pid is None else private_bytes(pid)
            result = self._result(load)
            missing = self._options.connections - load.served
            if missing:
                result["errors"] = {**named_errors(load.errors()), "no answer": missing}
            size = None if before is None or after is None else after - before
            return result | {
                "seconds": seconds,
                "private_bytes_per_connection": None if size is None else size / self._options.connections,
            }

    def _result(self, load: Load) -> dict[str, object]:
        return {
            "event": "result",
            "workload": self._options.workload,
            "generator": self._generator,
            "connections": self._options.connections,
            "size": self._options.size,
            "requests": load.requests,
            "bytes_compared": load.bytes_compared,
            "errors": named_errors(load.errors()),
            "closed_loop": not self._options.rate,
            "histogram": load.histogram(),
        }

    def _stays(self) -> bool:
        return self._options.workload not in ("accept", "connect")

    def _server_cpu(self) -> float | None:
        pid = self._options.server_pid
        return None if pid is None else process_cpu_seconds(pid)

    def _tell(self, phase: str, elapsed: float, seconds: float, load: Load) -> None:
        _say(
            {
                "event": "progress",
                "phase": phase,
                "elapsed": elapsed,
                "seconds": seconds,
                "requests": load.requests,
                "errors": sum(load.errors().values()),
            }
        )


def _say(record: dict[str, object]) -> None:
    print(json.dumps(record), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aionet.bench.load_process",
        description="Put load on a server and print what was measured as lines of JSON.",
    )
    parser.add_argument("--workload", choices=LOADS, required=True)
    parser.add_argument("--host", default="127.0.0.1", help="a numeric address (default: %(default)s)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=whole_number(1, 65535))
    where.add_argument("--path", help="of a Unix socket")
    parser.add_argument("--connections", type=whole_number(1, 1_000_000), default=64)
    parser.add_argument("--size", type=whole_number(1, 1 << 26), default=1024, help="bytes of a message")
    parser.add_argument(
        "--rate", type=number(0, 1e9), default=0.0, help="requests per second (default: closed loop)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=seconds, default=10.0, help="how long to measure")
    length.add_argument("--as-told", action="store_true", help="measure when a line of input says how long")
    parser.add_argument("--warm-up", type=seconds, default=1.0, help="seconds before measuring")
    parser.add_argument("--server-pid", type=whole_number(1, 1 << 31), help="whose cpu time to read")
    parser.add_argument("--cpu", type=whole_number(0, 4095), help="the cpu to stay on")
    parser.add_argument(
        "--generator", choices=GENERATORS, help="which load (default: the compiled one if it is there)"
    )
    parser.add_argument("--wait", action="store_true", help="do not spin: sleep up to 1 ms")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load and print its records."""
    options = _parser().parse_args(arguments)
    if options.workload in ("accept", "connect"):
        options.size = 1
    elif options.workload == "bulk":
        options.size = STREAM_BYTES
    pin_to(options.cpu)
    gc.disable()  # nothing here makes cycles, and a collection would be measured as latency
    try:
        _say(_Run(options).run())
    except argparse.ArgumentTypeError as error:
        print(f"load_process: error: {error}", file=sys.stderr)
        return 2
    except (BrokenPipeError, KeyboardInterrupt):  # the answer is not wanted any more
        silence_standard_output()  # or what is left of it would fail at the end, and be the exit code
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
