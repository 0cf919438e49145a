"""The other end of a TLS connection: the standard library's `ssl`, which knows nothing of aionet."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import threading
from typing import Any, NamedTuple

import trustme

__all__ = ["HOST", "Contexts", "TlsOverSocket", "contexts"]

HOST = "server.example"
"""What the server's certificate is for."""

_CHUNK = 1 << 16


class Contexts(NamedTuple):
    """Two that fit each other."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@functools.cache
def contexts(version: ssl.TLSVersion | None = None) -> Contexts:
    """Return contexts of which the client's trusts the server's, for one version of TLS or for all."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    if version is not None:
        for context in (server, client):
            context.minimum_version = context.maximum_version = version
    return Contexts(server, client)


class TlsOverSocket:
    """TLS over a blocking socket, or over another of these, with the methods of a socket.

    One thread may send while another receives. Ending a direction sends close_notify. An end of the stream
    below is what a reset is to TCP: it tells that something may be missing.
    """

    def __init__(self, sock: Any, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.sock = sock
        self._incoming = ssl.MemoryBIO()
        self._encrypted = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._encrypted, server_side, None if server_side else HOST
        )
        self._ahead = b""
        self._state = threading.Lock()
        self._order = threading.Lock()

    async def shake_hands(self) -> TlsOverSocket:
        """Do the handshake, in a thread."""
        await asyncio.to_thread(self.shake_hands_now)
        return self

    def shake_hands_now(self) -> None:
        """Do the handshake."""
        while not self._step(self.tls.do_handshake):
            self._feed()

    def sendall(self, data: bytes) -> None:
        """Send all of `data`."""
        view = memoryview(data)
        while view:
            self._step(functools.partial(self.tls.write, view[:_CHUNK]))
            view = view[_CHUNK:]

    def recv(self, max_bytes: int) -> bytes:
        """Receive some bytes; ``b""`` after close_notify."""
        received: list[bytes] = []
        while not self._step(lambda: received.append(self._read(max_bytes))):
            self._feed()
        return received[0]

    def shutdown(self, how: int) -> None:
        """Send close_notify; or, both ways, end the connection below."""
        if how == socket.SHUT_WR:
            self._step(self._end)
        else:
            self.sock.shutdown(how)

    def _end(self) -> None:
        """Send close_notify; `unwrap` looks for the other one at once, and breaks if it finds data."""
        while self.tls.pending():
            self._ahead += self.tls.read(_CHUNK)
        unread = self._incoming.read()
        try:
            self.tls.unwrap()
        finally:
            self._incoming.write(unread)

    def _read(self, max_bytes: int) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:max_bytes], self._ahead[max_bytes:]
            return data
        try:
            return self.tls.read(max_bytes)
        except ssl.SSLZeroReturnError:
            return b""

    def _step(self, operation: Any) -> bool:
        """Do it, and send what it makes; whether it is finished."""
        with self._order:
            try:
                with self._state:
                    operation()
                return True
            except ssl.SSLWantReadError:
                return False
            finally:  # an alert, too
                with self._state:
                    encrypted = self._encrypted.read()
                if encrypted:
                    self.sock.sendall(encrypted)

    def _feed(self) -> None:
        encrypted = self.sock.recv(_CHUNK)
        if not encrypted:
            raise ConnectionResetError("the stream ended without close_notify")
        with self._state:
            self._incoming.write(encrypted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)
