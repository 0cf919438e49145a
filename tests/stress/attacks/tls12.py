"""TLS 1.2 by hand, as far as an attacker needs it that asks for a new handshake on a connection that has one.

Theory of operation
-------------------
The standard library does the handshake. The keys are derived from the master secret in its key log and from
the random number in the server's hello (RFC 5246, 6.3 and 8.1), for AES-GCM (RFC 5288).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import ssl
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .attacker import Target, trusting_all
from .tls13 import HANDSHAKE, shaken

__all__ = ["Renegotiator"]

_SUITE = "ECDHE-ECDSA-AES128-GCM-SHA256"
_RANDOM_IN_HELLO = slice(11, 43)  # after the headers of record and message, and the version
_KEY, _IV = 16, 4  # bytes; the suite has no other keys


class Renegotiator:
    """A connection after its handshake, on which hellos for another one can be made and sent."""

    def __init__(self, target: Target) -> None:
        context = trusting_all(ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(_SUITE)
        self.sock, _, (random, master), received = shaken(target, context, "CLIENT_RANDOM")
        block = _expanded(master, b"key expansion" + received[_RANDOM_IN_HELLO] + random, 2 * (_KEY + _IV))
        self._cipher, self._iv = AESGCM(block[:_KEY]), block[2 * _KEY : 2 * _KEY + _IV]
        self._sequence = 1  # the first record was the end of the handshake

    def hello(self) -> bytes:
        """Return the protected record of a ClientHello without extensions."""
        body = b"\x03\x03" + os.urandom(32) + b"\x00" + b"\x00\x02\xc0\x2b" + b"\x01\x00"
        message = b"\x01" + len(body).to_bytes(3) + body
        number = self._sequence.to_bytes(8)
        self._sequence += 1
        covered = number + struct.pack(">BHH", HANDSHAKE, 0x0303, len(message))
        content = number + self._cipher.encrypt(self._iv + number, message, covered)
        return struct.pack(">BHH", HANDSHAKE, 0x0303, len(content)) + content


def _expanded(secret: bytes, seed: bytes, length: int) -> bytes:
    """P_SHA256 of RFC 5246, 5."""
    made, chained = b"", seed
    while len(made) < length:
        chained = hmac.digest(secret, chained, hashlib.sha256)
        made += hmac.digest(secret, chained + seed, hashlib.sha256)
    return made[:length]
