"""`Beside`: what a supervisor's program serves itself, while its workers serve the rest.

Theory of operation
-------------------
An endpoint of the supervisor's own has the same life as the workers' listening sockets: it is bound first, so
that an address that is taken fails before any worker starts; it is served once no predecessor can go on in
this program's place; and when a successor has taken over, it is the successor's, while this program may have
connections to drain for long. What is served there is for a higher floor to know.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext

from ..held_listeners import HeldListeners
from ..succession.hot_restart import Succession
from .supervisor import Supervisor

__all__ = ["Beside"]


class Beside:
    """Serves nothing: to be derived from."""

    async def bind(self, stack: AsyncExitStack, succession: Succession) -> None:
        """Hold what is needed in `succession`, until `stack` is left. Raises `OSError`.

        Cancel safety: nothing is left open that `stack` does not close.
        """

    def serving(
        self, supervisor: Supervisor, listeners: HeldListeners
    ) -> AbstractAsyncContextManager[object]:
        """Return a context in which it is served; `listeners` are those of the workers of `supervisor`."""
        return nullcontext()

    def hand_over(self) -> None:
        """Accept nothing more: a successor does."""
