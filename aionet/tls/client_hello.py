"""The ClientHello: what a client says first in TLS, as far as a server has to know before OpenSSL does.

Theory of operation
-------------------
The ClientHello (RFC 8446, 4.1.2) is plaintext and comes first. Four of its extensions decide how a server
begins: the name of the host (SNI, RFC 6066, 3) chooses the context of the handshake, the application
protocols (ALPN, RFC 7301) may be none of the server's, and groups and key shares may ask for a key exchange
that is too dear (`key_exchange.py`). `ssl` offers no way to read them in time: once an `ssl.SSLObject`
exists, a part of its context can no longer be exchanged.

*Fragments.* A ClientHello may arrive byte by byte, and may be spread over several records (RFC 8446, 5.1).
`HelloReader` puts it together, and looks at each byte once. A record has at least one byte, so what has to be
kept is bounded. Lists are kept as the bytes that they came as: a ClientHello may have thousands of names, and
a server looks for one of its own.

*What is no ClientHello* is judged by OpenSSL, not here. It counts as one that names no host and offers no
protocol: even where OpenSSL accepts what is refused here, the context was chosen as for any client without
a name. The same holds for a name inside an encrypted ClientHello (ECH): what is read is the outer one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..wires.tls.records import MOST_OF_HANDSHAKE

__all__ = ["ClientHello", "HelloReader"]

_RECORD = struct.Struct(">BBxH")  # type, major version, minor version, length
_EXTENSION = struct.Struct(">HH")  # type, length
_SIZE = struct.Struct(">H")
_MESSAGE = 4  # type, length
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_VERSION_AND_RANDOM = 2 + 32
_SERVER_NAME, _GROUPS, _ALPN, _KEY_SHARES = 0, 10, 16, 51
_HOST_NAME = 0
_LONGEST_RECORD = 16384
_LONGEST = 65536  # a tenth of it is rare


class ClientHello(NamedTuple):
    """What a client has asked for."""

    server_name: str | None = None
    """The name of the host (SNI), as it was sent; bytes that are not ASCII are escaped."""
    alpn: bytes = b""
    """The application protocols that it offers (ALPN, RFC 7301, 3.1): names, each behind its length."""
    groups: bytes = b""
    """The groups that it supports (RFC 8446, 4.2.7), two bytes each."""
    key_shares: bytes | None = None
    """Its key shares (RFC 8446, 4.2.8); ``None`` where it sends none, as in TLS 1.2."""
    is_name_ascii: bool = True
    readable: bool = True

    @property
    def protocols(self) -> Iterator[str]:
        """The application protocols, the preferred one first."""
        return (name.decode("ascii", "backslashreplace") for name in _names_in(self.alpn))

    def offers_any(self, protocols: Iterable[str]) -> bool:
        """Whether one of these application protocols is among its own."""
        wanted = {name.encode("ascii") for name in protocols}
        if not any(len(name).to_bytes(1) + name in self.alpn for name in wanted):
            return False  # looking at name after name takes a hundred times as long
        return any(name in wanted for name in _names_in(self.alpn))


_UNREADABLE = ClientHello(readable=False)


class HelloReader:
    """Reads the ClientHello of one connection."""

    __slots__ = ("_count", "_message", "_records", "_wanted")

    def __init__(self) -> None:
        self._records = bytearray()
        """What came and is not a whole record yet."""
        self._message = bytearray()
        """What the records so far have carried."""
        self._count = 0
        """How many records that were."""
        self._wanted = 1
        """How much of the message is needed to say more about it."""

    def feed(self, data: bytes) -> ClientHello | None:
        """Take what came next; return the ClientHello once that is known, ``None`` if more has to come."""
        records, start = self._records, 0
        records += data
        while len(records) - start >= _RECORD.size:
            kind, version, length = _RECORD.unpack_from(records, start)
            if kind != _HANDSHAKE or version != 3 or not 0 < length <= _LONGEST_RECORD:
                return _UNREADABLE
            end = start + _RECORD.size + length
            if len(records) < end:
                break
            self._message += records[start + _RECORD.size : end]
            self._count += 1
            start = end
            if len(self._message) >= self._wanted and (hello := self._read_message()) is not None:
                return hello
            if self._count == MOST_OF_HANDSHAKE:
                return _UNREADABLE
        del records[:start]
        return None if b"\x16\x03".startswith(records[:2]) or len(records) > 2 else _UNREADABLE

    def _read_message(self) -> ClientHello | None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            return _UNREADABLE
        if len(message) < _MESSAGE:
            self._wanted = _MESSAGE
            return None
        self._wanted = end = _MESSAGE + int.from_bytes(message[1:_MESSAGE])
        if end > _LONGEST:
            return _UNREADABLE
        if len(message) < end:
            return None
        try:
            return _parsed(bytes(message[_MESSAGE:end]))
        except (IndexError, ValueError, struct.error):
            return _UNREADABLE


def _parsed(body: bytes) -> ClientHello:
    """Raises `IndexError`, `ValueError` or `struct.error` for what is malformed."""
    at = _VERSION_AND_RANDOM
    at += 1 + body[at]  # session
    at += 2 + _SIZE.unpack_from(body, at)[0]  # cipher suites
    at += 1 + body[at]  # compression
    name: bytes | None = None
    alpn = groups = b""
    shares: bytes | None = None
    if at < len(body):
        extensions = _vector(body, at)
        at = 0
        while at < len(extensions):
            kind, length = _EXTENSION.unpack_from(extensions, at)
            at += _EXTENSION.size + length
            if at > len(extensions):
                raise IndexError("cut short")
            if kind in (_SERVER_NAME, _GROUPS, _ALPN, _KEY_SHARES):
                content = _vector(extensions[at - length : at], 0)
                if kind == _SERVER_NAME:
                    name = _host_in(content)
                elif kind == _ALPN:
                    alpn = content
                elif kind == _GROUPS:
                    groups = content
                else:
                    shares = content
    if not name:
        return ClientHello(None, alpn, groups, shares)
    return ClientHello(name.decode("ascii", "backslashreplace"), alpn, groups, shares, name.isascii())


def _vector(data: bytes, start: int) -> bytes:
    """Return all that follows its own length, a number of two bytes at `start`."""
    content = data[start + 2 :]
    if _SIZE.unpack_from(data, start)[0] != len(content):
        raise IndexError("the length is wrong")
    return content


def _host_in(listed: bytes) -> bytes:
    """Return the one name there may be (RFC 6066, 3)."""
    if listed[0] != _HOST_NAME:
        raise ValueError("another type of name")
    return _vector(listed, 1)


def _names_in(listed: bytes) -> Iterator[bytes]:
    """Yield the names in a list; the last one may be cut short, which OpenSSL refuses."""
    at = 0
    while at < len(listed):
        end = at + 1 + listed[at]
        yield listed[at + 1 : end]
        at = end
