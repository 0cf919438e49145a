"""A worker: a process that serves, for as long as its supervisor is there.

Theory of operation
-------------------
It is started with its settings on standard input, listening sockets among its descriptors, and one end of a
channel to its supervisor. It says ``ready`` when a connection could be served; it takes the first one when
the supervisor says ``go``, and tells its counters once a second, if they changed. ``drain`` ends it, and so
does the end of the channel: a worker whose supervisor was killed must not hold the addresses for ever. Where
a timeout is set for workers that hang, it gives signs of life, too (`hanging.py`).

*Its own sockets and those of others.* It inherits all listening sockets, and accepts from those that are its
own. ``take`` makes it accept from one of another worker's, too, which has ended or drains, and ``leave`` ends
that. Nothing is sent for this but a number, so it works also where no descriptor is left.

*Signals* are the supervisor's business: Ctrl-C reaches the whole group of a terminal, and a worker that
drained by itself would take the decision out of its hands. SIGTERM alone drains a single worker; another one
takes its place at once. A second order to drain ends the grace, but only if it comes from where the first one
came from: a SIGTERM to the whole group reaches a worker twice, by itself and through the supervisor.
"""

from __future__ import annotations

import asyncio
import dataclasses
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any

from ..announcing import Log
from ..draining import DrainReport, leave_behind
from ..held_listeners import server_on
from ..listening import ListeningSocket
from ..message_channel import MessageChannel
from ..process_signals import on_signals
from ..running import loop_factory
from ..spawner import ConnectionSpawner, Handler
from ..stream_server import AsyncStreamConnectionServer
from .counters import Counts
from .settings import WorkerSettings, load_handler, unpacked

__all__ = ["main"]

_log = Log("aionet.workers", complete=True)

_REPORT_EVERY = 1.0  # seconds
_URGENT = 0.5  # seconds for handlers to end after a second order
_LEFT_TO_SUPERVISOR = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(channel: int, listeners: list[int], own: list[int]) -> None:
    """Serve as standard input says, until `channel` says otherwise.

    `listeners` are the descriptors of all listening sockets, `own` the indexes of those to accept from.
    """
    for number in _LEFT_TO_SUPERVISOR:  # while the handler is imported, too
        signal.signal(number, lambda *_: None)
    for fd in (channel, *listeners):
        os.set_inheritable(fd, False)
    settings = unpacked(sys.stdin.buffer)
    _leave_standard_input()
    if settings.log_level is not None:
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s",
        )
    if settings.beat is not None and sys.stderr is not None:
        faulthandler.enable()  # it tells where we hang
    more = {} if settings.prepare is None else settings.prepare()
    handler = load_handler(settings)
    sockets = [_listening_socket(fd) for fd in listeners]
    with asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner:
        worker = _Worker(settings, handler, more, MessageChannel(socket.socket(fileno=channel)))
        runner.run(worker.run(sockets, own))


