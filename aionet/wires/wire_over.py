"""`WireOver`: what any wire that lies over another one leaves to that.

Theory of operation
-------------------
The wire beneath knows the ends, has the descriptor, and asks the kernel; it is its own observer's source of
events, so `WireOver` observes it and passes on what it hears. The upper wire owns the lower one: closing the
one closes the other.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from ..addresses import SocketAddress, UnixAddress
from .allowance import Allowance
from .lingering import BROKEN_OFF
from .queueing import QueueingWire

__all__ = ["WireOver"]


class WireOver(QueueingWire):
    """Half of a wire over another one. The attributes stand in the slots of the whole one's class."""

    if not TYPE_CHECKING:  # which would not see them there
        __slots__ = ()

    _lower: Any
    """A whole wire that is a `QueueingWire`, too."""
    _own_loss: OSError | None
    _more: bool

    # Counting -----------------------------------------------------------------------------------------

    @property
    def allowance(self) -> Allowance | None:  # type: ignore[override]
        allowance: Allowance | None = self._lower.allowance
        return allowance

    @property
    def in_hand(self) -> int:
        count: int = self._lower.in_hand
        return count

    @in_hand.setter
    def in_hand(self, count: int) -> None:
        self._lower.in_hand = count

    def forget_sizes(self) -> None:
        self._lower.forget_sizes()

    # Ends ---------------------------------------------------------------------------------------------

    @property
    def local_address(self) -> SocketAddress | UnixAddress | None:
        address: SocketAddress | UnixAddress | None = self._lower.local_address
        return address

    @property
    def peer_address(self) -> SocketAddress | UnixAddress | None:
        address: SocketAddress | UnixAddress | None = self._lower.peer_address
        return address

    @property
    def raw_socket(self) -> socket.socket:
        raw: socket.socket = self._lower.raw_socket
        return raw

    def fileno(self) -> int:
        number: int = self._lower.fileno()
        return number

    # Observing ----------------------------------------------------------------------------------------

    @property
    def lost(self) -> OSError | None:
        lost: OSError | None = self._own_loss or self._lower.lost
        return lost

    @lost.setter
    def lost(self, why: OSError | None) -> None:
        self._own_loss = why

    def facts(self) -> tuple[int | None, float | None]:
        facts: tuple[int | None, float | None] = self._lower.facts()
        return facts

    def watch_peer(self) -> None:
        self._lower.watch_peer()

    def on_peer_gone(self) -> None:
        """The lower wire's word."""
        if self._observer is not None:
            self._observer.on_peer_gone()

    def on_unsent(self, count: int) -> None:
        """The lower wire's word."""
        self._tell_unsent(count)

    def _tell_unsent(self, lower_count: int) -> None:
        if self._observer is not None:
            own = 0 if self._outgoing is None else self._outgoing.held
            self._observer.on_unsent(own + lower_count + self._held_besides())

    def _held_besides(self) -> int:
        """Return how many bytes of memory are held beside the queues."""
        return 0

    def _on_unsent(self) -> None:
        lower = self._lower._outgoing
        self._tell_unsent(0 if lower is None else lower.held)

    # Closing ------------------------------------------------------------------------------------------

    def break_off(self) -> None:
        self._own_loss = self._own_loss or BROKEN_OFF
        self._more = False
        self._lower.break_off()

    async def until_input(self, seconds: float) -> None:
        await self._lower.until_input(seconds)
