"""Bytes become headers: the receiving half of the format, without any I/O.

Theory of operation
-------------------
A receiver must not guess: bytes are a header as the specification writes it, or `ProxyProtocolError`. They
come from the network, so each step says no as soon as it can, and no step trusts the next one to look again:

1. `version_of` the first bytes, as few as there are: a client of another protocol is told apart at once.
2. Version 1: `parse_line`, up to CRLF, which ends within 107 bytes.
   Version 2: `block_length` of the first 16 bytes, which refuses what is unknown or longer than its cap
   before any of it is awaited; then `parse_binary`.

`parse_header` does all of it for bytes that are already there.

Version 2 tells two kinds of "no address" apart. LOCAL is the proxy itself, and its block is ignored unread,
as the specification wants it. An unspecified family or transport is a client whose address the proxy cannot
tell; TLVs follow. Families and transports that the specification does not have are refused, as it demands.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NoReturn

from ..addresses import SocketAddress, UnixAddress
from ..errors import ProxyProtocolError
from .crc32c import crc32c
from .header import ProxyHeader
from .layout import (
    ADDRESSES,
    CRLF,
    DATAGRAM,
    FIXED,
    IPV4,
    LINE_START,
    LOCAL,
    LONGEST_LINE,
    PROXY,
    SIGNATURE,
    UNIX,
    UNSPECIFIED,
    TlvType,
    join_tlvs,
    split_tlvs,
)

__all__ = [
    "DEFAULT_MAX_HEADER_BYTES",
    "block_length",
    "parse_binary",
    "parse_header",
    "parse_line",
    "refuse_long_line",
    "version_of",
]

DEFAULT_MAX_HEADER_BYTES = 4096

_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_HIGHEST_PORT = 65535
_SHOWN = 24  # bytes of what was found, in a message


def parse_header(
    data: bytes, *, max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES
) -> tuple[ProxyHeader, int] | None:
    """Return the header that `data` begins with and its length in bytes; ``None`` if more has to come first.

    Args:
        max_header_bytes: how long a version 2 header may be, after its first 16 bytes.

    Raises `ProxyProtocolError` where no header begins like this, whatever may follow.
    """
    if not data:
        return None
    if version_of(data) == 1:
        end = data.find(CRLF, 0, LONGEST_LINE) + len(CRLF)
        if end < len(CRLF):
            if len(data) >= LONGEST_LINE:
                refuse_long_line(data)
            return None
        return parse_line(data[:end]), end
    if len(data) < FIXED.size:
        return None
    end = FIXED.size + block_length(data[: FIXED.size], max_header_bytes)
    if len(data) < end:
        return None
    return parse_binary(data[: FIXED.size], data[FIXED.size : end]), end


def version_of(beginning: bytes) -> Literal[1, 2]:
    """Return the version of the header that begins with `beginning`, one byte or more."""
    if beginning[: len(LINE_START)] == LINE_START[: len(beginning)]:
        return 1
    if beginning[: len(SIGNATURE)] == SIGNATURE[: len(beginning)]:
        return 2
    raise ProxyProtocolError(f"found {_shown(beginning)}: expected a PROXY protocol header, version 1 or 2")


# Version 1 ----------------------------------------------------------------------------------------------


def parse_line(line: bytes) -> ProxyHeader:
    """Return the version 1 header that `line` is, which ends in its first CRLF."""
    version_of(line)  # a line that came in pieces was looked at by its first bytes only
    protocol, *fields = line.removeprefix(LINE_START).removesuffix(CRLF).split(b" ")
    if protocol == b"UNKNOWN":  # the rest means nothing (2.1)
        return ProxyHeader(version=1)
    if protocol not in (b"TCP4", b"TCP6"):
        raise ProxyProtocolError(f"protocol {_shown(protocol)}: expected TCP4, TCP6 or UNKNOWN")
    if len(fields) != 4:
        raise ProxyProtocolError(f"{len(fields)} fields after {protocol.decode()}: expected 4, in {line!r}")
    kind = IPv4Address if protocol == b"TCP4" else IPv6Address
    source, destination, source_port, destination_port = fields
    return ProxyHeader(
        version=1,
        source=SocketAddress(_ip(source, kind), _port(source_port)),
        destination=SocketAddress(_ip(destination, kind), _port(destination_port)),
    )


def refuse_long_line(beginning: bytes) -> NoReturn:
    """Refuse a version 1 header that does not end."""
    raise ProxyProtocolError(f"no CRLF within {LONGEST_LINE} bytes of {_shown(beginning)}")


def _ip(field: bytes, kind: type[IPv4Address | IPv6Address]) -> IPv4Address | IPv6Address:
    try:
        if b"%" not in field:  # a scope, which is no part of an address on the wire
            return kind(field.decode("ascii"))
    except ValueError:
        pass
    raise ProxyProtocolError(f"address {_shown(field)}: expected the text of an {kind.__name__}")


def _port(field: bytes) -> int:
    if not _PORT.fullmatch(field) or int(field) > _HIGHEST_PORT:
        raise ProxyProtocolError(f"port {_shown(field)}: expected 0 to 65535, without leading zeros")
    return int(field)


# Version 2 ----------------------------------------------------------------------------------------------


def block_length(fixed: bytes, max_header_bytes: int) -> int:
    """Return how many bytes follow the first 16 of a version 2 header, which are `fixed`."""
    signature, version_command, kind, length = FIXED.unpack(fixed)
    version, command = divmod(version_command, 16)
    if signature != SIGNATURE:
        raise ProxyProtocolError(f"found {_shown(signature)}: expected the signature {SIGNATURE!r}")
    if version != 2:
        raise ProxyProtocolError(f"version {version} after the signature of version 2")
    if command not in (LOCAL, PROXY):
        raise ProxyProtocolError(f"command {command:#x}: expected 0 (LOCAL) or 1 (PROXY)")
    if length > max_header_bytes:
        raise ProxyProtocolError(
            f"{length} bytes after the first 16 of the header: {max_header_bytes} are allowed"
        )
    if command == PROXY:
        _check_family(kind, length)
    return int(length)


def _check_family(kind: int, length: int) -> None:
    family, transport = divmod(kind, 16)
    if family not in ADDRESSES or transport > DATAGRAM:
        raise ProxyProtocolError(f"family and transport {kind:#04x}: expected 0 to 3 and 0 to 2")
    if length < ADDRESSES[family].size:
        raise ProxyProtocolError(
            f"{length} bytes for the addresses of family {family}: expected {ADDRESSES[family].size} or more"
        )


def parse_binary(fixed: bytes, block: bytes) -> ProxyHeader:
    """Return the version 2 header of `fixed`, which `block_length` has accepted, and the block after it."""
    _, version_command, kind, _ = FIXED.unpack(fixed)
    if version_command & 0xF == LOCAL:
        return ProxyHeader(command="local")
    family, transport = divmod(kind, 16)
    addresses, rest = block[: ADDRESSES[family].size], block[ADDRESSES[family].size :]
    try:
        tlvs = split_tlvs(rest)
        _verify_checksum(fixed + addresses, tlvs)
        source, destination = _ends(family, addresses) if transport != UNSPECIFIED else (None, None)
        return ProxyHeader(
            source=source,
            destination=destination,
            transport="datagram" if source is not None and transport == DATAGRAM else "stream",
            tlvs=tuple(tlv for tlv in tlvs if tlv[0] not in (TlvType.CRC32C, TlvType.NOOP)),
        )
    except ValueError as error:
        raise ProxyProtocolError(str(error)) from None


def _ends(
    family: int, addresses: bytes
) -> tuple[SocketAddress | UnixAddress | None, SocketAddress | UnixAddress | None]:
    if family == UNSPECIFIED:
        return None, None
    parts = ADDRESSES[family].unpack(addresses)
    if family == UNIX:
        return _unix(parts[0]), _unix(parts[1])
    kind = IPv4Address if family == IPV4 else IPv6Address
    return SocketAddress(kind(parts[0]), parts[2]), SocketAddress(kind(parts[1]), parts[3])


def _unix(field: bytes) -> UnixAddress:
    """`field` is a ``sun_path``: a path ends at its NUL, an abstract name begins with one (unix(7))."""
    if field.startswith(b"\0"):
        return UnixAddress(field.rstrip(b"\0"))
    return UnixAddress(field.partition(b"\0")[0])


def _verify_checksum(before: bytes, tlvs: tuple[tuple[int, bytes], ...]) -> None:
    """Verify the CRC32c over the whole header with zeros in its own place, if there is one (2.2.3)."""
    sent = [value for kind, value in tlvs if kind == TlvType.CRC32C]
    if not sent:
        return
    if len(sent) > 1 or len(sent[0]) != 4:
        raise ValueError("expected one checksum, of 4 bytes")
    zeroed = ((kind, bytes(4) if kind == TlvType.CRC32C else value) for kind, value in tlvs)
    computed = crc32c(before + join_tlvs(zeroed))
    if computed != int.from_bytes(sent[0]):
        raise ValueError(f"checksum {int.from_bytes(sent[0]):#010x}: the header's is {computed:#010x}")


def _shown(found: bytes) -> str:
    return repr(found if len(found) <= _SHOWN else found[:_SHOWN]) + ("..." if len(found) > _SHOWN else "")
