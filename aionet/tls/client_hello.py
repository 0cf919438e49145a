"""What a client says first in TLS, as far as a server has to know before OpenSSL does.

Theory of operation
-------------------
A server that shares no application protocol with its client must refuse it (RFC 7301, 3.2); `ssl` goes on
without one, and nothing tells afterwards whether the client had offered any. So the offer is read from the
ClientHello (RFC 8446, 4.1.2), which is plaintext and comes first. Nothing else is: what is malformed, or lies
in several records, is left to OpenSSL, which knows better.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["NO_APPLICATION_PROTOCOL", "bytes_wanted", "protocols_offered"]

NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
"""The record of the fatal alert of this name (RFC 8446, 6; RFC 7301, 3.2)."""

_RECORD = 5  # type, version, length
_MESSAGE = 4  # type, length
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_VERSION_AND_RANDOM = 2 + 32
_ALPN = 16
_LONGEST = 16384


def bytes_wanted(beginning: bytes) -> int:
    """Return how many bytes the first record has of a stream that starts with `beginning`; 0 without one."""
    if not b"\x16\x03".startswith(beginning[:2]):
        return 0
    if len(beginning) < _RECORD:
        return _RECORD
    length = int.from_bytes(beginning[3:5])
    return _RECORD + length if length <= _LONGEST else 0


def protocols_offered(record: bytes) -> tuple[str, ...]:
    """Return the application protocols that the client offers in the first `record`, if it offers any."""
    try:
        return tuple(name.decode("ascii", "backslashreplace") for name in _offer(record))
    except IndexError:
        return ()


def _offer(record: bytes) -> list[bytes]:
    if record[0] != _HANDSHAKE or record[_RECORD] != _CLIENT_HELLO:
        return []
    rest = _part(record, _RECORD + 1, 3)[_VERSION_AND_RANDOM:]
    for size in (1, 2, 1):  # session, cipher suites, compression
        rest = rest[size + int.from_bytes(_exactly(rest, 0, size)) :]
    extensions = _part(rest, 0, 2)
    while extensions:
        kind, content = int.from_bytes(_exactly(extensions, 0, 2)), _part(extensions, 2, 2)
        if kind == _ALPN:
            return list(_names(_part(content, 0, 2)))
        extensions = extensions[4 + len(content) :]
    return []


def _names(listed: bytes) -> Iterator[bytes]:
    while listed:
        name = _part(listed, 0, 1)
        yield name
        listed = listed[1 + len(name) :]


def _part(data: bytes, start: int, size: int) -> bytes:
    """Return what follows its own length, a number of `size` bytes at `start`."""
    length = int.from_bytes(_exactly(data, start, size))
    return _exactly(data, start + size, length)


def _exactly(data: bytes, start: int, length: int) -> bytes:
    found = data[start : start + length]
    if len(found) < length:
        raise IndexError("cut short")
    return found
