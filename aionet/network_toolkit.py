"""`NetworkToolkit`: one object that initialises everything, and leaves nothing behind.

Theory of operation
-------------------
Entering a toolkit makes it the scope of its event loop (`scope.py`): sockets and servers that are made there
take its options and its resolver, and enter themselves into its ledger when they open and take themselves out
when they close. Leaving it closes what is still in the ledger, in slices (`wires/slices.py`), and says what
that was. Toolkits may be nested; the inner one is in force until it is left.
"""

from __future__ import annotations

import asyncio
from operator import itemgetter
from typing import Any, Self

from .announcing import Log
from .cleaning_up import see_through
from .engine import implementation
from .no_copies import refuse_to_be_copied
from .options import TcpOptions, UnixOptions
from .resolving import Resolver
from .scope import Scope, set_scope
from .wires.budget import END_UNITS
from .wires.forks import forks
from .wires.slices import Slice

__all__ = ["NetworkToolkit"]

_log = Log("aionet")

_NAMES_IN_LOG = 20


class NetworkToolkit:
    """An optional ``async with`` around the networking of an event loop.

    Args:
        options: for TCP sockets and servers that are given none.
        unix_options: the same for Unix ones.
        resolver: ``await resolver(host, port)`` returns numeric addresses; takes the place of getaddrinfo.
        engine: the engine that must run; ``None`` takes what there is.

    Raises `RuntimeError` if another engine runs.
    """

    __reduce__ = refuse_to_be_copied

    def __init__(
        self,
        *,
        options: TcpOptions | None = None,
        unix_options: UnixOptions | None = None,
        resolver: Resolver | None = None,
        engine: str | None = None,
    ) -> None:
        if engine not in (None, implementation()):
            raise RuntimeError(f"engine {engine!r} was asked for, but {implementation()!r} runs")
        if resolver is not None and not callable(resolver):
            raise TypeError(f"resolver must be a coroutine function, not {resolver!r}")
        self._ledger: set[Any] = set()
        self._scope = Scope(
            tcp_options=options or TcpOptions(),
            unix_options=unix_options or UnixOptions(),
            resolver=resolver,
            ledger=self._ledger,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outer: Scope | None = None
        self._forks = forks()

    @property
    def open_sockets(self) -> frozenset[Any]:
        """The sockets and servers that were opened inside and are not yet closed."""
        return frozenset(self._ledger)

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("this toolkit is already entered")
        self._loop = asyncio.get_running_loop()
        self._forks = forks()
        self._outer = set_scope(self._loop, self._scope)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> list[str]:
        """Close what is still open, servers included; return what that was, and log it. Idempotent.

        Takes no longer than the longest ``linger`` of what is open.
        Cancel safety: cancelled, it closes all the same, at once.
        """
        if self._loop is not None:
            set_scope(self._loop, self._outer)
            self._loop = None
        left = list(self._ledger)
        names: list[str] = []
        closing: list[asyncio.Task[None]] = []
        try:
            left, names = await _by_name(left)
            if names and self._forks == forks():  # else they are the parent's, and open there
                _log.warning("the toolkit closed %d that were left open: %s", len(names), _in_short(names))
            await _begin_to_close(left, closing)
            if closing:
                await asyncio.wait(closing)
        except asyncio.CancelledError:
            closing.extend(asyncio.create_task(item.aclose()) for item in left[len(closing) :])
            await see_through(_cancel(closing))
            raise
        for task, name in zip(closing, names, strict=True):
            error = task.exception()
            if error is not None:
                _log.warning("%s did not close in good order: %s", name, error)
        return names


async def _by_name(items: list[Any]) -> tuple[list[Any], list[str]]:
    """Return `items` in the order of their names, and these names."""
    named = []
    slice = Slice()
    for item in items:
        await slice.turn()
        named.append((repr(item), item))
    named.sort(key=itemgetter(0))
    return [item for _, item in named], [name for name, _ in named]


def _in_short(names: list[str]) -> str:
    more = [] if len(names) <= _NAMES_IN_LOG else [f"and {len(names) - _NAMES_IN_LOG} more"]
    return ", ".join(names[:_NAMES_IN_LOG] + more)


async def _begin_to_close(items: list[Any], closing: list[asyncio.Task[None]]) -> None:
    """Make a task for each of `items` that closes it, and append it to `closing`."""
    slice = Slice()
    for item in items:
        await slice.turn()
        slice.take(END_UNITS)
        closing.append(asyncio.create_task(item.aclose()))


async def _cancel(closing: list[asyncio.Task[None]]) -> None:
    """Cut closings short, once they have begun: a task cancelled before its first step closes nothing."""
    await asyncio.sleep(0)
    for task in closing:
        task.cancel()
    await asyncio.gather(*closing, return_exceptions=True)
