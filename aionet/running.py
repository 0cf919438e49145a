"""Running a program on aionet's engine: an event loop, a way to run, a factory of tasks.

Theory of operation
-------------------
None of this is needed: sockets run on any event loop, in any task. It is for the last part of speed, on the
compiled engine: a loop that waits for its own descriptors and for our sockets with one system call
(`native/selector.py`), and tasks whose steps the reactor makes itself while they wait for our sockets
(`native/driving.c`). Every `asyncio.Task` is one of these; the factory is for loops that make other tasks. On
the portable engine all of it is what asyncio has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar, get_args

from .announcing import report
from .native import compiled

__all__ = ["LOOPS", "LoopName", "loop_factory", "new_event_loop", "run", "task_factory"]

T = TypeVar("T")

LoopName = Literal["aionet", "asyncio", "uvloop"]

LOOPS: tuple[LoopName, ...] = get_args(LoopName)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new asyncio event loop that suits the engine.

    On the compiled engine it is an `asyncio.SelectorEventLoop` over a selector of aionet's own; elsewhere,
    what `asyncio.new_event_loop` returns. Use it as ``asyncio.Runner(loop_factory=aionet.new_event_loop)``,
    or `run`.
    """
    if compiled is None:
        return asyncio.new_event_loop()
    from .native.selector import EpollSelector

    return asyncio.SelectorEventLoop(EpollSelector())


def loop_factory(name: LoopName) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop by its name: ``"aionet"`` stands for `new_event_loop`.

    It is for programs that are aionet's own: a log that raises does not end the loop (`announcing.report`).

    Raises `ImportError` where uvloop is not installed.
    """
    make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if name == "uvloop":
        import uvloop

        make = uvloop.new_event_loop
    elif name == "aionet":
        make = new_event_loop

    def make_loop() -> asyncio.AbstractEventLoop:
        loop = make()
        loop.set_exception_handler(report)
        return loop

    return make_loop


def run(
    main: Coroutine[Any, Any, T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run `main` as `asyncio.run` does, on a loop from `new_event_loop`.

    Args:
        debug: asyncio's debug mode; by default as the environment has it.
        loop_factory: for another loop, as ``uvloop.new_event_loop``.

    Raises what `main` raises, `RuntimeError` where a loop is running, `TypeError` if `main` is no coroutine.
    """
    if not asyncio.iscoroutine(main):
        raise TypeError(f"run() needs a coroutine, not {main!r}")
    with asyncio.Runner(debug=debug, loop_factory=loop_factory or new_event_loop) as runner:
        result: T = runner.run(main)
        return result


def task_factory(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], **kwargs: Any
) -> asyncio.Task[T]:
    """Make an `asyncio.Task`, whatever class of tasks the loop would make.

    For ``loop.set_task_factory(aionet.task_factory)``, or to be called by itself; `kwargs` are those of
    `asyncio.Task`. On the compiled engine the steps that such a task makes when a socket is ready are made
    without a callback of the loop; a task of another class, a subclass included, is woken as by a future.
    Where the loop makes `asyncio.Task` anyway, as asyncio's and uvloop do, this changes nothing.

    Raises `TypeError` if `coroutine` is none.
    """
    if not asyncio.iscoroutine(coroutine):
        raise TypeError(f"a task runs a coroutine, not {coroutine!r}")
    return asyncio.Task(coroutine, loop=loop, **kwargs)
