"""What can go wrong, as a tree.

Theory of operation
-------------------
A network program has to tell four endings apart, and each has a class of its own: closed by this side
(`SocketClosedError`), broken by the world (`ConnectionLostError`), busy (`SocketBusyError`) and the end of
the stream (an empty read, or `IncompleteReadError` where more was promised). A fifth is no ending: the
machine has no resources for the operation (`ResourceExhaustedError`), and the connection is as it was. A
fork's child that uses its parent's sockets is a mistake in the program: `SocketInheritedError`.

Every error also is the built-in that a caller would guess (`OSError`, `ConnectionError`, `EOFError`,
`ValueError`, `RuntimeError`), so that ``except ConnectionError`` written before aionet was known goes on
working. Every error carries the operation and both addresses, and an errno where the system gave one; the
system's own exception is the cause (``__cause__``).

`TimeoutError` is the built-in and `CancelledError` is never wrapped: neither is in this tree.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

if TYPE_CHECKING:
    from typing import Unpack

    from .addresses import SocketAddress, UnixAddress
    from .tls_failure import TlsFailure

__all__ = [
    "AionetError",
    "ConnectError",
    "ConnectionLostError",
    "DeliveryError",
    "Ends",
    "IncompleteReadError",
    "LimitExceededError",
    "ProxyProtocolError",
    "ResolveError",
    "ResourceExhaustedError",
    "SocketBusyError",
    "SocketClosedError",
    "SocketInheritedError",
    "SuccessionError",
    "TlsError",
    "TlsTruncatedError",
    "Where",
    "WorkerFailedError",
    "without_traceback",
]


class Where(TypedDict, total=False):
    """The keyword arguments of `AionetError`, for the classes that pass them on."""

    operation: str | None
    local_address: SocketAddress | UnixAddress | None
    peer_address: SocketAddress | UnixAddress | None
    ends: Ends | None


class Ends(Protocol):
    """What knows both ends of a connection."""

    @property
    def local_address(self) -> SocketAddress | UnixAddress | None: ...

    @property
    def peer_address(self) -> SocketAddress | UnixAddress | None: ...


def without_traceback(error: OSError) -> OSError:
    """Return a copy of `error` to keep: a traceback would keep its frames alive, and all that is in them."""
    return OSError(*error.args)


class _KnownEnds(NamedTuple):
    local_address: SocketAddress | UnixAddress | None
    peer_address: SocketAddress | UnixAddress | None


class AionetError(Exception):
    """The root: an operation on a socket or a server failed.

    Printed as ``read 127.0.0.1:3000->127.0.0.1:41234: <cause>``, as far as the parts are known.
    """

    operation: str | None
    """What was being done: ``"read"``, ``"write"``, ``"connect"``, ``"accept"``, ..."""
    _ends: Ends

    def __init__(
        self,
        *args: object,
        operation: str | None = None,
        local_address: SocketAddress | UnixAddress | None = None,
        peer_address: SocketAddress | UnixAddress | None = None,
        ends: Ends | None = None,
    ) -> None:
        """`ends` is asked for the addresses when somebody wants to know them; most errors are only caught."""
        super().__init__(*args)
        self.operation = operation
        self._ends = ends or _KnownEnds(local_address, peer_address)

    @property
    def local_address(self) -> SocketAddress | UnixAddress | None:
        """This end of the connection, or of the server; ``None`` where it is not known."""
        return self._ends.local_address

    @property
    def peer_address(self) -> SocketAddress | UnixAddress | None:
        """The other end; ``None`` where it is not known."""
        return self._ends.peer_address

    def __reduce__(self) -> Any:
        self._ends = _KnownEnds(self.local_address, self.peer_address)  # what can be asked does not travel
        return super().__reduce__()

    def __str__(self) -> str:
        ends = "->".join(str(end) for end in (self.local_address, self.peer_address) if end is not None)
        where = " ".join(part for part in (self.operation, ends) if part)
        what = super().__str__()
        if isinstance(self, OSError) and self.errno is None:  # its text would begin with "[Errno None]"
            what = self.strerror or what
        return f"{where}: {what}" if where else what


class ResolveError(AionetError, OSError):
    """A host or service name did not resolve. The resolver's own exception is the cause."""


