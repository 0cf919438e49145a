"""How many connections a spawner takes, and what becomes of those for whom there is no room.

Theory of operation
-------------------
*Room.* When `max_connections` are being served, all servers are held, in the very step that took the last
connection: an acceptor that was already woken finds its server held, so the cap is exact, and the kernel's
queue keeps who comes. The first connection to end releases them. Under another policy than ``"pause"``
accepting goes on, and the newcomer waits, or is turned away (`overload.py`).

*Rates and handshakes* have an object each, if they are limited at all, that holds the servers in its turn.

*Refusals* come before room is made: a newcomer that one of the limits for its peer turns away costs no other
connection its place.

*Descriptors* may run out whatever the limits say. A server asks what to do then: one of those who wait is
reset, or an idle connection has to go (`idle_order.py`). Connections that were taken already may lack
resources as well (`shortage.py`).
"""

from __future__ import annotations

import asyncio
import errno
import select
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ..accepting import Acceptor
from ..close_reason import CloseCause
from ..peers import peer_of
from .admission import AcceptRate
from .enforcing import LimitEnforcer
from .handshakes import Handshakes
from .limits import ConnectionLimits
from .overload import Overload
from .shortage import Shortage

__all__ = ["Intake"]

_BATCH = 64  # connections taken at once, at the most; the acceptor has its own idea of what is fair
_COST = 8  # of an accept where pending bytes are limited: all of a turn may write before one of them is cut
_PATIENCE = 1.0  # seconds that a connection has to go when its place is needed; then another one has to


class Intake:
    """The room that a spawner has for `connections`, which it holds."""

    def __init__(
        self,
        limits: ConnectionLimits,
        connections: Collection[Any],
        turn_away: Callable[[Any, Any], object],
        shed: Callable[[], object],
    ) -> None:
        """`turn_away(socket, cause)` resets a newcomer; `shed()` is told of one that nobody ever had."""
        self._limits = limits
        self._connections = connections
        self._shed = shed
        self._acceptors: Sequence[Acceptor] = ()
        self._enforcer: LimitEnforcer | None = None
        self._rate: AcceptRate | None = None
        self._room_made = asyncio.Event()
        self._overload = Overload(limits.on_full, turn_away)
        self.shortage = Shortage()
        self.handshakes: Handshakes | None = None
        """Those in progress, if their number is limited."""
        self.full = False
        """Whether there is no room, and `make_room` wants to be told when there is."""
        self.pauses = self._overload.pauses
        """Whether nobody is taken then."""

    def begin(
        self, acceptors: Sequence[Acceptor], shaking: Sequence[Acceptor], enforcer: LimitEnforcer | None
    ) -> None:
        """Take from `acceptors`, of which those of `shaking` begin with a handshake."""
        self._acceptors = acceptors
        self._enforcer = enforcer
        if enforcer is not None and shaking and Handshakes.needed(self._limits):
            self.handshakes = Handshakes(
                self._limits, shaking, lambda one: enforcer.cut(one, CloseCause.HANDSHAKE_EVICTED)
            )
        if self._limits.accept_rate is not None:
            self._rate = AcceptRate(self._limits.accept_rate, acceptors)
        self._overload.begin()
        self.shortage.begin(acceptors)
        if self._limits.max_pending_bytes is not None:
            for acceptor in acceptors:
                acceptor.cost = _COST
        if not self.pauses:
            for acceptor in acceptors:
                acceptor.on_exhausted = self._make_descriptors

    def close(self) -> None:
        """No more will be taken: whoever waits for room need not."""
        self._room_made.set()
        if self._rate is not None:
            self._rate.close()
        if self.handshakes is not None:
            self.handshakes.close()
        self.shortage.close()

    async def stop(self) -> None:
        """End what is still being said to those who were turned away. Cancel safety: nothing is lost."""
        await self._overload.stop()

    def end(self) -> None:
        """Give back what was kept in reserve."""
        self._overload.end()

    def room(self) -> int:
        """How many connections may be taken now."""
        most = self._limits.max_connections
        room = _BATCH if most is None or not self.pauses else max(most - len(self._connections), 1)
        if self.handshakes is not None:
            room = self.handshakes.room(room)
        return room if self._rate is None else min(room, self._rate.room)

    def took(self, sockets: list[Any]) -> list[Any]:
        """These were taken; remove those that their peers have reset, and return them."""
        if self._rate is None:
            return []
        gone = _reset_by_peers(sockets)
        for socket in gone:
            sockets.remove(socket)
        if sockets:
            self._rate.take(len(sockets))
        return gone

    def turned_away(self) -> None:
        """One of those that were taken does not get in."""
        if self._rate is not None:
            self._rate.give_back()

    def refusal_of(self, socket: Any, *, shakes: bool, named: bool) -> CloseCause | None:
        """Return why a newcomer does not get in whether there is room or not, if that is so.

        `shakes`: it begins with a handshake; `named`: its address is that of its peer already.
        """
        assert self._enforcer is not None
        handshakes = self.handshakes if shakes else None
        if handshakes is None and not self._enforcer.counts_peers:
            return None
        peer = peer_of(socket.peer_address) if named else None
        if handshakes is not None and not handshakes.allows(peer):
            return CloseCause.TOO_MANY_HANDSHAKES
        return self._enforcer.refusal_of(peer)

    async def find_room(self, sockets: list[Any]) -> None:
        """There is no room for the last of `sockets`: turn it away, or make room at another's cost.

        Cancel safety: `sockets` holds all that are not turned away.
        """
        if not self._overload.evicts:
            self._overload.refuse(sockets.pop())
            return
        assert self._enforcer is not None
        self._enforcer.cut_most_idle()
        self._room_made.clear()
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._room_made.wait()
        except TimeoutError:
            pass

    def fill(self) -> None:
        """The last room is taken."""
        self.full = True
        if self.pauses:
            for acceptor in self._acceptors:
                acceptor.hold(self)

    def make_room(self) -> None:
        """A connection has ended while it was full."""
        self.full = False
        self._room_made.set()
        if self.pauses:
            for acceptor in self._acceptors:
                acceptor.release(self)

    def _make_descriptors(self, listener: Any, error: OSError) -> bool:
        """There are no descriptors left: whether another try to accept is worth while at once."""
        if not self._overload.evicts:
            shed = self._overload.shed(listener)
            if shed:
                self._shed()
            return shed
        assert self._enforcer is not None
        # Whether the system's shortage ends by that is another matter; who waits for it lets the others live.
        return self._enforcer.cut_most_idle() and error.errno == errno.EMFILE


def _reset_by_peers(sockets: list[Any]) -> list[Any]:
    """Return those with an error, which is a reset where nothing was sent yet; it stays to be read."""
    poll = select.poll()
    for socket in sockets:
        poll.register(socket.fileno(), 0)
    reset = {number for number, events in poll.poll(0) if events & select.POLLERR}
    return [socket for socket in sockets if socket.fileno() in reset]
