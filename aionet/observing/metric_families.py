"""The metrics that aionet has for Prometheus: their names, labels and texts (extra ``metrics``).

Theory of operation
-------------------
They stand here once, for one process and for several workers together (`metrics.py`, `worker_metrics.py`), so
that a dashboard which was made for the one fits the other.

Labels are listeners and causes, never peers, whose number is not bounded; every cause has its series from the
beginning, because ``rate()`` does not see a first increase from nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..close_reason import CloseCause
from ..spawner_stats import SpawnerStats
from ..tls_failure import TlsFailure
from .accept_queue import accept_queues, listen_failures
from .loop_lag import LoopLag
from .prometheus_library import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

__all__ = ["connection_metrics", "counter", "gauge", "gauge_of_each", "lag_metrics", "queue_metrics"]


def connection_metrics(stats: SpawnerStats, also_ended: Mapping[str, int] | None = None) -> Iterator[Metric]:
    """What became of connections; `also_ended` are numbers of those that no spawner saw end, by cause."""
    yield counter("connections_accepted", "Connections accepted.", stats.accepted)
    yield gauge("connections_active", "Connections being served.", stats.active)
    ended = CounterMetricFamily(
        "aionet_connections_ended", "Connections that were served and have ended.", labels=["cause"]
    )
    rejected = CounterMetricFamily(
        "aionet_connections_rejected", "Connections turned away before a handler saw them.", labels=["cause"]
    )
    for cause in CloseCause:
        family = rejected if cause.outcome == "rejected" else ended
        family.add_metric([cause.name.lower()], stats.causes.get(cause, 0))
    for name, count in (also_ended or {}).items():
        ended.add_metric([name], count)
    yield ended
    yield rejected
    yield counter("handler_errors", "Handlers that raised.", stats.failed)
    yield counter("bytes_read", "Bytes received from peers.", stats.bytes_read or 0)
    yield counter("bytes_written", "Bytes handed to the kernel for peers.", stats.bytes_written or 0)
    yield counter("tls_handshakes", "TLS handshakes that succeeded.", stats.tls_handshakes)
    failed = CounterMetricFamily(
        "aionet_tls_handshake_failures", "TLS handshakes that failed.", labels=["reason"]
    )
    for failure in (failure for failure in TlsFailure if failure.of_handshakes):
        failed.add_metric([failure.name.lower()], stats.tls_failures.get(failure, 0))
    yield failed


def queue_metrics(sockets: Iterable[socket.socket]) -> Iterator[Metric]:
    """The queues of listening `sockets`, those of one address together, and whom the kernel turned away."""
    depths: dict[str, int] = {}
    backlogs: dict[str, int] = {}
    for queue in accept_queues(sockets):
        depths[queue.listener] = depths.get(queue.listener, 0) + queue.depth
        backlogs[queue.listener] = backlogs.get(queue.listener, 0) + queue.backlog
    yield gauge_of_each("accept_queue_depth", "Connections that wait to be accepted.", "listener", depths)
    yield gauge_of_each(
        "accept_queue_backlog", "Connections that may wait to be accepted.", "listener", backlogs
    )
    failures = listen_failures()
    if failures is not None:
        of_all = "by all listeners of this network namespace"
        yield counter("listen_overflows", f"Full accept queues met, {of_all}.", failures[0])
        yield counter("listen_drops", f"Connections dropped, {of_all}.", failures[1])


def lag_metrics(cumulated: Sequence[float], total: float, last: float) -> Iterator[Metric]:
    """How late a loop is: as `LoopLag` has it in `cumulated`, `sum` and `last`."""
    bounds = [*map(str, LoopLag.bounds), "+Inf"]
    buckets = list(zip(bounds, cumulated, strict=True))
    yield HistogramMetricFamily(
        "aionet_loop_lag_seconds", "How late a timer of the event loop was.", buckets, total
    )
    yield gauge("loop_lag_last_seconds", "How late it was the last time.", last)


def counter(name: str, text: str, value: float) -> Metric:
    """A counter without labels."""
    return CounterMetricFamily(f"aionet_{name}", text, value)


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(f"aionet_{name}", text, value)


def gauge_of_each(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge with one label, and a value for each of what that may be."""
    family = GaugeMetricFamily(f"aionet_{name}", text, labels=[label])
    for which, value in values.items():
        family.add_metric([which], value)
    return family
