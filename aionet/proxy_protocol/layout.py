"""What headers are made of, byte for byte: proxy-protocol.txt of HAProxy, 2.1 (text) and 2.2 (binary).

::

    version 1   "PROXY" " " "TCP4"|"TCP6" " " source " " destination " " port " " port CRLF
                "PROXY" " " "UNKNOWN" (" " anything) CRLF             all of it 107 bytes at the most

    version 2   signature 12 | version, command 4+4 bits | family, transport 4+4 bits | length 16 bits
                then `length` bytes: both addresses, both ports, and TLVs (type 8 bits, length 16 bits, value)

`split_tlvs` and `join_tlvs` undo each other exactly, so that a checksum can be computed over a joined block.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable

__all__ = [
    "ADDRESSES",
    "CRLF",
    "DATAGRAM",
    "FIXED",
    "IPV4",
    "IPV6",
    "LINE_START",
    "LOCAL",
    "LONGEST_BLOCK",
    "LONGEST_LINE",
    "LONGEST_UNIQUE_ID",
    "PROXY",
    "SIGNATURE",
    "STREAM",
    "TLV",
    "UNIX",
    "UNSPECIFIED",
    "TlvType",
    "join_tlvs",
    "split_tlvs",
]

# Version 1
LINE_START = b"PROXY "
CRLF = b"\r\n"
LONGEST_LINE = 107  # with its CRLF

# Version 2
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED = struct.Struct("!12sBBH")
LONGEST_BLOCK = 0xFFFF  # what the 16 bits of its length can say
LOCAL = 0x0  # commands
PROXY = 0x1
UNSPECIFIED = 0x0  # of families and of transports
IPV4 = 0x1  # families
IPV6 = 0x2
UNIX = 0x3
STREAM = 0x1  # transports
DATAGRAM = 0x2

ADDRESSES = {
    UNSPECIFIED: struct.Struct(""),
    IPV4: struct.Struct("!4s4sHH"),
    IPV6: struct.Struct("!16s16sHH"),
    UNIX: struct.Struct("!108s108s"),
}
"""Family -> both addresses, and both ports where it has any."""

TLV = struct.Struct("!BH")
LONGEST_UNIQUE_ID = 128
_MOST_TLVS = 128  # some ten types exist; a block of empty ones would take many times its size in memory


class TlvType(enum.IntEnum):
    """The registered types (2.2.1 to 2.2.7)."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_SIG_ALG = 0x24
    SSL_KEY_ALG = 0x25
    NETNS = 0x30


def split_tlvs(block: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return the type and value of each TLV in `block`, in order; `ValueError` where it ends within one."""
    found: list[tuple[int, bytes]] = []
    place = 0
    while place < len(block):
        if len(found) == _MOST_TLVS:
            raise ValueError(f"more than {_MOST_TLVS} TLVs")
        start = place + TLV.size
        if start > len(block):
            raise ValueError(f"{len(block) - place} bytes after the last TLV: expected 3 or more, or none")
        kind, length = TLV.unpack_from(block, place)
        place = start + length
        if place > len(block):
            raise ValueError(f"TLV {kind:#04x} has {len(block) - start} of its {length} bytes")
        found.append((kind, block[start:place]))
    return tuple(found)


def join_tlvs(tlvs: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the block that `split_tlvs` makes `tlvs` of."""
    return b"".join(TLV.pack(kind, len(value)) + value for kind, value in tlvs)
