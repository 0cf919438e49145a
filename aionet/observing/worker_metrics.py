"""The figures of all workers of a supervisor for Prometheus (extra ``metrics``).

Theory of operation
-------------------
A scrape that went to one of the workers would find another one each time. So the supervisor is scraped, and
has the metrics of one process under the same names and labels, made of all workers together: counters and
histograms are sums, those of workers that have ended included; connections being served are a sum, and the
last lag is the largest, of the living. (prometheus-client's multiprocess mode does the same, and calls it
``livesum`` and ``livemax``.) What is of each worker has other names, so that nothing is added up twice, and
the label ``worker``: its number, which the one that takes its place has, too, for a process id would make new
series at each restart. While workers that were replaced drain, they count as their number's.

Workers tell once a second, so figures are as old at the most, and a scrape waits for nobody. A worker whose
loop hangs tells nothing: its silence grows. The accept queues are read from the supervisor's own copies of
the listening sockets, whatever becomes of the workers.

Connections that a worker took with it have the cause ``worker_died``, so that as many are accepted as are
active, ended or rejected.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from ..held_listeners import HeldListeners
from ..workers.process import WorkerProcess
from ..workers.supervisor import Supervisor
from .metric_families import (
    connection_metrics,
    counter,
    gauge,
    gauge_of_each,
    lag_metrics,
    queue_metrics,
)
from .prometheus_library import Collector, Metric
from .worker_figures import LAST_LAG, lag_from, stats_from

__all__ = ["WorkersCollector"]


class WorkersCollector(Collector):
    """Collects the metrics of the workers of `supervisor`, which are to be `measured`, and of `listeners`."""

    def __init__(self, supervisor: Supervisor, listeners: HeldListeners) -> None:
        self._supervisor = supervisor
        self._listeners = listeners

    def collect(self) -> Iterator[Metric]:
        """Every metric as it was last told."""
        counts = self._supervisor.counters.total()
        gauges = self._supervisor.counters.gauges_of_each()
        last_lags = (of_one.get(LAST_LAG, 0.0) for of_one in gauges.values())
        yield from _connections(counts)
        yield from queue_metrics(chain.from_iterable(listener.sockets for listener in self._listeners))
        yield from lag_metrics(*lag_from(counts), max(last_lags, default=0.0))
        yield from _workers(self._supervisor)
        yield from _each(self._supervisor.living, self._supervisor.counters.of_each(), gauges)


def _connections(counts: Mapping[str, float]) -> Iterator[Metric]:
    stats = dataclasses.replace(stats_from(counts), accepted=int(counts.get("accepted", 0)))
    yield from connection_metrics(stats, {"worker_died": int(counts.get("lost", 0))})


def _workers(supervisor: Supervisor) -> Iterator[Metric]:
    yield gauge(
        "workers", "Worker processes that run, less those that were replaced.", len(supervisor.serving)
    )
    yield gauge("workers_configured", "Worker processes that there are to be.", supervisor.workers)
    yield counter(
        "worker_restarts", "Workers that ended by themselves and were replaced.", supervisor.restarts
    )


def _each(
    living: Iterable[WorkerProcess],
    counts: Mapping[int, Mapping[str, float]],
    gauges: Mapping[int, Mapping[str, float]],
) -> Iterator[Metric]:
    now = time.monotonic()
    active: dict[str, float] = {}
    lags: dict[str, float] = {}
    silences: dict[str, float] = {}
    for worker in sorted((worker for worker in living if worker.is_ready), key=lambda worker: worker.number):
        label = str(worker.number)
        active[label] = active.get(label, 0) + counts.get(worker.pid, {}).get("active", 0)
        lags[label] = max(lags.get(label, 0.0), gauges.get(worker.pid, {}).get(LAST_LAG, 0.0))
        silences[label] = max(silences.get(label, 0.0), now - worker.heard)
    yield gauge_of_each("worker_connections_active", "Connections being served by each.", "worker", active)
    yield gauge_of_each("worker_loop_lag_last_seconds", "How late its timer was last.", "worker", lags)
    yield gauge_of_each(
        "worker_silence_seconds", "Since it last told: beyond 1 its loop is late.", "worker", silences
    )
