"""Many writers, some cancelled, and a reader with short deadlines, both ways at once: nothing lost or torn.

What is done is drawn from a seed; what the peer finds is messages, each whole, in the order of their writes.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct

import pytest
from conformance.transports import Accepted, TcpDialed, TlsTransport, UnixDialed

from .scenes import TLS_VERSIONS

pytestmark = pytest.mark.asyncio

HOST = "127.0.0.1"
TRANSPORTS = [
    TlsTransport(Accepted("tcp4", socket.AF_INET, HOST)),
    TlsTransport(Accepted("tcp4", socket.AF_INET, HOST), version=TLS_VERSIONS[1]),
    TlsTransport(UnixDialed()),
    TlsTransport(TcpDialed("tcp4-dialed", socket.AF_INET, HOST), layers=2),
]
HEADER = struct.Struct("!II")  # number and length
SIZES = (0, 1, 100, 5000, 16384, 65536, 65537, 200_000)
WRITES = 120


def body_of(number: int, size: int) -> bytes:
    return bytes([number % 251]) * size


def pieces(seed: int) -> list[bytes]:
    """What the peer sends."""
    chance = random.Random(seed)
    return [body_of(number, chance.choice(SIZES)) for number in range(60)]


class Conversation:
    """One connection, one seed."""

    def __init__(self, sock, seed: int) -> None:
        self.sock = sock
        self.chance = random.Random(seed)
        self.finished: set[int] = set()

    async def write(self, number: int) -> None:
        body = body_of(number, self.chance.choice(SIZES))
        header = HEADER.pack(number, len(body))
        if self.chance.random() < 0.3:
            await self.sock.write_vectored([header, body])
        else:
            await self.sock.write(header + body)
        self.finished.add(number)

    async def write_all(self) -> None:
        writing = []
        for number in range(WRITES):
            writing.append(asyncio.create_task(self.write(number)))
            for _ in range(self.chance.choice((0, 0, 1, 2, 5))):
                await asyncio.sleep(0)
            if self.chance.random() < 0.4:
                self.chance.choice(writing[-4:]).cancel()
        for result in await asyncio.gather(*writing, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        await self.sock.send_eof()

    async def read_all(self) -> bytes:
        received = bytearray()
        while True:
            try:
                async with asyncio.timeout(self.chance.choice((0, 0.0005, 0.01, 1))):
                    data = await self.sock.read(self.chance.choice((1, 1000, 65536, 200_000)))
            except TimeoutError:
                continue
            if not data:
                return bytes(received)
            received += data


def messages_in(stream: bytes) -> list[int]:
    """The numbers of the messages, each of which has to be whole."""
    found, place = [], 0
    while place < len(stream):
        number, size = HEADER.unpack_from(stream, place)
        place += HEADER.size
        assert stream[place : place + size] == body_of(number, size)
        place += size
        found.append(number)
    return found


@pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda transport: transport.name)
@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 25), marks=pytest.mark.slow)])
async def test_nothing_is_lost_or_torn(transport, seeds):
    for seed in seeds:
        async with transport.connected(linger=20.0) as (sock, peer):

            def send(raw, seed=seed):
                for piece in pieces(seed):
                    raw.sendall(piece)
                raw.shutdown(socket.SHUT_WR)

            receiving = asyncio.ensure_future(peer.receive_to_end())
            sending = peer.in_thread(send)
            conversation = Conversation(sock, seed)
            received, _ = await asyncio.gather(conversation.read_all(), conversation.write_all())
            await sending
            assert received == b"".join(pieces(seed))
            arrived = messages_in(await receiving)
            assert arrived == sorted(arrived)
            assert conversation.finished <= set(arrived)
            await sock.aclose()