class ConnectError(AionetError, ConnectionError):
    """No address answered. `attempts` lists every address tried, in order of their start."""

    attempts: Sequence[tuple[SocketAddress | UnixAddress, float, OSError]]
    """``(address, seconds from the start of that attempt to its failure, why)`` each. These errors have no
    tracebacks: those would keep the attempts' frames alive."""

    def __init__(
        self,
        *args: object,
        attempts: Sequence[tuple[SocketAddress | UnixAddress, float, OSError]] = (),
        **where: Unpack[Where],
    ) -> None:
        super().__init__(*args, **where)
        self.attempts = tuple(attempts)


class ConnectionLostError(AionetError, ConnectionError):
    """Broken by the world: reset by the peer, timed out, unreachable."""


class DeliveryError(ConnectionLostError):
    """The connection ended before the peer's TCP had acknowledged everything that was written."""

    unacknowledged: int
    """Bytes written that the peer's TCP is not known to have received."""

    def __init__(self, *args: object, unacknowledged: int = 0, **where: Unpack[Where]) -> None:
        super().__init__(*args, **where)
        self.unacknowledged = unacknowledged


class ResourceExhaustedError(AionetError, OSError):
    """The process or the system has no descriptors, no memory or no epoll watches left for an operation.

    The errno is the system's: ``EMFILE``, ``ENFILE``, ``ENOBUFS``, ``ENOMEM`` or ``ENOSPC`` (epoll_ctl(2)).
    A read has taken nothing, and a later one continues. A write of which nothing was sent is withdrawn, and a
    later one may succeed; if a part of it was sent, the stream is broken, and every later write raises
    `ConnectionLostError`.
    """


class SocketClosedError(AionetError, OSError):
    """Closed by this side: by `aclose()`, `abort()`, or, for writes, `send_eof()`. Its errno is ``EBADF``."""

    def __init__(self, *args: object, **where: Unpack[Where]) -> None:
        super().__init__(*(args or (errno.EBADF, "the socket is closed")), **where)


class SocketBusyError(AionetError, RuntimeError):
    """Another task is already reading from this socket, or this socket is already connected."""


class SocketInheritedError(AionetError, RuntimeError):
    """Opened before a fork: in the child it can only be closed, which the parent does not notice."""

    def __init__(self, *args: object, **where: Unpack[Where]) -> None:
        super().__init__(*(args or ("opened before a fork: only the parent process can use it",)), **where)


class WorkerFailedError(AionetError, RuntimeError):
    """Workers could not be started, or not again; their own messages say why."""


class SuccessionError(AionetError, RuntimeError):
    """A predecessor did not hand over its listening sockets, or goes on itself."""


class IncompleteReadError(AionetError, EOFError):
    """The stream ended cleanly, but before what was asked for had arrived."""

    partial: bytes
    """What had arrived; it is no longer in the socket's buffer."""

    def __init__(self, *args: object, partial: bytes = b"", **where: Unpack[Where]) -> None:
        super().__init__(*args, **where)
        self.partial = partial


class LimitExceededError(AionetError, ValueError):
    """No separator within ``max_bytes``. Nothing was consumed: the data stays readable."""


class TlsError(AionetError, OSError):
    """A TLS handshake or record was bad. `failure` says why; OpenSSL's own error is the cause."""

    failure: TlsFailure | None
    by_peer: bool
    """Whether it was the peer who refused."""

    def __init__(
        self,
        *args: object,
        failure: TlsFailure | None = None,
        by_peer: bool = False,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(*args, **where)
        self.failure = failure
        self.by_peer = by_peer


class TlsTruncatedError(TlsError):
    """A TLS stream ended without close_notify (RFC 8446, 6.1): what was read may have been cut short."""


class ProxyProtocolError(AionetError, ConnectionError):
    """A PROXY protocol header was missing, malformed, too long, too slow or from an untrusted peer."""
