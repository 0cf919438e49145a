"""`RawSocket`: the standard library's socket over a wire's descriptor; when it loses that, so does the wire.

Theory of operation
-------------------
A program that asked a wire for its socket may close or detach it. The number is free then, and the next
connection gets it; a wire that still used it would read and write another's stream. So the wire is closed in
the same step, its readers and writers included.
"""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["RawSocket"]


class RawSocket(socket.socket):
    """What `raw_socket` returns."""

    __slots__ = ("_wire",)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._wire: Any = None

    @classmethod
    def over(cls, wire: Any, fd: int) -> RawSocket:
        """Return one that owns `fd`, which is the descriptor of `wire`."""
        self = cls(fileno=fd)
        self._wire = wire
        self.setblocking(False)
        return self

    def detach(self) -> int:
        self._leave_wire()
        return super().detach()

    def _real_close(self, *arguments: Any) -> None:
        self._leave_wire()
        super()._real_close(*arguments)  # type: ignore[misc]

    def _leave_wire(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.on_descriptor_gone()
