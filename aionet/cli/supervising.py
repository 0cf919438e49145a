"""``aionet serve --workers N``: what one process says and does, for a supervisor and its workers.

Theory of operation
-------------------
The supervisor reads the command line, the environment and the configuration file again at each SIGHUP, and
the new workers get what stands there then: handler, limits, grace, loop, logs. What is the supervisor's own,
such as the addresses, that of metrics included, and the number of workers, takes a restart (SIGUSR2).
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import WorkerFailedError
from ..observing import connection_context
from ..open_files import raise_limit
from ..workers.running import supervise
from ..workers.settings import Measure, WorkerSettings
from .arguments import Bound, file_access_from, limits_from, preface_from
from .failing import CommandError
from .main import parse_again
from .observing import access_log, set_up_logging
from .serving import Announcer, ending_signals, explained, succession_from
from .standard_streams import release_standard_streams
from .systemd_sockets import wanted_listeners
from .tcp_options import tcp_options_from
from .tls_options import server_tls_from
from .workers_metrics import WorkersMetrics

__all__ = ["prepare_worker", "run_workers_command"]


def run_workers_command(addresses: Sequence[Bound], args: argparse.Namespace) -> int:
    """Serve at `addresses` from ``--workers`` processes until a signal."""
    access = file_access_from(args, addresses)
    raise_limit()
    set_up_logging(args)
    announcer = Announcer(as_json=args.json)
    first = [args]
    metrics = WorkersMetrics(args)

    def settings() -> WorkerSettings:
        return _settings(first.pop() if first else _read_again(), metrics.measure)

    async def serve() -> None:
        report = await supervise(
            settings,
            wanted_listeners(addresses, access),
            succession_from(args, announcer),
            workers=args.workers,
            shared_listener=args.shared_listener,
            drain_grace=args.drain_grace,
            start_timeout=args.start_timeout,
            worker_timeout=args.worker_timeout,
            signals=ending_signals(args),
            on_listening=lambda addresses: announcer.listening(
                addresses, metrics.server, workers=args.workers
            ),
            on_draining=announcer.draining,
            on_reload=lambda begins: announcer.reloading() if begins else announcer.reloaded(),
            beside=metrics,
        )
        announcer.drained(report)

    with explained():
        asyncio.run(serve())
    release_standard_streams()
    return 0


_PREPARED = ("log_level", "access_log", "access_log_file", "proxy_protocol")  # options, for a worker


def prepare_worker(**options: Any) -> Mapping[str, Any]:
    """Set up descriptors and logs of a worker; return further arguments of its spawner."""
    args = argparse.Namespace(**options)
    raise_limit()
    set_up_logging(args)
    return {"on_close": access_log(args), "context": connection_context, "preface": preface_from(args)}


def _read_again() -> argparse.Namespace:
    try:
        return parse_again(sys.argv[1:])
    except SystemExit as error:  # the parser has said what is wrong
        raise WorkerFailedError("the configuration has mistakes") from error


def _settings(args: argparse.Namespace, measure: Measure) -> WorkerSettings:
    """Return what workers are told."""
    try:
        limits, tls = limits_from(args), server_tls_from(args)
    except CommandError as error:
        raise WorkerFailedError(str(error)) from error
    module, path = args.handler
    return WorkerSettings(
        handler=f"{module}:{path}",
        limits=limits,
        options=tcp_options_from(args),
        tls=tls,
        prepare=functools.partial(prepare_worker, **{name: getattr(args, name) for name in _PREPARED}),
        measure=measure,
        drain_grace=args.drain_grace,
        loop=args.loop,
    )
