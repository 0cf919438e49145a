r"""`AccessLog`: one line for every connection, when it has ended.

Theory of operation
-------------------
A line has the same facts under the same names in both formats, in this order:

    time            when it ended: RFC 3339, UTC (JSON only; a text handler's format has its own)
    connection_id   `Connection.id`; in every record of its handler, too (`connection_id.py`)
    peer, local     both ends, as they print
    cause           `CloseCause` in small letters: "completed", "peer_lost", "idle", ...
    by              who ended it: "handler", "peer" or "server"
    phase           how far it had come: "handshake" or "serving"
    errno           the system's name of what went wrong: "ECONNRESET"
    bytes_read, bytes_written
    unacknowledged  bytes written that the peer's TCP had not acknowledged
    age             seconds since it was accepted
    idle            seconds since the last byte in either direction
    tls             the version of TLS: "TLSv1.3"
    tls_failure     `TlsFailure` in small letters, where a handshake failed: "plaintext", "reset", ...

What is not known is null in JSON and "-" in text. New facts may be added at the end; none changes its name.

*Text* is logfmt, ``name=value``, a value in JSON's quotes if it holds anything but plain visible characters.
*JSON* is one object per line. A peer chooses some of what is written (the path of a Unix socket is any bytes,
newlines included), so in either format everything beyond ASCII, and every control character, is an escape:
one line is one connection, whatever peers do.
"""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, get_args

from ..announcing import Log
from ..close_reason import CloseReason
from ..connection import Connection

__all__ = ["AccessLog", "AccessLogFormat"]

AccessLogFormat: TypeAlias = Literal["text", "json"]

_logger = logging.getLogger("aionet.access")

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # visible ASCII but the quote, the equals sign and the backslash


class AccessLog:
    """Logs a line for every connection: pass it to `serve` or a `ConnectionSpawner` as `on_close`.

    Args:
        format: ``"text"`` or ``"json"``.
        logger: where to; by default ``aionet.access``. The level is INFO.

    A record has the facts as a mapping, too, in its attribute `access`. Raises `ValueError` for an unknown
    format.
    """

    def __init__(self, format: AccessLogFormat = "text", *, logger: logging.Logger = _logger) -> None:
        if format not in get_args(AccessLogFormat):
            raise ValueError(f"format must be 'text' or 'json', not {format!r}")
        self._as_line = _as_text if format == "text" else _as_json
        self._log = Log(logger, complete=True)

    def __call__(self, connection: Connection[Any], reason: CloseReason) -> None:
        """Log that `connection` has ended for `reason`."""
        if self._log.isEnabledFor(logging.INFO):
            facts = _facts(connection, reason)
            extra = {"connection_id": connection.id, "access": facts}
            self._log.info("%s", self._as_line(facts), extra=extra)


def _facts(connection: Connection[Any], reason: CloseReason) -> dict[str, str | float | None]:
    socket = connection.socket
    return {
        "connection_id": connection.id,
        "peer": _text_or_none(socket.peer_address),
        "local": _text_or_none(socket.local_address),
        "cause": reason.cause.name.lower(),
        "by": reason.by,
        "phase": reason.phase,
        "errno": None if reason.errno is None else errno.errorcode.get(reason.errno, str(reason.errno)),
        "bytes_read": reason.bytes_read,
        "bytes_written": reason.bytes_written,
        "unacknowledged": reason.unacknowledged,
        "age": round(reason.age, 6),
        "idle": None if reason.idle is None else round(reason.idle, 6),
        "tls": None if socket.tls is None else socket.tls.version,
        "tls_failure": None if reason.tls_failure is None else reason.tls_failure.name.lower(),
    }


def _text_or_none(address: object) -> str | None:
    return None if address is None else str(address)


def _as_json(facts: Mapping[str, object]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, **facts}, separators=(",", ":"))


def _as_text(facts: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_as_value(value)}" for name, value in facts.items())


def _as_value(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.6f}" if isinstance(value, float) else str(value)
    return text if text != "-" and _PLAIN.fullmatch(text) else json.dumps(text)
