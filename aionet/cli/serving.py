"""What every command that serves does: bind, announce, serve, and drain at a signal.

Theory of operation
-------------------
The announcement comes when all addresses are bound and the signals are handled: whoever waits for that line
may connect, and may send a signal. People read it on standard error; with ``--json`` programs read it, and
every other event, as one line each on standard output, flushed at once.

Announcing comes after acting, and its failures change nothing, the exit code included. A reader of events
that has gone is replaced by people; where an event cannot be written for another reason, a full disk for
instance, that is said once on standard error, and the event is lost.

The first SIGINT, SIGTERM or SIGQUIT starts the drain, the next one ends its grace. SIGUSR2 and SIGHUP restart
the program without refusing anybody (`succession/`): a process without workers has no other way to read its
configuration and its code again. SIGUSR1, at which other servers open their logs again, does nothing: a log
that was moved is opened again by itself. Under ``--reload`` the parent handles all but SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from ..adapters.systemd import Notifier
from ..announcing import say
from ..close_reason import CloseReason
from ..connection import Connection
from ..draining import DrainReport, leave_behind
from ..early_signals import early_signals_kept, send_early_signals
from ..errors import SuccessionError, WorkerFailedError
from ..hanging_up import hang_up_signals, when_hung_up
from ..held_listeners import HeldListeners, WantedListener, server_on
from ..observing import connection_context
from ..open_files import raise_limit
from ..process_signals import on_signals
from ..running import loop_factory
from ..serving import serve_until_signal
from ..spawner import ConnectionSpawner, Handler, OnClose
from ..stream_server import AsyncStreamConnectionServer
from ..succession.hot_restart import Succession
from ..tls.server import ServerTls
from ..working_directory import WorkingDirectory
from .arguments import Address, Bound, file_access_from, limits_from, preface_from
from .failing import CommandError, complain, explain, explain_any
from .observing import access_log, metrics_of, metrics_server, set_up_logging
from .standard_streams import release_standard_streams, silence_standard_output
from .systemd_sockets import wanted_listeners
from .tcp_options import tcp_options_from
from .tls_options import server_tls_from

__all__ = ["STARTED_IN", "Announcer", "ending_signals", "explained", "run_server", "succession_from"]

_Server = AsyncStreamConnectionServer[Any, Any]

STARTED_IN = WorkingDirectory.now()
"""The working directory, before a user's module was imported, which may leave it."""


def run_server(
    handler: Handler[Any],
    addresses: Sequence[Bound],
    args: argparse.Namespace,
    announcer: Announcer | None = None,
    on_close: OnClose[Any] | None = None,
    on_bound: Callable[[Sequence[Address]], object] = lambda addresses: None,
) -> int:
    """Serve `handler` at `addresses` until a signal, as the server arguments in `args` say.

    `announcer` is the one that the handler has, if it has one; `on_close` is called for each connection that
    ends, before the access log; `on_bound` with the addresses, before anything is accepted, and may raise
    `CommandError`.
    """
    tls = server_tls_from(args)
    access = file_access_from(args, addresses)
    raise_limit()
    set_up_logging(args)
    announcer = announcer or Announcer(as_json=args.json)
    with explained(), early_signals_kept(), asyncio.Runner(loop_factory=loop_factory(args.loop)) as runner:
        runner.run(
            _serve(handler, wanted_listeners(addresses, access), tls, args, announcer, on_close, on_bound)
        )
    release_standard_streams()
    return 0


def ending_signals(args: argparse.Namespace) -> tuple[signal.Signals, ...]:
    """Return the signals at which a server drains."""
    if getattr(args, "reload", False):  # it is the child of `reloading`, which passes on what comes
        return (signal.SIGTERM,)
    return signal.SIGINT, signal.SIGTERM, signal.SIGQUIT


@contextmanager
def explained() -> Iterator[None]:
    """Make one line of what can go wrong while a server is set up."""
    try:
        yield
    except OSError as error:
        raise CommandError(explain(error)) from error
    except (SuccessionError, WorkerFailedError) as error:
        raise CommandError(str(error)) from error