def _listening_socket(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    return ListeningSocket(sock.family, sock.detach())


def _leave_standard_input() -> None:
    """Have the end of the settings' pipe be nobody's input, neither the handlers' nor their children's."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


class _Worker:
    def __init__(
        self,
        settings: WorkerSettings,
        handler: Handler[Any],
        more: Mapping[str, Any],
        channel: MessageChannel,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._spawner: ConnectionSpawner[Any] = ConnectionSpawner(handler, limits=settings.limits, **more)
        self._servers: list[AsyncStreamConnectionServer[Any, Any]] = []
        self._sockets: list[socket.socket] = []
        self._taken: set[int] = set()  # indexes of sockets
        self._drains: list[asyncio.Task[DrainReport]] = []
        self._ordered_by: set[str] = set()  # from where an order to drain has come
        self._go = asyncio.Event()
        self._status = 0  # of this process

    async def run(self, sockets: list[socket.socket], own: list[int]) -> None:
        tls, options = self._settings.tls, self._settings.options
        self._servers = [server_on(sockets[index], tls, options) for index in own]
        self._sockets = sockets
        with ExitStack() as stack:
            stack.callback(self._channel.close)
            measure = stack.enter_context(self._settings.measure(self._spawner))
            stack.enter_context(on_signals(_LEFT_TO_SUPERVISOR, lambda: None))
            stack.enter_context(on_signals([signal.SIGTERM], self._drain_by_signal))
            self._tell({"ready": True})
            listening = asyncio.create_task(self._listen())
            telling = asyncio.create_task(self._tell_figures(measure))
            beating = asyncio.create_task(self._beat())
            await self._go.wait()
            if not self._drains:
                await self._serve()
            reports = await asyncio.gather(*self._drains)
            for task in (telling, beating, listening):
                task.cancel()
            await asyncio.wait([telling, beating, listening])
            self._tell({**_figures(*await measure()), "report": dataclasses.asdict(reports[0])})
        await leave_behind(self._spawner.connections, _log.warning, status=self._status)
        if self._status:
            sys.exit(self._status)

    async def _serve(self) -> None:
        """Serve until it is drained; also by a listening socket that becomes unusable."""

        def on_failure(error: OSError) -> None:
            if not self._drains:
                self._drain(self._settings.drain_grace, "failure")
            self._tell({"draining": True})
            _log.error("%s; draining", error.strerror)

        try:
            await self._spawner.serve(*self._servers, on_failure=on_failure)
        except OSError:
            if not self._drains:
                raise
            self._status = 1

    async def _listen(self) -> None:
        """Do what the supervisor says; drain when it says no more."""
        while True:
            try:
                message = await self._channel.receive()
            except ConnectionError:
                message = None
            if message is None:
                _log.warning("the supervisor has gone: draining for up to %g s", self._settings.drain_grace)
                self._drain(self._settings.drain_grace, "supervisor")
                return
            if "drain" in message:
                self._drain(float(message["drain"]), "supervisor")
                self._tell({"draining": True})
            if "go" in message:
                self._go.set()
            if "take" in message:
                self._take(message["take"])
            if "leave" in message:
                self._leave(message["leave"])

    def _take(self, index: int) -> None:
        """Accept from one of the sockets of another worker, too."""
        sock = self._sockets[index]
        for server in self._servers:
            if not server.closed and server.raw_sockets[0].getsockname() == sock.getsockname():
                server._acceptor.add(sock, lambda error: _log.error("%s", error.strerror))
                self._taken.add(index)
                return

    def _leave(self, index: int) -> None:
        if index in self._taken:
            self._taken.remove(index)
            for server in self._servers:
                server._acceptor.remove(self._sockets[index])

    def _drain_by_signal(self) -> None:
        self._drain(0.0 if "signal" in self._ordered_by else self._settings.drain_grace, "signal")
        self._tell({"draining": True})  # another worker takes over what this one accepted from

    def _drain(self, grace: float, ordered_by: str) -> None:
        for server in self._servers:  # now, and not a turn later: whoever is told of it must not get in
            server.close()
        for sock in self._sockets:
            sock.close()
        hard = {"hard": _URGENT} if ordered_by in self._ordered_by else {}
        self._ordered_by.add(ordered_by)
        self._drains.append(asyncio.create_task(self._spawner.drain(grace, **hard)))
        self._go.set()  # to the end, if it never began

    async def _beat(self) -> None:
        while self._settings.beat is not None:
            await asyncio.sleep(self._settings.beat)
            self._tell({"alive": True})

    async def _tell_figures(self, measure: Callable[[], Awaitable[tuple[Counts, Counts]]]) -> None:
        told: dict[str, Any] = {}
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            figures = _figures(*await measure())
            if figures != told:
                self._tell(figures)
                told = figures

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._channel.send(message)
        except OSError:  # it has gone, which `_listen` hears of, or does not read: it will be told next time
            pass


def _figures(counts: Counts, gauges: Counts) -> dict[str, Any]:
    """Return the message that tells them."""
    return {"stats": counts, "gauges": gauges}
