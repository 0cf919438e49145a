"""What the programs that run with `faults.c` preloaded share: plans, and loops by name."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

import aionet
from aionet.wires import event_loop
from aionet.wires.reactor import CallbackReactor

__all__ = ["KINDS", "LOOPS", "calls", "failed", "plan"]

KINDS = ("recv", "send", "accept4", "epoll_ctl", "epoll_wait", "epoll_create1")

_LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def _uvloop() -> _LoopFactory:
    import uvloop

    factory: _LoopFactory = uvloop.new_event_loop
    return factory


def _callback() -> _LoopFactory:
    event_loop.make_reactor = CallbackReactor
    return asyncio.SelectorEventLoop


LOOPS: dict[str, Callable[[], _LoopFactory]] = {
    "asyncio": lambda: asyncio.SelectorEventLoop,
    "callback": _callback,
    "aionet": lambda: aionet.new_event_loop,
    "uvloop": _uvloop,
}
"""What makes the factory of each; "callback" is the reactor of systems without epoll."""

_library = ctypes.CDLL(None)
_library.faults_calls.restype = _library.faults_failed.restype = ctypes.c_long


def plan(kind: str, first: int, count: int, number: int) -> None:
    """Have `count` calls of `kind` fail with errno `number` (0: a short count), from the `first` on."""
    _library.faults_plan(KINDS.index(kind), ctypes.c_long(first), ctypes.c_long(count), number)


def calls(kind: str) -> int:
    """How many there were since the plan was made."""
    return int(_library.faults_calls(KINDS.index(kind)))


def failed(kind: str) -> int:
    """How many of them failed."""
    return int(_library.faults_failed(KINDS.index(kind)))
