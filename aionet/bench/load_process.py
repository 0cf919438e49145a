"""The load that `aionet bench` puts on its server: plain Python, raw sockets, one thread, a process of its
own.

Theory of operation
-------------------
Run as ``python -m aionet.bench.load_process --workload echo --port N``. It *spins*: its poll has a zero
timeout, because a generator that sleeps makes the server pay for waking it, and slower servers pay more
often. (On a machine with a single cpu it must not spin, for it would spin on the server's time; see
``--wait``.)

A run has three phases. *Opening*: all connections are started. *Warm-up*: requests flow and are forgotten,
errors are not. *Measuring*: latencies, bytes and the server's cpu time count. What it says goes to standard
output as lines of JSON: ``progress`` about four times a second and one final ``result``. It ends by itself
after its time, or as soon as nobody reads its lines any more.

The loop is closed (see `exchanges`), and the result says so. ``busy_share`` is the share of the measured time
in which the load process had something to do; near 1 it was the load, not the server, that limited the rate.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence

from .arguments import seconds, whole_number
from .exchanges import AcceptClient, Client, EchoClient, Tally
from .facts import pin_to, process_cpu_seconds
from .polling import Poller, make_poller

__all__ = ["main"]

_EVENTS_AT_ONCE = 256
_PROGRESS_EVERY = 250_000_000  # nanoseconds
_TURN_OF_CHORES = 1_000_000  # how often what is not an event is looked after
_OPENING_AT_MOST = 10_000_000_000
_SECOND = 1_000_000_000


class _LoadRun:
    """One run: the loop around a client, and its three phases."""

    def __init__(self, client: Client, poller: Poller, options: argparse.Namespace) -> None:
        self._client = client
        self._tally = client.tally
        self._poller = poller
        self._options = options
        self._phase = "opening"
        self._phase_started = time.perf_counter_ns()
        self._idle = 0
        self._server_cpu_before: float | None = None
        self._next_progress = self._phase_started + _PROGRESS_EVERY

    def run(self) -> dict[str, object]:
        """Drive the client through its phases; the final record."""
        poll, on_event, clock = self._poller.poll, self._client.on_event, time.perf_counter_ns
        wait = self._options.wait
        last, next_chores = clock(), 0
        while True:
            events = poll(wait, _EVENTS_AT_ONCE)
            now = clock()
            if not events:
                self._idle += now - last
            last = now
            if now >= next_chores:
                next_chores = now + _TURN_OF_CHORES
                if self._chores(now):
                    return self._result(now)
                last = clock()
            if events:
                for fd, bits in events:
                    on_event(fd, bits)
                last = clock()

    def _chores(self, now: int) -> bool:
        """Open, change phase, tell progress; True when the time is up."""
        self._client.open_due(now)
        elapsed = now - self._phase_started
        if self._phase == "opening":
            if self._client.opened >= self._options.connections or elapsed >= _OPENING_AT_MOST:
                self._enter("warm-up", now)
        elif self._phase == "warm-up":
            if elapsed >= self._options.warm_up * _SECOND:
                self._begin_measuring()
                self._tell_progress(self._phase_started)  # once at least, however short the time is
        elif elapsed >= self._options.seconds * _SECOND:
            return True
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_EVERY
            self._tell_progress(now)
        return False

    def _enter(self, phase: str, now: int) -> None:
        self._phase, self._phase_started = phase, now

    def _begin_measuring(self) -> None:
        self._tally.begin()
        self._idle = 0
        self._server_cpu_before = self._server_cpu()
        self._enter("measuring", time.perf_counter_ns())

    def _server_cpu(self) -> float | None:
        pid = self._options.server_pid
        return None if pid is None else process_cpu_seconds(pid)

    def _tell_progress(self, now: int) -> None:
        _tell(
            {
                "event": "progress",
                "phase": self._phase,
                "elapsed": (now - self._phase_started) / _SECOND,
                "seconds": self._options.seconds if self._phase == "measuring" else self._options.warm_up,
                "requests": self._tally.histogram.count,
                "errors": self._tally.errors.total(),
            }
        )

    def _result(self, now: int) -> dict[str, object]:
        cpu_before, cpu_after = self._server_cpu_before, self._server_cpu()
        measured = now - self._phase_started
        requests = self._tally.histogram.count
        self._client.finish(asked_before=self._phase_started)
        return {
            "event": "result",
            "workload": self._options.workload,
            "connections": self._options.connections,
            "size": self._options.size,
            "seconds": measured / _SECOND,
            "requests": requests,
            "bytes_compared": self._tally.bytes_compared,
            "errors": dict(sorted(self._tally.errors.items())),
            "server_cpu_seconds": None if cpu_before is None or cpu_after is None else cpu_after - cpu_before,
            "busy_share": max(0.0, 1 - self._idle / measured),
            "closed_loop": True,
            "histogram": self._tally.histogram.to_json(),
        }


def _tell(record: dict[str, object]) -> None:
    print(json.dumps(record), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aionet.bench.load_process",
        description="Put load on a server and print what was measured as lines of JSON.",
    )
    parser.add_argument("--workload", choices=["accept", "echo"], required=True)
    parser.add_argument("--host", default="127.0.0.1", help="a numeric address (default: %(default)s)")
    parser.add_argument("--port", type=whole_number(1, 65535), required=True)
    parser.add_argument("--connections", type=whole_number(1, 1_000_000), default=64)
    parser.add_argument("--size", type=whole_number(1, 1 << 26), default=1024, help="bytes of a message")
    parser.add_argument("--seconds", type=seconds, default=10.0, help="how long to measure")
    parser.add_argument("--warm-up", type=seconds, default=1.0, help="seconds before measuring")
    parser.add_argument("--server-pid", type=whole_number(1, 1 << 31), help="whose cpu time to read")
    parser.add_argument("--cpu", type=whole_number(0, 4095), help="the cpu to stay on")
    parser.add_argument(
        "--wait", action="store_const", const=0.001, default=0.0, help="do not spin: sleep up to 1 ms"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load and print its records."""
    options = _parser().parse_args(arguments)
    if options.workload == "accept":
        options.size = 1
    pin_to(options.cpu)
    gc.disable()  # nothing here makes cycles, and a collection would be measured as latency
    poller = make_poller()
    make_client = EchoClient if options.workload == "echo" else AcceptClient
    client = make_client((options.host, options.port), options.connections, options.size, poller, Tally())
    try:
        _tell(_LoadRun(client, poller, options).run())
    except (BrokenPipeError, KeyboardInterrupt):
        return 1  # nobody wants the answer any more
    finally:
        poller.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
