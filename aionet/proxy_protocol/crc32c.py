"""CRC32c (RFC 4960, appendix B): the checksum of headers, for which the standard library has no function.

Bits are taken lowest first, so the polynomial is written reversed, and the table holds what eight steps make
of each byte. A header is short, and few senders add a checksum: plain Python is fast enough.
"""

from __future__ import annotations

__all__ = ["crc32c"]

_POLYNOMIAL = 0x82F63B78
_ALL_ONES = 0xFFFFFFFF


def _after_eight_steps(remainder: int) -> int:
    for _ in range(8):
        remainder = (remainder >> 1) ^ (_POLYNOMIAL if remainder & 1 else 0)
    return remainder


_TABLE = tuple(map(_after_eight_steps, range(256)))


def crc32c(data: bytes) -> int:
    """Return the checksum of `data`, 32 bits."""
    remainder = _ALL_ONES
    for byte in data:
        remainder = (remainder >> 8) ^ _TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ _ALL_ONES