def succession_from(args: argparse.Namespace, announcer: Announcer) -> Succession:
    """Return what ``--control`` and ``--replace`` ask for; commands without them can still be restarted."""
    try:
        return Succession(
            control=getattr(args, "control", None),
            replace=getattr(args, "replace", False),
            timeout=getattr(args, "start_timeout", 30.0),
            on_handed_over=announcer.handed_over,
            directory=STARTED_IN,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error


async def _serve(
    handler: Handler[Any],
    wanted: Sequence[WantedListener],
    tls: ServerTls | None,
    args: argparse.Namespace,
    announcer: Announcer,
    on_close: OnClose[Any] | None,
    on_bound: Callable[[Sequence[Address]], object],
) -> None:
    spawner: ConnectionSpawner[Any] = ConnectionSpawner(
        handler,
        limits=limits_from(args),
        on_close=_both(on_close, access_log(args)),
        context=connection_context,
        preface=preface_from(args),
    )
    succession = succession_from(args, announcer)
    over = asyncio.Event()
    failure: OSError | None = None
    async with AsyncExitStack() as stack:
        stack.push_async_callback(succession.aclose)
        taken = await succession.take_over()
        metrics = await metrics_server(stack, succession, args)
        held = stack.enter_context(await HeldListeners.open(wanted, taken=taken))
        on_bound(held.addresses)
        options = tcp_options_from(args)
        servers = [
            await stack.enter_async_context(server_on(sock, tls, options)) for sock in held.for_worker()
        ]

        def end(grace: float) -> None:
            succession.close()
            held.close()
            if metrics is not None and succession.handed_over:  # the successor's are asked for from now on
                metrics.close()
            announcer.draining(len(spawner.connections), grace)

        await succession.begin(held, lambda: _status(spawner), over.set)
        if metrics is not None:
            await stack.enter_async_context(metrics_of(spawner, metrics))
        _restart_at_signals(stack, succession, over, announcer)
        try:
            await serve_until_signal(
                spawner,
                servers,
                drain_grace=args.drain_grace,
                signals=ending_signals(args),
                on_listening=lambda: announcer.listening(held.addresses, metrics),
                on_draining=end,
                on_drained=announcer.drained,
                until=over,
            )
        except OSError as error:
            failure = error
    await leave_behind(spawner.connections, _last_words, status=1 if failure else 0)
    if failure is not None:
        raise failure


def _restart_at_signals(
    stack: AsyncExitStack, succession: Succession, over: asyncio.Event, announcer: Announcer
) -> None:
    """Restart at SIGUSR2, and at a SIGHUP that is not the end of the terminal; else that is the end."""

    def restart() -> None:
        announcer.reloading()
        succession.restart(announcer.reloaded)

    stack.enter_context(on_signals([signal.SIGUSR1], lambda: None))
    stack.enter_context(on_signals([signal.SIGUSR2], restart))
    stack.enter_context(on_signals(hang_up_signals(), when_hung_up(over.set, restart)))
    send_early_signals()


def _both(first: OnClose[Any] | None, second: OnClose[Any] | None) -> OnClose[Any] | None:
    if first is None or second is None:
        return first or second

    def both(connection: Connection[Any], reason: CloseReason) -> None:
        try:
            first(connection, reason)
        finally:
            second(connection, reason)

    return both


def _status(spawner: ConnectionSpawner[Any]) -> dict[str, Any]:
    """Return what is told at the control socket."""
    return {"counters": spawner.stats.counters()}


def _last_words(text: str) -> None:
    say(text)
    release_standard_streams()


class Announcer:
    """Announces what a server does: to people on standard error, to programs on standard output.

    After construction its methods raise nothing.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json and sys.stdout is not None
        self._complained = False
        self._handed_over = False
        try:
            self._systemd = Notifier.from_environment()
        except ValueError as error:
            raise CommandError(str(error)) from error

    def listening(
        self, addresses: Sequence[Address], metrics: _Server | None = None, **facts: object
    ) -> None:
        """All is bound, and a signal would be heard; metrics, if any, are served by `metrics`."""
        texts = [str(address) for address in addresses]
        told = f"listening on {', '.join(texts)}"
        self._systemd.ready(told)
        self._systemd.watch()
        if metrics is not None:
            told += f"; metrics at {metrics.address}"
            facts["metrics"] = str(metrics.address)
        self._tell(told, "listening", addresses=texts, pid=os.getpid(), **facts)

    def reloading(self) -> None:
        """A restart or a reload begins."""
        self._systemd.reloading()

    def reloaded(self) -> None:
        """It is over, whatever came of it."""
        if not self._handed_over:
            self._systemd.ready()

    def handed_over(self, pid: int) -> None:
        """Process `pid` serves from now on."""
        self._handed_over = True
        self._systemd.notify(f"MAINPID={pid}", "READY=1")
        self._systemd.stop_watching()
        self.event("handed over", pid=os.getpid(), to=pid)

    def draining(self, connections: int, grace: float) -> None:
        """A signal came, or a successor."""
        if not self._handed_over:  # to systemd, nothing ends then
            self._systemd.stopping(f"draining {connections} connections")
        told = f"draining {connections} connections for up to {grace:g} s; another signal ends that"
        self._tell(told if grace else "draining at once", "draining", connections=connections, grace=grace)

    def drained(self, report: DrainReport) -> None:
        """All is over."""
        self._systemd.stop_watching()
        self._tell(f"drained: {report}", "drained", **asdict(report))

    def event(self, name: str, **facts: object) -> None:
        """Something that is for programs only."""
        if not self._as_json:
            return
        try:
            # One write for the line and its end: a predecessor and its successor share this output.
            sys.stdout.write(json.dumps({"event": name, **facts}) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            self._as_json = False
            silence_standard_output()
        except Exception as error:  # a full disk, say; or the user's module has closed it
            if not self._complained:
                self._complained = True
                complain(f"cannot write events to standard output: {explain_any(error)}")

    def _tell(self, text: str, name: str, **facts: object) -> None:
        if self._as_json:
            self.event(name, **facts)
        else:
            say(text)
