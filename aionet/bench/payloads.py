"""The bytes that are sent: no two messages of a run alike, and cheap to make.

Theory of operation
-------------------
A message is an 8-byte sequence number followed by a slice of one pseudo-random pattern, cut at a place that
moves with the sequence number. A reply that belongs to another message, another connection, or another place
of the same message therefore differs from what is expected, which a constant filling would hide. Making one
costs a `memcpy`, comparing it a `memcmp`.

A bulk stream, which the server makes and the load compares, must be the same in every language: its byte n is
``n % STREAM_PERIOD``, and what is sent at a time is a whole number of periods.

Messages shorter than the stamp are its first, fastest-moving bytes: one byte repeats only every 256 messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["STREAM_BYTES", "STREAM_PERIOD", "message_maker", "stream_chunk"]

STREAM_PERIOD = 251
STREAM_BYTES = STREAM_PERIOD * 261
"""65,511 bytes: what a bulk server sends at a time."""

_STAMP_BYTES = 8
_PERIOD = 8191  # prime, so that the cut visits every place of the pattern


def message_maker(size: int) -> Callable[[], bytes]:
    """A function that returns the next message of ``size`` bytes each time it is called."""
    if size < 1:
        raise ValueError(f"a message has at least 1 byte, not {size}")
    pattern = random.Random(20_061).randbytes(_PERIOD + size)
    length = max(0, size - _STAMP_BYTES)
    sequence = 0

    def next_message() -> bytes:
        nonlocal sequence
        sequence += 1
        stamp = sequence.to_bytes(_STAMP_BYTES, "little")
        if not length:
            return stamp[:size]
        cut = sequence * 61 % _PERIOD
        return stamp + pattern[cut : cut + length]

    return next_message


def stream_chunk() -> bytes:
    """What a bulk server sends, again and again."""
    return bytes(range(STREAM_PERIOD)) * (STREAM_BYTES // STREAM_PERIOD)
