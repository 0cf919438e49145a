"""Records of TLS 1.3 made to order: what OpenSSL's clients do not send, or not so often."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from tls_peers import TlsOverSocket

__all__ = ["Records", "shaken_hands"]

ALERT, HANDSHAKE, DATA = 21, 22, 23
_KEY_UPDATE = b"\x18\x00\x00\x01"
_SIZES = {
    "TLS_AES_256_GCM_SHA384": (hashes.SHA384(), 48, 32),
    "TLS_AES_128_GCM_SHA256": (hashes.SHA256(), 32, 16),
}


class Records:
    """What one side of a connection sends, encrypted by ourselves (RFC 8446, 5.2 and 7)."""

    def __init__(self, cipher: str, secret: bytes) -> None:
        """`secret` is the side's application traffic secret; nothing was encrypted with it."""
        self._hash, self._size, self._key_size = _SIZES[cipher]
        self._use(secret)

    def data(self, content: bytes, padding: int = 0) -> bytes:
        """Data, perhaps none."""
        return self._record(DATA, content, padding)

    def alert(self, level: int, description: int) -> bytes:
        return self._record(ALERT, bytes((level, description)))

    def key_update(self, *, requested: bool = False, padding: int = 0) -> bytes:
        """New keys for this side; `requested` asks for new keys of the other one."""
        record = self._record(HANDSHAKE, _KEY_UPDATE + bytes((requested,)), padding)
        self._use(self._expanded("traffic upd", self._size))
        return record

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(self._expanded("key", self._key_size))
        self._iv = int.from_bytes(self._expanded("iv", 12))
        self._number = 0

    def _expanded(self, label: str, length: int) -> bytes:
        name = f"tls13 {label}".encode()
        info = length.to_bytes(2) + len(name).to_bytes(1) + name + b"\x00"
        return HKDFExpand(self._hash, length, info).derive(self._secret)

    def _record(self, kind: int, content: bytes, padding: int = 0) -> bytes:
        plain = content + bytes((kind,)) + bytes(padding)
        header = b"\x17\x03\x03" + (len(plain) + 16).to_bytes(2)
        nonce = (self._iv ^ self._number).to_bytes(12)
        self._number += 1
        return header + self._cipher.encrypt(nonce, plain, header)


class Corked:
    """A socket that sends only when it receives, or is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.held = sock, b""

    def sendall(self, data: bytes) -> None:
        self.held += data

    def recv(self, max_bytes: int) -> bytes:
        self.flush()
        return self.sock.recv(max_bytes)

    def flush(self) -> None:
        held, self.held = self.held, b""
        self.sock.sendall(held)


def shaken_hands(
    sock: socket.socket,
    client: ssl.SSLContext,
    log: Path,
    behind: Callable[[Records], bytes] = lambda records: b"",
) -> tuple[TlsOverSocket, Records]:
    """Do the handshake of a client on `sock`; returns the TLS of `ssl`, for reading, and what is to write.

    `log` is a new file, for the keys; `behind` makes what goes out together with the client's last flight.
    """
    client.keylog_filename = str(log)
    corked = Corked(sock)
    try:
        tls = TlsOverSocket(corked, client, server_side=False)
        tls.shake_hands_now()
    finally:
        client.keylog_filename = None  # type: ignore[assignment]
    lines = [line.split() for line in log.read_text().splitlines()]
    secrets = [line[2] for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0"]
    cipher = tls.tls.cipher()
    assert cipher is not None
    records = Records(cipher[0], bytes.fromhex(secrets[-1]))
    corked.sendall(behind(records))
    corked.flush()
    tls.sock = sock
    return tls, records
