"""`connection`: the coroutine of a connection's task, from its first step to the end of the connection.

Theory of operation
-------------------
Whatever a task ends by, its connection has to be closed, and counted once. Debuggers,
`asyncio.print_call_graph` and ``python -m asyncio ps`` show this coroutine above the handler's frames, so it
is a coroutine like any other, and its name says what the task is for.

A task that is cancelled before its first step, or destroyed before it, would run none of this. So the
coroutine is *primed* before it is given to a task: it runs up to BEGIN, which stands in its ``try``.

On the compiled engine BEGIN and `prime` are C, because every connection needs them (`native/beginning.c`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

from .native import compiled

__all__ = ["connection", "primed"]

A = TypeVar("A")
C = TypeVar("C")


class _Begin:
    """Yields once."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


def _prime(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Let it run up to BEGIN."""
    coroutine.send(None)


if compiled is None:
    BEGIN, prime = _Begin(), _prime
else:
    BEGIN, prime = compiled.BEGIN, compiled.prime


async def connection(
    start: Callable[[A], Awaitable[object]],
    argument: A,
    on_end: Callable[[C, BaseException | None], Coroutine[Any, Any, None] | None],
    served: C,
) -> None:
    """Await ``start(argument)``, call ``on_end(served, error or None)``, and await what that returns.

    An `Exception` is for `on_end` alone; anything else is raised again, after the end.
    """
    try:
        await BEGIN
        await start(argument)
    except Exception as error:
        closing = on_end(served, error)
    except GeneratorExit as error:  # nothing can be awaited any more
        closing = on_end(served, error)
        if closing is not None:
            closing.close()
        raise
    except BaseException as error:
        closing = on_end(served, error)
        if closing is not None:
            await closing
        raise
    else:
        closing = on_end(served, None)
    if closing is not None:
        await closing


def primed(*arguments: Any) -> Coroutine[Any, Any, None]:
    """Return a coroutine of `connection` that ends its connection even if it is never run."""
    coroutine = connection(*arguments)
    prime(coroutine)
    return coroutine
