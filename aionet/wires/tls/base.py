"""What of a TLS wire is needed for each message: the compiled engine's type, or the same in Python.

Theory of operation
-------------------
The compiled type (`native/tls.c`) brings a `receive`, `receive_into` and `send` of its own, which do what is
simple where the wire beneath is a compiled one, and leave all else to `_receive_slowly`,
`_receive_into_slowly` and `_send_slowly`, which are all that there is on the portable engine; `_finish_send`
goes on where a write found no room. Both halves work on the same attributes.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from ...native import compiled

__all__ = ["TlsBase"]

_Base: Any = object if compiled is None else compiled.Tls

_ATTRIBUTES = (
    "_ahead",
    "_bytes_sent",
    "_encrypted",
    "_encrypted_peak",
    "_eof_asked",
    "_established",
    "_idle_records",
    "_incoming",
    "_incoming_peak",
    "_lower",
    "_more",
    "_outgoing",
    "_own_loss",
    "_reading",
    "_record_left",
    "_tls",
    "_truncated",
    "_unfed",
    "_unfed_at",
    "_unread_records",
    "bytes_read",
    "closed",
    "peer_ended",
)


class TlsBase(_Base):  # type: ignore[misc]
    """The attributes of a TLS wire that are looked at for each message."""

    if not TYPE_CHECKING:
        __slots__ = _ATTRIBUTES if compiled is None else ()

    _ahead: bytes
    """Plaintext that had to be taken out before anybody asked for it."""
    _encrypted: ssl.MemoryBIO
    """What this side has encrypted and not yet handed down."""
    _encrypted_peak: int
    """The most bytes that were in it since its memory was given back (`memory.py`), or `SMALL`."""
    _established: bool
    """Whether the handshake is over."""
    _incoming: ssl.MemoryBIO
    """Ciphertext that came and was not yet decrypted."""
    _incoming_peak: int
    _more: bool
    """Whether asking for plaintext may bring some, without more ciphertext."""
    _reading: bool
    """Whether a task waits for input."""
    _tls: ssl.SSLObject
    _truncated: bool
    """Whether the stream beneath ended without close_notify."""
