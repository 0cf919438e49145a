"""TLS 1.3 by hand, as far as attackers need what no library sends: ClientHellos, and records of any content.

Theory of operation
-------------------
`client_hello` writes the message of RFC 8446, 4.1.2, with one key share (4.2.8), which may be for any group.

`RecordWriter` takes over the sending side after a handshake that the standard library did: the secret comes
from its key log, keys and nonces are derived from it (RFC 8446, 7.3 and 5.3), and KeyUpdate replaces the
secret (7.2). What the server sends afterwards is not decrypted.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import tempfile

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from .attacker import Target, trusting_all

__all__ = [
    "ALERT",
    "APPLICATION_DATA",
    "GROUPS",
    "HANDSHAKE",
    "RecordWriter",
    "client_hello",
    "records",
    "shaken",
]

ALERT, HANDSHAKE, APPLICATION_DATA = 21, 22, 23
GROUPS = {
    "x25519": (0x001D, 32),
    "ffdhe2048": (0x0100, 256),
    "ffdhe4096": (0x0102, 512),
    "ffdhe8192": (0x0104, 1024),
}
"""The number of a group (RFC 8446, 4.2.7) and the length of its key share."""


def client_hello(
    group: str = "x25519", *, name: bytes = b"server.example", protocols: bytes = b"", ticket: bytes = b""
) -> bytes:
    """Return the message with a random key share. `protocols` is the list of ALPN as it is sent.

    `ticket` is offered for resumption (4.2.11) with a binder that cannot be right.
    """
    number, length = GROUPS[group]
    share = b"\x5a" + os.urandom(length - 1)
    extensions = [
        _extension(0, _sized(2, b"\x00" + _sized(2, name))),
        _extension(10, _sized(2, struct.pack(">H", number))),
        _extension(13, _sized(2, bytes.fromhex("0403080408050806060106030501050304010503"))),
        _extension(43, _sized(1, b"\x03\x04")),
        _extension(51, _sized(2, struct.pack(">H", number) + _sized(2, share))),
    ]
    if protocols:
        extensions.append(_extension(16, _sized(2, protocols)))
    if ticket:
        identity = _sized(2, ticket) + os.urandom(4)
        extensions.append(_extension(45, _sized(1, b"\x01")))
        extensions.append(_extension(41, _sized(2, identity) + _sized(2, _sized(1, os.urandom(32)))))
    body = b"\x03\x03" + os.urandom(32) + _sized(1, os.urandom(32))
    body += _sized(2, bytes.fromhex("130213011303")) + b"\x01\x00" + _sized(2, b"".join(extensions))
    return b"\x01" + _sized(3, body)


def records(message: bytes, most: int = 16384) -> bytes:
    """Return a handshake message in plaintext records of `most` bytes each."""
    parts = (message[at : at + most] for at in range(0, len(message), most))
    return b"".join(b"\x16\x03\x01" + _sized(2, part) for part in parts)


def _extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">H", kind) + _sized(2, content)


def _sized(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width) + content


class RecordWriter:
    """A connection after its handshake, on which records of any content can be made and sent."""

    def __init__(self, target: Target) -> None:
        self.sock, tls, (_, self._secret), _ = shaken(target, trusting_all(), "CLIENT_TRAFFIC_SECRET_0")
        cipher = tls.cipher()
        assert cipher is not None
        assert cipher[0] == "TLS_AES_256_GCM_SHA384", cipher
        self._hash = hashes.SHA384()
        self._renew_keys()

    def record(self, kind: int, content: bytes) -> bytes:
        """Return one protected record (5.2)."""
        header = struct.pack(">BHH", APPLICATION_DATA, 0x0303, len(content) + 1 + 16)
        nonce = (self._iv ^ self._sequence).to_bytes(12)
        self._sequence += 1
        return header + self._cipher.encrypt(nonce, content + bytes([kind]), header)

    def key_update(self, *, requested: bool) -> bytes:
        """Return the record of a KeyUpdate (4.6.3), which may ask for one in return; new keys follow."""
        made = self.record(HANDSHAKE, bytes([24, 0, 0, 1, int(requested)]))
        self._secret = self._derived(self._secret, b"traffic upd", self._hash.digest_size)
        self._renew_keys()
        return made

    def _renew_keys(self) -> None:
        self._cipher = AESGCM(self._derived(self._secret, b"key", 32))
        self._iv = int.from_bytes(self._derived(self._secret, b"iv", 12))
        self._sequence = 0

    def _derived(self, secret: bytes, label: bytes, length: int) -> bytes:
        """HKDF-Expand-Label of 7.1 with an empty context."""
        info = struct.pack(">H", length) + _sized(1, b"tls13 " + label) + b"\x00"
        return HKDFExpand(algorithm=self._hash, length=length, info=info).derive(secret)


def shaken(
    target: Target, context: ssl.SSLContext, label: str
) -> tuple[socket.socket, ssl.SSLObject, tuple[bytes, bytes], bytes]:
    """Connect and do the handshake.

    Returns the bare socket, what has done the handshake, the client's random number and the secret `label` of
    the key log, and what the server sent.
    """
    with tempfile.NamedTemporaryFile("r") as log:
        context.keylog_filename = log.name
        sock = target.connect()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="server.example")
        received = b""
        while not _stepped(tls, sock, outgoing):
            said = sock.recv(65536)
            received += said
            incoming.write(said)
        random, secret = next(line.split()[1:] for line in log if line.startswith(f"{label} "))
    return sock, tls, (bytes.fromhex(random), bytes.fromhex(secret)), received


def _stepped(tls: ssl.SSLObject, sock: socket.socket, outgoing: ssl.MemoryBIO) -> bool:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    finally:
        sock.sendall(outgoing.read())
    return True
