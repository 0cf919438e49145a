"""A spawner's figures for Prometheus (extra ``metrics``).

Theory of operation
-------------------
Nothing is counted for Prometheus's sake while connections are served: the collector reads at each scrape what
is counted anyway (`ConnectionSpawner.stats`), asks the kernel about the listeners, and makes metrics of it.
The bytes of living connections are added up then; `refresh` does so in slices, so that ten thousand
connections do not hold up the loop for milliseconds. It is to be collected in the thread of the loop:
counters of one step are of one moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..spawner import ConnectionSpawner
from ..spawner_stats import SpawnerStats
from .loop_lag import LoopLag
from .metric_families import connection_metrics, lag_metrics, queue_metrics
from .prometheus_library import Collector, Metric, generate_latest

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
        self._stats: SpawnerStats | None = None
        self._loop_lag = loop_lag

    async def refresh(self) -> None:
        """Add up in slices what the next `collect` reports; without it that does so at once.

        Cancel safety: nothing is lost.
        """
        self._stats = await self._spawner.stats_in_slices()

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is at this moment."""
        stats, self._stats = self._stats or self._spawner.stats, None
        yield from connection_metrics(stats)
        yield from queue_metrics(sock for server in self._spawner.servers for sock in server.raw_sockets)
        if self._loop_lag is not None:
            yield from lag_metrics(self._loop_lag.cumulated, self._loop_lag.sum, self._loop_lag.last)
