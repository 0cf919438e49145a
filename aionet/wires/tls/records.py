"""`RecordIntake`: how much ciphertext OpenSSL is given at once, and how many records may bring no data.

Theory of operation
-------------------
`SSL_read` works through everything that its BIO holds until a record has data in it. A key update costs 20 to
30 µs of key derivation and has 27 bytes, so one call for 64 KiB of them would hold the loop for 60 ms.
Tickets, alerts, empty records and a renegotiation are work without data, too. Only OpenSSL can tell them from
data: in TLS 1.3 the type of a record is encrypted. But the header of every record has its length in plaintext
(RFC 8446, 5.1), so ciphertext can be cut between records.

*One small record at a time.* OpenSSL is given the next record, and with it the following ones as long as they
are `LARGE_RECORD` or more: what large records cost is in proportion to their bytes, which the loop's budget
counts. The rest waits in `_unfed`. A header that has not come as a whole waits there, too, so OpenSSL never
holds half of a header.

*Records without data* are counted where OpenSSL asks for more: each takes `RECORD_COST` from the loop's
budget, and a read yields a turn when that is used up. More than `MOST_WITHOUT_DATA` in a row, with nothing
written meanwhile, end the connection. A peer that only receives a long stream updates its keys now and then,
and is not cut; one that does nothing else has no honest purpose.

Both engines share the attributes; the compiled one takes the numbers from here and has the same in C
(`native/tls.c`).
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from .memory import SMALL

__all__ = [
    "CIPHER_COST",
    "LARGE_RECORD",
    "MOST_OF_HANDSHAKE",
    "MOST_WITHOUT_DATA",
    "RECORD_COST",
    "RecordIntake",
]

LARGE_RECORD = 4096
"""Bytes, header included, from which on several records are given to OpenSSL at once."""

RECORD_COST = 2
"""What a record without data takes of the loop's budget."""

CIPHER_COST = 2
"""What encrypting or decrypting a byte takes, beside what moving it takes, of the room for large operations
(`wires/pacing.py`): with AES-GCM and 64 KiB, a read and a write took 180 µs, where plain ones took 50."""

MOST_WITHOUT_DATA = 32
"""Records in a row that may bring no data while nothing is written."""

MOST_OF_HANDSHAKE = 1024
"""Records of one handshake: a ClientHello may come in records of a byte."""

_HEADER = 5  # type, version, length


class RecordIntake:
    """The way of ciphertext from the wire beneath to OpenSSL. The attributes are those of the TLS wire."""

    if not TYPE_CHECKING:  # which would not see them there
        __slots__ = ()

    _incoming: ssl.MemoryBIO
    _more: bool
    _own_loss: OSError | None
    _record_left: int
    """Bytes that are still to come of the record that OpenSSL was given last."""
    _unfed: bytes
    """Ciphertext that came; OpenSSL has been given the first `_unfed_at` bytes of it."""
    _unfed_at: int
    _unread_records: int
    """The most records that OpenSSL may hold unread."""
    _idle_records: int
    """Records in a row that had no data."""

    def _note_fed(self, count: int) -> None:
        raise NotImplementedError

    def _begin_intake(self) -> None:
        self._unfed = b""
        self._unfed_at = self._record_left = self._unread_records = self._idle_records = 0

    def _take_in(self, ciphertext: bytes, small: int = 1) -> None:
        """Give OpenSSL the first of what has come: up to `small` small records, and large ones.

        `_feed_next` has returned false before.
        """
        size, is_begun = len(ciphertext), self._unfed or self._record_left
        if not is_begun and size > _HEADER and size == _HEADER + (ciphertext[3] << 8 | ciphertext[4]):
            self._incoming.write(ciphertext)  # one record, as mostly
            self._unread_records = 1
            self._more = True
            return
        if self._unfed:  # a part of a header
            ciphertext = self._unfed[self._unfed_at :] + ciphertext
        self._unfed, self._unfed_at = ciphertext, 0
        self._feed_next(small)

    def _has_next(self) -> bool:
        """Whether a record, or its beginning, is here that OpenSSL was not given yet."""
        return len(self._unfed) - self._unfed_at >= _HEADER

    def _feed_next(self, small: int = 1) -> bool:
        """Give OpenSSL what comes next of what is here; whether there was anything."""
        unfed, start = self._unfed, self._unfed_at
        if not unfed or self._own_loss is not None:
            return False
        left = self._record_left
        end, self._unread_records, self._record_left = _next_records(unfed, start, left, small)
        if end == start:
            return False
        self._incoming.write(unfed[start:end])
        self._more = True
        if len(unfed) - end < _HEADER:
            self._unfed, self._unfed_at = unfed[end:], 0
        else:
            self._unfed_at = end
        if len(unfed) > SMALL or left or self._record_left:
            self._note_fed(end - start)
        return True


def _next_records(data: bytes, start: int, left: int, small: int) -> tuple[int, int, int]:
    """Return where in `data` the records end that are next, how many of them, and what the last one lacks.

    At `start` are the last `left` bytes of a record, and then whole ones; `small` of them may be small.
    """
    at, end, count = start, len(data), 0
    while True:
        if not left:
            if end - at < _HEADER:
                break
            left = _HEADER + (data[at + 3] << 8 | data[at + 4])
            if left < LARGE_RECORD:
                if not small:
                    left = 0
                    break
                small -= 1
        part = min(left, end - at)
        at += part
        left -= part
        if left:
            break
        count += 1
    return at, count, left
