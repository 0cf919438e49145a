"""A spawner's figures for Prometheus (extra ``metrics``).

Theory of operation
-------------------
Nothing is counted for Prometheus's sake while connections are served: the collector reads at each scrape what
is counted anyway (`ConnectionSpawner.stats`), asks the kernel about the listeners, and makes metrics of it.
The bytes of those who live are added up then, which takes a few milliseconds for ten thousand connections.
It is to be collected in the thread of the loop: counters of one step are of one moment.

Labels are listeners and causes, never peers, whose number is not bounded; every cause has its series from the
beginning, because ``rate()`` does not see a first increase from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..close_reason import CloseCause
from ..spawner import ConnectionSpawner
from ..spawner_stats import SpawnerStats
from .accept_queue import accept_queues, listen_failures
from .loop_lag import LoopLag

try:
    from prometheus_client import generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError("metrics need prometheus-client; try: pip install 'aionet-toolkit[metrics]'") from error

__all__ = ["CONTENT_TYPE", "SpawnerCollector", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `exposition` returns."""


def exposition(collector: Collector) -> bytes:
    """Everything that `collector` has, in Prometheus's text format, which all scrapers read."""
    return generate_latest(collector)


class SpawnerCollector(Collector):
    """Collects the metrics of `spawner`, and those of `loop_lag`, if that is given.

    Register it with a `prometheus_client.CollectorRegistry`, or pass it to `serve_metrics`. From now on the
    spawner counts bytes, too.
    """

    def __init__(self, spawner: ConnectionSpawner[Any], *, loop_lag: LoopLag | None = None) -> None:
        spawner.count_traffic()
        self._spawner = spawner
        self._loop_lag = loop_lag

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is at this moment."""
        yield from _connections(self._spawner.stats)
        yield from _queues(self._spawner)
        if self._loop_lag is not None:
            yield from _lag(self._loop_lag)


def _connections(stats: SpawnerStats) -> Iterator[Metric]:
    yield _counter("connections_accepted", "Connections accepted.", stats.accepted)
    yield _gauge("connections_active", "Connections being served.", stats.active)
    ended = CounterMetricFamily(
        "aionet_connections_ended", "Connections that were served and have ended.", labels=["cause"]
    )
    rejected = CounterMetricFamily(
        "aionet_connections_rejected", "Connections turned away before a handler saw them.", labels=["cause"]
    )
    for cause in CloseCause:
        family = rejected if cause.outcome == "rejected" else ended
        family.add_metric([cause.name.lower()], stats.causes.get(cause, 0))
    yield ended
    yield rejected
    yield _counter("handler_errors", "Handlers that raised.", stats.failed)
    yield _counter("bytes_read", "Bytes received from peers.", stats.bytes_read or 0)
    yield _counter("bytes_written", "Bytes handed to the kernel for peers.", stats.bytes_written or 0)


def _queues(spawner: ConnectionSpawner[Any]) -> Iterator[Metric]:
    depth = GaugeMetricFamily(
        "aionet_accept_queue_depth", "Connections that wait to be accepted.", labels=["listener"]
    )
    backlog = GaugeMetricFamily(
        "aionet_accept_queue_backlog", "Connections that may wait to be accepted.", labels=["listener"]
    )
    for queue in accept_queues(spawner.servers):
        depth.add_metric([queue.listener], queue.depth)
        backlog.add_metric([queue.listener], queue.backlog)
    yield depth
    yield backlog
    failures = listen_failures()
    if failures is not None:
        of_all = "by all listeners of this network namespace"
        yield _counter("listen_overflows", f"Full accept queues met, {of_all}.", failures[0])
        yield _counter("listen_drops", f"Connections dropped, {of_all}.", failures[1])


def _lag(lag: LoopLag) -> Iterator[Metric]:
    bounds = [*map(str, lag.bounds), "+Inf"]
    buckets = list(zip(bounds, lag.cumulated, strict=True))
    yield HistogramMetricFamily(
        "aionet_loop_lag_seconds", "How late a timer of the event loop was.", buckets, lag.sum
    )
    yield _gauge("loop_lag_last_seconds", "How late it was the last time.", lag.last)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"aionet_{name}", text, value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"aionet_{name}", text, value)
