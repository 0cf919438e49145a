"""What every command that serves does: bind, announce, serve, and drain at a signal.

Theory of operation
-------------------
The announcement comes when all addresses are bound and the signals are handled: whoever waits for that line
may connect, and may send a signal. People read it on standard error; with ``--json`` programs read it, and
every other event, as one line each on standard output, flushed at once. When nobody reads there any more, the
server goes on, and tells people instead.

The first SIGINT or SIGTERM starts the drain, the next one ends its grace.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

from ..draining import DrainReport
from ..observing import connection_context
from ..running import loop_factory
from ..serving import listen, serve_until_signal
from ..spawner import ConnectionSpawner, Handler
from ..stream_server import AsyncStreamConnectionServer
from ..tcp_connection_server import AsyncTcpConnectionServer
from .arguments import Address, limits_from
from .failing import CommandError, explain, say
from .observing import access_log, metrics_of, set_up_logging
from .standard_streams import flush_standard_output, silence_standard_output

__all__ = ["Announcer", "run_server"]

_Server = AsyncStreamConnectionServer[Any, Any]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAST_CHANCE = 0.5  # seconds for handlers to end whose connection was taken away


def run_server(handler: Handler[Any], addresses: Sequence[Address], args: argparse.Namespace) -> int:
    """Serve `handler` at `addresses` until a signal, as the server arguments in `args` say."""
    set_up_logging(args)
    announcer = Announcer(as_json=args.json)
    try:
        with asyncio.Runner(loop_factory=loop_factory(args.loop)) as runner:
            runner.run(_serve(handler, addresses, args, announcer))
    except OSError as error:
        raise CommandError(explain(error)) from error
    return 0


async def _serve(
    handler: Handler[Any], addresses: Sequence[Address], args: argparse.Namespace, announcer: Announcer
) -> None:
    spawner: ConnectionSpawner[Any] = ConnectionSpawner(
        handler, limits=limits_from(args), on_close=access_log(args), context=connection_context
    )
    async with AsyncExitStack() as stack:
        metrics = await stack.enter_async_context(metrics_of(spawner, args))
        servers = [await stack.enter_async_context(await listen(address)) for address in addresses]
        report = await serve_until_signal(
            spawner,
            servers,
            drain_grace=args.drain_grace,
            signals=_SIGNALS,
            on_listening=lambda: announcer.listening(servers, metrics),
            on_draining=lambda grace: announcer.draining(len(spawner.connections), grace),
        )
        announcer.drained(report)
    await _leave_behind([connection.task for connection in spawner.connections])


async def _leave_behind(tasks: Collection[asyncio.Task[None]]) -> None:
    """End the process where handlers ignore even the loss of their connection.

    Closing the loop would cancel them once more and then wait for them, for ever.
    """
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=_LAST_CHANCE)
        if left:
            say(f"{len(left)} handlers ignored their cancellation and are left behind")
            flush_standard_output()
            os._exit(0)


class Announcer:
    """Tells what a server does: people on standard error, programs on standard output."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def listening(self, servers: Sequence[_Server], metrics: str | None = None) -> None:
        """All is bound; metrics, if any, are served at `metrics`."""
        addresses = [str(address) for server in servers for address in _addresses_of(server)]
        self._tell(
            f"listening on {', '.join(addresses)}" + (f"; metrics at {metrics}" if metrics else ""),
            "listening",
            addresses=addresses,
            **({"metrics": metrics} if metrics else {}),
        )

    def draining(self, connections: int, grace: float) -> None:
        """A signal came."""
        told = f"draining {connections} connections for up to {grace:g} s; another signal ends that"
        self._tell(told if grace else "draining at once", "draining", connections=connections, grace=grace)

    def drained(self, report: DrainReport) -> None:
        """All is over."""
        self._tell(f"drained: {report}", "drained", **asdict(report))

    def event(self, name: str, **facts: object) -> None:
        """Something that only programs are told."""
        if self._as_json and sys.stdout is not None:
            try:
                print(json.dumps({"event": name, **facts}), flush=True)
            except BrokenPipeError:
                self._as_json = False
                silence_standard_output()

    def _tell(self, text: str, name: str, **facts: object) -> None:
        if self._as_json:
            self.event(name, **facts)
        else:
            say(text)


def _addresses_of(server: _Server) -> tuple[Address, ...]:
    return server.addresses if isinstance(server, AsyncTcpConnectionServer) else (server.address,)
