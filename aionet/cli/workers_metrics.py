"""``--metrics`` with ``--workers``: the supervisor's process answers, for all workers.

Theory of operation
-------------------
The endpoint is the supervisor's own: it stays as it is at a reload, and the workers that begin then measure
if it is there, whatever the configuration says by now. At a restart it goes to the successor.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from ..held_listeners import HeldListeners
from ..observing.worker_figures import measured
from ..stream_server import AsyncStreamConnectionServer
from ..succession.hot_restart import Succession
from ..workers.beside import Beside
from ..workers.settings import Measure, plainly_counted
from ..workers.supervisor import Supervisor
from .observing import metrics_server

__all__ = ["WorkersMetrics"]


class WorkersMetrics(Beside):
    """The endpoint that the options in `args` ask for, or none."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.measure: Measure = plainly_counted if args.metrics is None else measured
        """What workers do for it."""
        self.server: AsyncStreamConnectionServer[Any, Any] | None = None
        """Where it is served, once that is bound."""

    async def bind(self, stack: AsyncExitStack, succession: Succession) -> None:
        """Hold the address of the endpoint. Raises `OSError`. Cancel safety: as `Beside` has it."""
        self.server = await metrics_server(stack, succession, self._args)

    @asynccontextmanager
    async def serving(self, supervisor: Supervisor, listeners: HeldListeners) -> AsyncIterator[None]:
        """Answer while the context lasts. Cancel safety: nothing is left open."""
        if self.server is None:
            yield
            return
        from ..observing.metrics_endpoint import serve_metrics
        from ..observing.worker_metrics import WorkersCollector

        async with serve_metrics(self.server, WorkersCollector(supervisor, listeners)):
            yield

    def hand_over(self) -> None:
        """The successor's is asked from now on."""
        if self.server is not None:
            self.server.close()
