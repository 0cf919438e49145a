"""What a worker tells its supervisor for the sake of metrics, and how that is read.

Theory of operation
-------------------
The channel between the two carries plain numbers by name, and the supervisor adds them up (`Counters`), so a
worker's figures are taken apart here, and put together again from the sums: each cause is a counter, and so
is each bucket of the loop's lag, cumulated as Prometheus has them. The last lag is a gauge. What is missing
counts as 0: after a reload a worker may be of another version.

Bytes of living connections are added up for each message, so once a second, in slices.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..close_reason import CloseCause
from ..spawner import ConnectionSpawner
from ..spawner_stats import SpawnerStats, TlsCounts, stats_of
from ..tls_failure import TlsFailure
from .loop_lag import LoopLag

__all__ = ["LAST_LAG", "lag_from", "measured", "stats_from"]

LAST_LAG = "loop_lag_last_seconds"
"""The name of a gauge."""

_LAG_SUM = "loop_lag_sum"
_LAG_BUCKETS = [*(f"loop_lag_{bound:g}" for bound in LoopLag.bounds), "loop_lag_count"]


@contextmanager
def measured(
    spawner: ConnectionSpawner[Any],
) -> Iterator[Callable[[], Awaitable[tuple[dict[str, float], dict[str, float]]]]]:
    """Measure `spawner` and its loop while the context lasts; it gives a function: counts, and gauges."""
    spawner.count_traffic()
    with LoopLag() as lag:

        async def measure() -> tuple[dict[str, float], dict[str, float]]:
            return _counts(await spawner.stats_in_slices(), lag), {LAST_LAG: lag.last}

        yield measure


def _counts(stats: SpawnerStats, lag: LoopLag) -> dict[str, float]:
    causes = {_name_of(cause): count for cause, count in stats.causes.items()}
    failures = {_name_of_failure(failure): count for failure, count in stats.tls_failures.items()}
    buckets = dict(zip(_LAG_BUCKETS, lag.cumulated, strict=True))
    return {**stats.counters(), **causes, **failures, **buckets, _LAG_SUM: lag.sum}


def stats_from(counts: Mapping[str, float]) -> SpawnerStats:
    """Return the stats that `counts` have been made from, or sums of them."""
    causes = [int(counts.get(_name_of(cause), 0)) for cause in CloseCause]
    traffic = int(counts.get("bytes_read", 0)), int(counts.get("bytes_written", 0))
    failures = {failure: int(counts.get(_name_of_failure(failure), 0)) for failure in TlsFailure}
    tls = TlsCounts(int(counts.get("tls_handshakes", 0)), failures)
    return stats_of(causes, int(counts.get("active", 0)), traffic, tls)


def lag_from(counts: Mapping[str, float]) -> tuple[list[float], float]:
    """Return what `LoopLag` has in `cumulated` and `sum`."""
    return [counts.get(name, 0) for name in _LAG_BUCKETS], counts.get(_LAG_SUM, 0.0)


def _name_of_failure(failure: TlsFailure) -> str:
    return f"tls_failure_{failure.name.lower()}"


def _name_of(cause: CloseCause) -> str:
    return f"cause_{cause.name.lower()}"
