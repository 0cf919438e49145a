"""``aionet serve --workers N``: what one process says and does, for a supervisor and its workers."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from ..limits import ConnectionLimits
from ..workers.running import supervise
from ..workers.settings import WorkerSettings
from .arguments import Bound
from .serving import Announcer, explained, set_up_logging, succession_from
from .systemd_sockets import wanted_listeners

__all__ = ["run_workers_command"]


def run_workers_command(handler: str, addresses: Sequence[Bound], args: argparse.Namespace) -> int:
    """Serve ``module:handler`` at `addresses` from ``--workers`` processes until a signal."""
    set_up_logging(args)
    announcer = Announcer(as_json=args.json)

    async def serve() -> None:
        report = await supervise(
            lambda: _settings(handler, args),
            wanted_listeners(addresses),
            succession_from(args, announcer),
            workers=args.workers,
            shared_listener=args.shared_listener,
            drain_grace=args.drain_grace,
            start_timeout=args.start_timeout,
            on_listening=lambda addresses: announcer.listening(addresses, workers=args.workers),
            on_draining=announcer.draining,
            on_reload=lambda begins: announcer.reloading() if begins else announcer.reloaded(),
        )
        announcer.drained(report)

    with explained():
        asyncio.run(serve())
    return 0


def _settings(handler: str, args: argparse.Namespace) -> WorkerSettings:
    """Return what workers are told, at the start and at each reload."""
    return WorkerSettings(
        handler=handler,
        limits=ConnectionLimits(max_connections=args.max_connections),
        drain_grace=args.drain_grace,
        loop=args.loop,
        log_level=args.log_level,
    )
