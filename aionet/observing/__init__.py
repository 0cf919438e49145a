"""Seeing inside a server: its access log, the ids of its connections, its metrics.

`metrics` and `worker_metrics` need ``prometheus-client`` and are imported by themselves.
"""

from .access_log import AccessLog
from .connection_id import ConnectionIdFilter, connection_context, connection_id
from .loop_lag import LoopLag

__all__ = ["AccessLog", "ConnectionIdFilter", "LoopLag", "connection_context", "connection_id"]
