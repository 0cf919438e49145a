"""What all wires and listeners of one event loop share: its reactor, and what is fair (`fairness.py`).

Theory of operation
-------------------
*After a fork* (`forks.py`) the states that the child finds are `inherited`: their wires and listeners refuse.

*Ends* of connections of which thousands may come in one turn, which wake a task or fail writes, pass through
`ends` (`slices.py`).

The state of a loop lives as long as something holds it: a wire, a listener, a connect in progress.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any
from weakref import WeakValueDictionary

from ..errors import SocketInheritedError
from ..native import compiled
from .budget import BUDGET, TURN_BYTES
from .fairness import Fairness
from .pacing import Pacing
from .reactor import make_reactor
from .slices import Slices

__all__ = ["SCRATCH_BYTES", "EventLoopState", "running_state"]

SCRATCH_BYTES = 256 * 1024
"""The most that a read takes from the kernel at once."""


class EventLoopState(Fairness):
    """One per event loop in use."""

    __slots__ = ("__weakref__", "budget", "ends", "inherited", "loop", "pacing", "reactor", "room", "scratch")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.reactor = make_reactor(loop)
        self.budget = BUDGET
        self.ends = Slices(loop)
        """What has to be called because connections have ended."""
        self.pacing = Pacing(loop)
        self.room = TURN_BYTES
        self.inherited = False
        """Whether this process is a fork's child, and what belongs to the loop is the parent's."""
        self.scratch: memoryview | None = None
        """Memory to receive into, once something was: what is in it is good until the next call."""

    def make_scratch(self) -> memoryview:
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        return self.scratch


if compiled is None:
    _state_class: Any = EventLoopState
else:
    from ..native.loop_state import NativeLoopState as _state_class  # noqa: N813

_states: WeakValueDictionary[int, EventLoopState] = WeakValueDictionary()
"""By the identity of the loop, which its state keeps alive: as a key it would never be collected."""


def running_state() -> EventLoopState:
    """Return the state of the running loop.

    Raises `RuntimeError` where none runs, and `SocketInheritedError` where a fork's child runs its parent's
    loop: what that one polls, it polls for the parent, too.
    """
    loop = asyncio.get_running_loop()
    state = _states.get(id(loop))
    if state is None:
        state = _states[id(loop)] = _state_class(loop)
    elif state.inherited:
        raise SocketInheritedError("this event loop was in use before a fork: only the parent can use it")
    return state


def _disown() -> None:
    """In a fork's child: all that there is belongs to the parent."""
    for state in list(_states.values()):
        if compiled is None:  # the compiled engine's states count by themselves
            state.inherited = state.reactor.inherited = True
        state.reactor.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)
