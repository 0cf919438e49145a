"""The wire of the compiled engine: a C type (`native/stream.c`) for the hot half, Python for the cold one."""

from __future__ import annotations

import socket
from typing import Any

from ..native._compiled import Stream, accept
from . import delivery
from .contract import Buffer
from .descriptor import DescriptorWire
from .outgoing import OutgoingBuffers
from .reactor import ERROR, HANGUP, PEER_ENDED, WRITABLE

__all__ = ["NativeWire"]

_ENDING = PEER_ENDED | HANGUP | ERROR
_MAY_WRITE = WRITABLE | HANGUP | ERROR


class NativeWire(Stream, DescriptorWire):
    """A connected, non-blocking stream socket on an event loop. It owns the descriptor."""

    __slots__ = ()

    @classmethod
    def accept(
        cls, listener: socket.socket, limit: int, state: Any, local: Any, *for_sockets: Any
    ) -> tuple[list[Any], bool]:
        """Take up to `limit` connections off the queue of `listener`; see `PortableWire.accept`."""
        return accept(listener, limit, state, local, cls, *for_sockets)

    @property
    def _sock(self) -> socket.socket:  # type: ignore[override]
        """The socket module's object; made when it is first asked for."""
        raw: Any = self._raw
        if raw is None:
            raw = socket.socket(fileno=self._fd)
            raw.setblocking(False)
            self._raw = raw
        sock: socket.socket = raw
        return sock

    def _adopt(self, sock: socket.SocketType) -> None:
        self._raw = sock
        if self._outgoing is not None:
            self._outgoing.sock = sock

    def _watch(self) -> None:
        self._state.watch(self._fd, self)

    def _displaced_socket(self) -> socket.SocketType | None:
        raw: socket.SocketType | None = self._raw
        return raw

    def forget_sizes(self) -> None:
        self._recent = 0

    def _refuse_io(self) -> None:
        self._readable = True  # whoever waits is to look again

    def _on_cold_events(self, events: int) -> int:
        """What is rare: an acknowledgement, which looks like an error; an observer; room for writes."""
        if self._timestamps and events & ERROR:
            delivery.discard_error_queue(self._sock)
            self._wake_acknowledgement_waits()
            if not events & HANGUP:
                events &= ~ERROR
        if self._peer_watched and events & _ENDING and self._observer is not None:
            self._observer.on_peer_gone()
        if self._outgoing and events & _MAY_WRITE:
            self._on_writable(events)
        return events

    async def _send_rest(self, buffers: tuple[Buffer, ...], sent: int) -> int:
        """Send what did not go at once, in its turn."""
        return await self._send_in_turn(OutgoingBuffers(buffers, sent))
