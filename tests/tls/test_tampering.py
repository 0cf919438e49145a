"""Somebody on the way: whatever is done to the stream, what is read is right, or one clean error.

A peer sends a fixed conversation through `Tampering`, which spoils one record of it, each in turn, those of
the handshake and close_notify included. It is the same on every loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable

import pytest
from tls_peers import HOST, TlsOverSocket, contexts

from aionet import AsyncTcpSocket, ConnectionLostError, TlsError

from .scenes import TLS_VERSIONS, failing_server

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

PIECES = [b"first" * 10, bytes(range(256)) * 100, b"last"]
HEADER = 5
MOST_RECORDS = 40
STALL = 0.2
"""Seconds after which whoever has spoilt the stream hangs up: both ends may be waiting for each other."""

Spoil = Callable[[bytearray, random.Random], bool]
"""Changes a record; false if the stream ends with it."""


def flip_in_header(record: bytearray, chance: random.Random) -> bool:
    record[chance.randrange(HEADER)] ^= 1 << chance.randrange(8)
    return True


def flip_in_body(record: bytearray, chance: random.Random) -> bool:
    record[chance.randrange(HEADER, len(record))] ^= 1 << chance.randrange(8)
    return True


def cut_before(record: bytearray, chance: random.Random) -> bool:
    record.clear()
    return False


def cut_within(record: bytearray, chance: random.Random) -> bool:
    del record[chance.randrange(1, len(record)) :]
    return False


def drop(record: bytearray, chance: random.Random) -> bool:
    record.clear()
    return True


def repeat(record: bytearray, chance: random.Random) -> bool:
    record *= 2
    return True


class Tampering:
    """A socket on which record `number` is spoilt, and all are cut up at random."""

    def __init__(self, sock: socket.socket, number: int, spoil: Spoil | None, chance: random.Random) -> None:
        self.sock, self.number, self.spoil, self.chance = sock, number, spoil, chance
        self.records = 0
        self.ended = False

    def sendall(self, data: bytes) -> None:
        stream = bytearray()
        while data and not self.ended:
            length = HEADER + int.from_bytes(data[3:HEADER], "big")
            record, data = bytearray(data[:length]), data[length:]
            if self.spoil is not None and self.records == self.number:
                self.ended = not self.spoil(record, self.chance)
                self.sock.settimeout(STALL)
            self.records += 1
            stream += record
        while stream:
            length = self.chance.choice((1, 3, HEADER, HEADER + 1, 100, 20_000))
            self.sock.sendall(stream[:length])
            del stream[:length]
        if self.ended:
            self.sock.shutdown(socket.SHUT_WR)

    def __getattr__(self, name: str) -> object:
        return getattr(self.sock, name)


async def converse(version, number, spoil, chance) -> tuple[bytes, Exception | None, int]:
    """Return what was read, the error that ended it, and how many records there were."""
    server, client = contexts(version)
    tampering: list[Tampering] = []

    def serve(peer):
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tampering.append(Tampering(peer.sock, number, spoil, chance))
        peer.sock = TlsOverSocket(tampering[0], server, server_side=True)
        with contextlib.suppress(OSError):  # the client may be gone after its error
            peer.sock.shake_hands_now()
            for piece in PIECES:
                peer.sock.sendall(piece)
            peer.half_close()
            peer.sock.recv(1)

    received, failed = bytearray(), None
    async with failing_server(serve) as address, asyncio.timeout(20):
        sock = AsyncTcpSocket()
        try:
            await sock.connect_to(address, tls=client, server_hostname=HOST)
            async for chunk in sock:
                received += chunk
        except (TlsError, ConnectionLostError) as error:
            failed = error
        await sock.aclose()
    return bytes(received), failed, tampering[0].records


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_a_stream_that_is_only_cut_up_arrives(version):
    for seed in range(3):
        received, failed, records = await converse(version, 0, None, random.Random(seed))
        assert (received, failed) == (b"".join(PIECES), None)
        assert records < MOST_RECORDS


@pytest.mark.parametrize("version", TLS_VERSIONS)
@pytest.mark.parametrize("spoil", [flip_in_header, flip_in_body, cut_before, cut_within, drop, repeat])
async def test_every_record_spoilt_in_turn(version, spoil):
    expected = b"".join(PIECES)
    number, records = 0, MOST_RECORDS
    while number < records:
        chance = random.Random(f"{version.name} {spoil.__name__} {number}")
        received, failed, seen = await converse(version, number, spoil, chance)
        if seen <= number:  # there is no such record
            break
        assert expected.startswith(received), number
        if failed is None:
            assert received == expected, number
        if spoil is cut_before or spoil is cut_within:
            assert failed is not None, number
        number += 1
    assert number >= 6
