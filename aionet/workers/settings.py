"""What a worker is told: the handler and how to serve it, in a form that reaches a fresh interpreter.

Theory of operation
-------------------
Workers are new interpreters, not forks: a fork of a process with an event loop, threads or a compiled reactor
takes over their state but not their threads, and a reload must see the new code anyway. So everything goes by
name, as with `multiprocessing`'s "spawn": settings are pickled, a pickled function is the name of its module
and its own, and the worker imports it. A handler may also be given as the text ``module:handler``.

A function of the main script is in ``__main__``, which the worker does not have. If the pickle refers to it,
the worker first runs the script under another name, which is why ``run_workers()`` belongs under
``if __name__ == "__main__":``. Without that it is called again in the worker, and refuses (`in_worker`).
"""

from __future__ import annotations

import importlib
import io
import pickle
import runpy
import sys
import types
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

from ..limiting.limits import ConnectionLimits
from ..options import TcpOptions
from ..running import LoopName
from ..spawner import ConnectionSpawner, Handler
from ..tls.server import ServerTls
from ..working_directory import WorkingDirectory
from .counters import Counts

__all__ = ["Measure", "WorkerSettings", "in_worker", "load_handler", "packed", "plainly_counted", "unpacked"]

_WORKER_MAIN = "__aionet_worker__"  # what __name__ is in the main script while a worker runs it

_in_worker = False

Measure: TypeAlias = Callable[
    [ConnectionSpawner[Any]], AbstractContextManager[Callable[[], Awaitable[tuple[Counts, Counts]]]]
]
"""Makes a context, for the loop of a spawner, of a coroutine function that returns counts and gauges."""


@contextmanager
def plainly_counted(
    spawner: ConnectionSpawner[Any],
) -> Iterator[Callable[[], Awaitable[tuple[Counts, Counts]]]]:
    """Measure nothing but what `spawner` counts anyway."""

    async def measure() -> tuple[Counts, Counts]:
        return spawner.stats.counters(), {}

    yield measure


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How every worker serves."""

    handler: Handler[Any] | str
    limits: ConnectionLimits | None = None
    tls: ServerTls | None = None
    """Loaded by each worker for itself."""
    options: TcpOptions | None = None
    """Of accepted TCP connections."""
    prepare: Callable[[], Mapping[str, Any]] | None = None
    """Called in the worker before anything else; returns further arguments of its `ConnectionSpawner`."""
    measure: Measure = plainly_counted
    """What the supervisor is told of the worker's spawner."""
    drain_grace: float = 30.0
    """Seconds, where a worker drains of its own accord: its supervisor has gone."""
    beat: float | None = None
    """Seconds between signs of life of its event loop; by default it gives none."""
    loop: LoopName = "aionet"
    log_level: str | None = None
    """If given, logging is set up, to standard error."""


def packed(settings: WorkerSettings, directory: WorkingDirectory) -> bytes:
    """Return `settings` for `unpacked`, in a process that is started in `directory`.

    Raises `TypeError` if something in them cannot be found by name.
    """
    try:
        content = pickle.dumps(settings)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"workers import the handler by its name, so it must be a function of a module: {error}"
        ) from error
    main = _main_program(directory) if b"__main__" in content else None
    return pickle.dumps(([*map(directory.renamed, sys.path)], main)) + content


def unpacked(stream: IO[bytes]) -> WorkerSettings:
    """Read settings from `stream`, and import what they need. Raises what the imports raise."""
    global _in_worker
    _in_worker = True
    sys.path[:], main = pickle.load(stream)
    if main is not None:
        _load_main_program(*main)
    settings: WorkerSettings = pickle.load(io.BytesIO(stream.read()))
    return settings


def in_worker() -> bool:
    """Whether this process is a worker."""
    return _in_worker


def load_handler(settings: WorkerSettings) -> Handler[Any]:
    """Return the handler itself. Raises `ImportError`, `AttributeError`, and what its module raises."""
    if not isinstance(settings.handler, str):
        return settings.handler
    module, _, path = settings.handler.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    handler: Handler[Any] = found
    return handler


def _main_program(directory: WorkingDirectory) -> tuple[str, str]:
    """Return how to run the main script again: by the name of its module, or by its file."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return "module", spec.name
    file = getattr(main, "__file__", None)
    if file is None:
        raise TypeError("the handler was typed in, and workers cannot import it: put it into a module")
    return "file", directory.renamed(file)


def _load_main_program(kind: str, name: str) -> None:
    module = types.ModuleType(_WORKER_MAIN)
    run = runpy.run_module if kind == "module" else runpy.run_path
    module.__dict__.update(run(name, run_name=_WORKER_MAIN))
    sys.modules["__main__"] = sys.modules[_WORKER_MAIN] = module
