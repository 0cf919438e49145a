"""`ConnectionLimits`: what a spawner allows its connections, from the first byte to the last."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..unfinished import OnUnfinished

__all__ = ["ConnectionLimits", "OnFull", "OnPeerGone"]

OnFull: TypeAlias = Literal["pause", "reset", "evict_idle"] | Callable[[Any], Awaitable[object]]
OnPeerGone: TypeAlias = Literal["ignore", "event", "cancel"]


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """One policy for all connections of a spawner. ``None`` is no limit.

    Deadlines are kept by a timer wheel, not by a timer each: a connection is looked at now and then, and is
    cut when a deadline has passed, at the latest an eighth of the shortest one afterwards. Where thousands
    are due at once, they are cut in slices between which the loop has turns, so the last ones a little later.

    Raises `TypeError` or `ValueError`, naming the limit and its value.
    """

    max_connections: int | None = None
    """Connections served at a time. The cap is exact; `on_full` says what becomes of the others."""

    on_full: OnFull = "pause"
    """When there is no room, or no descriptor left: ``"pause"`` leaves newcomers in the kernel's queue;
    ``"reset"`` accepts and resets them; ``"evict_idle"`` resets another connection and takes its place: the
    one whose idle time, multiplied by the number of connections of its peer (as `max_per_peer` counts them),
    is the largest; a coroutine function is called with the socket, to say a word of regret for a
    second at most, before it is closed (where there is no descriptor for it, it is reset)."""

    max_per_peer: int | None = None
    """Connections from one address at a time; further ones are reset. IPv6 peers count by their /64 network,
    the least that one site has. Unix sockets are not counted."""

    accept_rate: float | None = None
    """Connections accepted per second, with bursts of as many; others wait in the kernel's queue. Those that
    are turned away do not count, nor do TCP connections that their peers have reset before (they are closed,
    and no handler sees them)."""

    accept_rate_per_peer: float | None = None
    """Connections accepted per second from one address, with bursts of as many, at least one; further ones
    are reset. Peers are counted as for `max_per_peer`."""

    handshake_timeout: float | None = 10.0
    """Seconds for what comes before the handler: a PROXY header, a TLS handshake."""

    max_handshakes: int | None = None
    """What comes before the handler may be in progress for so many connections at a time; others wait in the
    kernel's queue. When the oldest of the peer with the most is a second old, or half of
    `handshake_timeout`, it is reset for a newcomer. Servers whose connections begin with the handler
    are not held."""

    max_handshakes_per_peer: int | None = None
    """So many of them from one address; further ones are reset. ``None``: no limit without `max_handshakes`,
    and else eight, and more up to half of the places that it leaves free. Peers are counted as for
    `max_per_peer`, and behind a `preface` when that has ended."""

    idle_timeout: float | None = None
    """Seconds without a byte in either direction. The handler is cancelled, and the connection closed, or
    reset if bytes wait to be sent (see `on_unfinished`)."""

    read_stall_timeout: float | None = None
    """Seconds that a read may wait, the whole of a `read_exactly`, `read_until` or `read_line`, however many
    bytes trickle in. The connection is reset."""

    write_stall_timeout: float | None = None
    """Seconds that a write may wait without a byte being taken. The connection is reset."""

    handler_timeout: float | None = None
    """Seconds that a handler may take for all of its connection. It is cancelled, and the connection reset,
    unless the handler then returns (see `on_unfinished`)."""

    max_pending_bytes: int | None = None
    """Bytes that all connections may hold in this process: writes that wait for their peers, over TLS in
    encrypted form, too; what buffered reads (`read_line` and the like) have received and not yet returned;
    what the last read of each has returned, until its next read or write begins; and large TLS buffers. When
    there are more, the connections that hold the most (to a factor of two) are reset. Where little is free,
    reads bring less, and wait. Not counted: what a connection at rest takes, about 2 kB, or 22 kB over TLS; a
    TLS handshake; what handlers keep besides; what `read_into` fills."""

    on_peer_gone: OnPeerGone = "ignore"
    """When the peer ends its side, or is lost: ``"ignore"`` leaves it to the handler's next read; ``"event"``
    sets `socket.peer_gone` at once; ``"cancel"`` cancels a handler that does not read for 0.1 s after it. A
    client that half-closes and waits for its reply has not left: where there are such, use ``"ignore"``."""

    on_unfinished: OnUnfinished = "reset"
    """When a handler raises, exceeds `handler_timeout`, or is cancelled in the middle of a write, its reply
    may be unfinished: ``"reset"`` resets the connection, so that its peer does not take a part of the reply
    for all of it; ``"close"`` sends what was written and ends the stream cleanly, as if the handler had
    returned. That suits protocols whose messages carry their length or an end mark."""

    drain_spread: float | None = None
    """Seconds at the end of a drain's grace over which the cancellations are spread, so that clients do not
    all come back at once. ``None``: all are cancelled when the grace ends."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name.startswith("max_"):
                _check_count(field.name, getattr(self, field.name))
            if field.name.endswith("_timeout") or field.name in _NUMBERS:
                _check_number(field.name, getattr(self, field.name))
        if self.on_full not in ("pause", "reset", "evict_idle") and not callable(self.on_full):
            expected = "'pause', 'reset', 'evict_idle' or a coroutine function"
            raise ValueError(f"on_full must be {expected}, not {self.on_full!r}")
        if self.on_peer_gone not in ("ignore", "event", "cancel"):
            raise ValueError(f"on_peer_gone must be 'ignore', 'event' or 'cancel', not {self.on_peer_gone!r}")
        if self.on_unfinished not in ("reset", "close"):
            raise ValueError(f"on_unfinished must be 'reset' or 'close', not {self.on_unfinished!r}")


_NUMBERS = ("accept_rate", "accept_rate_per_peer", "drain_spread")


def _check_count(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        unit = next((unit for unit in ("bytes", "handshakes") if unit in name), "connections")
        raise TypeError(f"{name} must be a number of {unit} or None, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _check_number(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number or None, not {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be more than 0 and finite, not {value!r}")
