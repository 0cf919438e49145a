"""What is used of `prometheus-client` (extra ``metrics``), or what to do where it is not installed."""

from __future__ import annotations

try:
    from prometheus_client import core as _core
    from prometheus_client import exposition as _exposition
    from prometheus_client import metrics_core as _metrics_core
    from prometheus_client import registry as _registry
except ImportError as error:
    raise ImportError("metrics need prometheus-client; try: pip install 'aionet-toolkit[metrics]'") from error

__all__ = [
    "Collector",
    "CounterMetricFamily",
    "GaugeMetricFamily",
    "HistogramMetricFamily",
    "Metric",
    "generate_latest",
]

Collector = _registry.Collector
CounterMetricFamily = _core.CounterMetricFamily
GaugeMetricFamily = _core.GaugeMetricFamily
HistogramMetricFamily = _core.HistogramMetricFamily
Metric = _metrics_core.Metric
generate_latest = _exposition.generate_latest
