"""Handling the signals of this process, by any number of handlers at a time.

Theory of operation
-------------------
An event loop has one callback for each signal, and a second one would take the place of the first: of two
servers in a program only one would drain. So the loop's callback is one of this module's, which calls every
handler that is registered at the moment, in the order of their registration. The first handler of a signal
remembers what was there before; the last one that goes puts it back, whichever of them that is.

A handler that raises does not keep the others from being called; the loop's exception handler gets the error.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

__all__ = ["on_signals"]

_Callback: TypeAlias = Callable[[], object]


class _Shared:
    """The handlers of one signal on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
        self._number = number
        self.callbacks: list[_Callback] = []
        self._before: Any = signal.getsignal(number)
        loop.add_signal_handler(number, self._call, loop)

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        for callback in tuple(self.callbacks):
            try:
                callback()
            except Exception as error:
                message = f"a handler of {self._number.name} failed"
                with suppress(Exception):  # of a log that raises
                    loop.call_exception_handler({"message": message, "exception": error})

    def put_back(self, loop: asyncio.AbstractEventLoop) -> None:
        """Restore what was there before."""
        loop.remove_signal_handler(self._number)
        if self._before is not None:  # None: it was not installed from Python and cannot be put back
            signal.signal(self._number, self._before)


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[signal.Signals, _Shared]] = WeakKeyDictionary()


@contextmanager
def on_signals(signals: Iterable[signal.Signals], callback: _Callback) -> Iterator[None]:
    """Have the running loop call `callback` at each of `signals`, beside what others have it call.

    What was there before the first of them is put back after the last. Raises `RuntimeError` outside of the
    main thread.
    """
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for number in signals:
            stack.enter_context(_on_signal(loop, number, callback))
        yield


@contextmanager
def _on_signal(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, callback: _Callback
) -> Iterator[None]:
    of_loop = _shared.setdefault(loop, {})
    if number not in of_loop:
        try:
            of_loop[number] = _Shared(loop, number)
        except (ValueError, RuntimeError) as error:
            raise RuntimeError(
                f"{number.name} can be handled in the main thread only: pass signals=() elsewhere"
            ) from error
    shared = of_loop[number]
    shared.callbacks.append(callback)
    try:
        yield
    finally:
        shared.callbacks.remove(callback)
        if not shared.callbacks:
            del of_loop[number]
            shared.put_back(loop)
