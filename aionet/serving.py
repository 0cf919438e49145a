"""`serve`: a whole server in one call."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .addresses import AddressLike, SocketAddress, UnixAddress, as_address
from .announcing import Log
from .draining import DrainReport
from .hanging_up import hang_up_signals, when_hung_up
from .limiting.limits import ConnectionLimits
from .process_signals import on_signals
from .spawner import ConnectionSpawner, ContextOf, Handler, OnClose, OnError
from .stream_server import AsyncStreamConnectionServer
from .tcp_connection_server import AsyncTcpConnectionServer
from .tls.server import ServerTls, TlsForServer
from .unix_connection_server import AsyncUnixConnectionServer

__all__ = ["listen", "serve", "serve_until_signal"]

_log = Log("aionet.server")

_LAST_CHANCE = 0.1  # seconds that handlers have after a second signal, before their connections are reset


async def serve(
    handler: Handler[Any],
    address: AddressLike | AsyncStreamConnectionServer[Any, Any],
    *,
    tls: TlsForServer | None = None,
    limits: ConnectionLimits | None = None,
    on_error: OnError[Any] | None = None,
    on_close: OnClose[Any] | None = None,
    preface: Handler[Any] | None = None,
    context: ContextOf[Any] | None = None,
    drain_grace: float = 30.0,
    signals: Iterable[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    on_listening: Callable[[AsyncStreamConnectionServer[Any, Any]], object] | None = None,
) -> DrainReport:
    """Serve `handler` at `address` until one of `signals` arrives, then drain; return how that went.

    A second signal aborts what is left. A listening socket that becomes unusable ends it, too, after a drain.
    `address` may be a server that listens already; it is closed at the end. With a `ServerTls` SIGHUP reads
    its files again (and drains, if a terminal has gone by it).

    Args:
        handler: a coroutine function that is given a socket; see `ConnectionSpawner`, also for `limits`,
            `on_error`, `on_close`, `preface` and `context`.
        tls: a `ServerTls`, or an `ssl.SSLContext` of a server: every connection begins with a TLS handshake.
        drain_grace: seconds that handlers have to finish after the signal.
        signals: empty to install none, as a thread other than the main one must. At a signal every `serve` of
            the loop that has it among its own drains.
        on_listening: called with the server once a signal would drain it; `server.address` tells where it is.

    Raises:
        ResolveError, OSError: the address cannot be bound.
        OSError: the listening socket became unusable, and the connections were drained.
        RuntimeError: signals were asked for outside of the main thread.
        TypeError, ValueError: bad arguments, before any I/O.

    Cancel safety: cancelled, it closes the server, cancels the handlers and waits for their end.
    """
    if not drain_grace >= 0:
        raise ValueError(f"drain_grace must be 0 or more seconds, not {drain_grace!r}")
    spawner: ConnectionSpawner[Any] = ConnectionSpawner(
        handler, limits=limits, on_error=on_error, on_close=on_close, preface=preface, context=context
    )
    if not isinstance(address, AsyncStreamConnectionServer):
        server = await listen(address, tls=tls)
    elif tls is None:
        server = address
    else:
        raise ValueError("tls is for the server that serve() makes; the one given has a tls of its own")

    def announce() -> None:
        _log.info("listening on %s", server.address)
        if on_listening is not None:
            on_listening(server)

    def announce_drain(grace: float) -> None:
        count = len(spawner.connections)
        _log.info("draining %d connections for up to %g s; a second signal ends that", count, grace)

    hung_up, signals = asyncio.Event(), tuple(signals)
    async with server:
        with on_signals(*_at_hang_up(server._tls if signals else None, hung_up.set)):
            return await serve_until_signal(
                spawner,
                (server,),
                drain_grace=drain_grace,
                signals=signals,
                on_listening=announce,
                on_draining=announce_drain,
                until=hung_up,
            )


def _at_hang_up(
    tls: TlsForServer | None, end: Callable[[], object]
) -> tuple[Sequence[signal.Signals], Callable[[], object]]:
    """Return the signals, if any, at which certificates are read again, and what to do then."""
    if not isinstance(tls, ServerTls):
        return (), end
    return hang_up_signals(), when_hung_up(end, tls.reload)


async def serve_until_signal(
    spawner: ConnectionSpawner[Any],
    servers: Sequence[AsyncStreamConnectionServer[Any, Any]],
    *,
    drain_grace: float,
    signals: Iterable[signal.Signals],
    on_listening: Callable[[], object],
    on_draining: Callable[[float], object],
    on_drained: Callable[[DrainReport], object] = lambda report: None,
    until: asyncio.Event | None = None,
) -> DrainReport:
    """Let `spawner` serve until one of `signals`, then drain it; a further signal aborts what is left.

    `on_listening` is called once the signals are handled, `on_draining` with the seconds of grace at each,
    and `on_drained` at the end. When `until` is set, or a listening socket becomes unusable, it drains, too,
    as at a first signal.

    Raises what `ConnectionSpawner.serve` raises, an unusable socket's error after the drain, and
    `RuntimeError` as `serve`. Cancel safety: as there.
    """
    drains: list[asyncio.Task[DrainReport]] = []

    def on_signal() -> None:
        again = bool(drains)
        grace = 0.0 if again else drain_grace
        for server in servers:  # now, and not a turn later: whoever is told of the drain must not get in
            server.close()
        drain = spawner.drain(grace, hard=_LAST_CHANCE) if again else spawner.drain(grace)
        drains.append(asyncio.get_running_loop().create_task(drain))
        on_draining(grace)  # last: it may fail, and nothing depends on it

    def drain_unless_draining() -> None:
        if not drains:
            on_signal()

    def on_failure(error: OSError) -> None:
        drain_unless_draining()
        _log.error("%s; draining", error.strerror)

    async def drain_when_set(event: asyncio.Event) -> None:
        await event.wait()
        drain_unless_draining()

    async def drained() -> DrainReport:
        if not drains:  # the servers were closed by other code
            return await spawner.drain(drain_grace)
        return (await asyncio.gather(*drains))[0]

    with on_signals(signals, on_signal):
        on_listening()
        watching = None if until is None else asyncio.create_task(drain_when_set(until))
        try:
            await spawner.serve(*servers, on_failure=on_failure)
        except OSError:
            if drains:
                on_drained(await drained())
            raise
        finally:
            if watching is not None:
                watching.cancel()
        report = await drained()
        on_drained(report)
        return report


async def listen(
    address: AddressLike, *, tls: TlsForServer | None = None
) -> AsyncStreamConnectionServer[Any, Any]:
    """Return a server of the kind that `address` asks for: TCP or Unix.

    Raises `ResolveError`, `OSError`, `TypeError` or `ValueError`. Cancel safety: nothing is left open.
    """
    found: SocketAddress | UnixAddress = as_address(address)
    if isinstance(found, UnixAddress):
        return AsyncUnixConnectionServer(found, tls=tls)
    return await AsyncTcpConnectionServer.listen(found, tls=tls)
