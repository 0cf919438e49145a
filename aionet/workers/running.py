"""`run_workers`: a whole server of several processes in one call.

Theory of operation
-------------------
The calling process becomes the supervisor, on an event loop of its own, and returns when all is over. Its
signals are those of nginx: SIGTERM, SIGINT and SIGQUIT drain, a second one ends at once; SIGHUP replaces the
workers, with their code and configuration; SIGUSR2 replaces the whole program (`succession/`). SIGUSR1, which
opens nginx's logs again, does nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

from ..addresses import AddressLike, SocketAddress, UnixAddress, as_address
from ..announcing import report
from ..draining import DrainReport
from ..early_signals import early_signals_kept, send_early_signals
from ..errors import WorkerFailedError
from ..hanging_up import hang_up_signals, when_hung_up
from ..held_listeners import HeldListeners, WantedListener
from ..limiting.limits import ConnectionLimits
from ..process_signals import on_signals
from ..running import LoopName
from ..spawner import Handler
from ..succession.hot_restart import Succession
from ..tls.server import ServerTls
from .beside import Beside
from .settings import WorkerSettings, in_worker
from .supervisor import Supervisor

__all__ = ["available_processors", "run_workers", "supervise"]


def available_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_workers(
    handler: Handler[Any] | str,
    address: AddressLike,
    *,
    workers: int | None = None,
    shared_listener: bool = False,
    limits: ConnectionLimits | None = None,
    tls: ServerTls | None = None,
    drain_grace: float = 30.0,
    start_timeout: float = 30.0,
    worker_timeout: float | None = None,
    loop: LoopName = "aionet",
    log_level: str | None = None,
    control: str | os.PathLike[str] | None = None,
    on_listening: Callable[[list[SocketAddress | UnixAddress]], object] | None = None,
) -> DrainReport:
    """Serve `handler` at `address` from several processes until a signal; return how they drained.

    It blocks, and belongs under ``if __name__ == "__main__":``, because workers import the handler's module.
    SIGTERM, SIGINT and SIGQUIT drain, a second one ends the grace. SIGHUP replaces the workers, SIGUSR2 the
    whole program by a new run of the same command. SIGUSR1 does nothing.

    Args:
        handler: a coroutine function of a module, or its name, as ``"package.module:handler"``.
        address: TCP or Unix; port 0 is the same free port for all workers.
        workers: how many; by default one for each processor.
        shared_listener: all accept from one queue, in place of one queue each (SO_REUSEPORT, socket(7)).
        limits: of each worker.
        tls: every connection begins with a TLS handshake; each worker looks after the files for itself.
        drain_grace: seconds that handlers have to finish.
        start_timeout: seconds in which a worker, or a successor, must become ready.
        worker_timeout: seconds that a worker's event loop may hang before it is ended and replaced; by
            default for ever. A handler that blocks for so long takes its worker's other connections with it.
        loop: the workers' event loop.
        log_level: have the workers log to standard error, from this level on.
        control: the path of a socket at which ``aionet serve --replace`` finds this program.
        on_listening: called with the addresses when all workers are ready.

    Raises:
        ResolveError, OSError: the address cannot be bound.
        WorkerFailedError: workers cannot be started.
        SuccessionError: started as a successor, but not wanted any more.
        RuntimeError: called in a worker, beside a running loop, or outside of the main thread.
        TypeError, ValueError: bad arguments, before any I/O, or a handler that has no importable name.
    """
    if in_worker():
        raise RuntimeError('run_workers() was called by a worker: put it under if __name__ == "__main__":')
    count = available_processors() if workers is None else workers
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"workers must be a number of processes from 1 on, not {workers!r}")
    for name, seconds in (("drain_grace", drain_grace), ("start_timeout", start_timeout)):
        if not seconds >= 0:
            raise ValueError(f"{name} must be 0 or more seconds, not {seconds!r}")
    if worker_timeout is not None and not worker_timeout > 0:
        raise ValueError(f"worker_timeout must be more than 0 seconds, not {worker_timeout!r}")
    if tls is not None and not isinstance(tls, ServerTls):
        raise TypeError(f"tls must be a ServerTls, which workers load for themselves, not {tls!r}")
    settings = WorkerSettings(
        handler=handler, limits=limits, tls=tls, drain_grace=drain_grace, loop=loop, log_level=log_level
    )
    succession = Succession(control=control, timeout=start_timeout)
    loaded = iter([True])  # those of the first workers were read a moment ago

    def current_settings() -> WorkerSettings:
        if tls is not None and not next(loaded, False) and not tls.reload():
            raise WorkerFailedError("the certificates cannot be used")
        return settings

    with early_signals_kept():
        return asyncio.run(
            supervise(
                current_settings,
                [as_address(address)],
                succession,
                workers=count,
                shared_listener=shared_listener,
                drain_grace=drain_grace,
                start_timeout=start_timeout,
                worker_timeout=worker_timeout,
                on_listening=on_listening or (lambda addresses: None),
            )
        )


async def supervise(
    settings: Callable[[], WorkerSettings],
    wanted: Iterable[WantedListener],
    succession: Succession,
    *,
    workers: int,
    shared_listener: bool,
    drain_grace: float,
    start_timeout: float,
    worker_timeout: float | None,
    on_listening: Callable[[list[SocketAddress | UnixAddress]], object],
    signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT),
    on_draining: Callable[[int, float], object] = lambda connections, grace: None,
    on_reload: Callable[[bool], object] = lambda begins: None,
    beside: Beside | None = None,
) -> DrainReport:
    """Run a supervisor and its workers until one of `signals`, or until a successor has taken over.

    `on_draining` is called with the number of connections and the seconds of grace, at each signal;
    `on_reload` when a reload begins, and when it has ended. `beside` is what this process serves itself. The
    rest is as with `run_workers`.

    Cancel safety: cancelled, it ends the workers.
    """
    beside = beside or Beside()
    asyncio.get_running_loop().set_exception_handler(report)  # the loop is this function's own
    async with AsyncExitStack() as stack:
        stack.push_async_callback(succession.aclose)
        taken = await succession.take_over()
        await beside.bind(stack, succession)
        shares = 1 if shared_listener else workers
        held = stack.enter_context(await HeldListeners.open(wanted, shares=shares, taken=taken))
        supervisor = Supervisor(
            settings,
            held,
            directory=succession.directory,
            workers=workers,
            drain_grace=drain_grace,
            start_timeout=start_timeout,
            worker_timeout=worker_timeout,
        )
        reloads: set[asyncio.Task[None]] = set()

        def drain() -> None:
            grace = 0.0 if supervisor.draining else drain_grace
            succession.close()
            held.close()
            if succession.handed_over:
                beside.hand_over()
            active = int(supervisor.counters.total().get("active", 0))
            supervisor.drain(grace, lambda: on_draining(active, grace))

        async def reload() -> None:
            on_reload(True)
            await supervisor.reload()
            on_reload(False)

        def begin_reload() -> None:
            reloads.add(task := asyncio.create_task(reload()))
            task.add_done_callback(reloads.discard)

        hang_up = when_hung_up(drain, begin_reload)

        def restart() -> None:
            on_reload(True)
            succession.restart(lambda: on_reload(False))

        stack.enter_context(on_signals(signals, drain))
        stack.enter_context(on_signals([signal.SIGUSR1], lambda: None))
        stack.push_async_callback(supervisor.aclose)
        try:
            await supervisor.start()
        except WorkerFailedError:
            if not supervisor.draining:  # else a signal has ended them
                raise
            return await supervisor.run()
        await succession.begin(held, supervisor.status, drain)
        await stack.enter_async_context(beside.serving(supervisor, held))
        stack.enter_context(on_signals(hang_up_signals(), hang_up))
        stack.enter_context(on_signals([signal.SIGUSR2], restart))
        send_early_signals()
        supervisor.go()
        on_listening(held.addresses)
        return await supervisor.run()
