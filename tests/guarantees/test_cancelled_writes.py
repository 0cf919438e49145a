"""Writes that are cancelled at random arrive whole or not at all, in order, whatever the reader does.

Frames are numbered by their writer and carry a checksum. The reader is a plain socket in a thread that stalls
now and then, so that writes have to wait, in part or altogether, when they are cancelled.
"""

from __future__ import annotations

import asyncio
import io
import random
import socket
import struct
import tempfile
import time
import zlib
from contextlib import suppress
from typing import IO

import pytest
from peers import RawListener

import aionet

HEADER = struct.Struct(">4sIIII")  # magic, writer, number, length, checksum
MAGIC = b"wHoL"
WAYS = ("write", "write, changed afterwards", "write_vectored", "send_file", "send_file, no descriptor")
LARGEST = 400 * 1024
SMALL_BUFFER = 32 * 1024


def frame(writer: int, number: int, rng: random.Random) -> bytearray:
    length = rng.choice((0, 1, 100, 5_000, 70_000, rng.randrange(LARGEST)))
    body = rng.randbytes(length)
    return bytearray(HEADER.pack(MAGIC, writer, number, length, zlib.crc32(body)) + body)


def split(data: bytearray, rng: random.Random) -> list[memoryview]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    return [memoryview(data)[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Writer:
    """Writes frames until told to stop, and has each write cancelled at a random moment or not at all."""

    def __init__(self, sock: aionet.AsyncTcpSocket, writer: int, seed: int) -> None:
        self._sock = sock
        self._writer = writer
        self._rng = random.Random(seed * 100 + writer)
        self.made = 0
        self.returned: set[int] = set()
        self.cancelled: set[int] = set()

    async def write_frames(self, count: int, *, cancelled: float) -> None:
        """Write `count` frames, and cancel a share of them."""
        for _ in range(count):
            data = frame(self._writer, self.made, self._rng)
            self.made += 1
            task = asyncio.ensure_future(self._write(data))
            if self._rng.random() < cancelled:
                await self._cancel_sometime(task)
            try:
                written = await task
            except asyncio.CancelledError:
                self.cancelled.add(self.made - 1)
            else:
                assert written == len(data)
                self.returned.add(self.made - 1)

    async def _cancel_sometime(self, task: asyncio.Future[int]) -> None:
        if self._rng.random() < 0.8:
            await asyncio.sleep(self._rng.random() * 0.02)
        else:
            for _ in range(self._rng.randrange(4)):
                await asyncio.sleep(0)
        task.cancel()

    async def _write(self, data: bytearray) -> int:
        way = self._rng.choice(WAYS)
        try:
            if way == "write":
                return await self._sock.write(bytes(data))
            if way == "write, changed afterwards":
                return await self._sock.write(data)
            if way == "write_vectored":
                return await self._sock.write_vectored(split(data, self._rng))
            file: IO[bytes]
            if way == "send_file":
                with tempfile.TemporaryFile() as file:  # closed as soon as the write is cancelled
                    return await self._send_file(file, data)
            return await self._send_file(io.BytesIO(), data)
        finally:
            if way in ("write, changed afterwards", "write_vectored"):
                data[:] = bytes(len(data))

    async def _send_file(self, file: IO[bytes], data: bytearray) -> int:
        before = self._rng.randrange(1_000)
        file.write(bytes(before) + data + b"not part of it")
        file.flush()
        return await self._sock.send_file(file, before, len(data))


def receive_with_stalls(sock: socket.socket, seed: int) -> bytes:
    """Receive to the end, now hesitating, now in big gulps."""
    rng = random.Random(seed)
    received = bytearray()
    while data := sock.recv(rng.choice((1_000, 30_000, 1 << 20))):
        received += data
        if rng.random() < 0.02:
            time.sleep(rng.random() * 0.02)
    return bytes(received)


def whole_frames(stream: bytes, writers: int) -> dict[int, list[int]]:
    """Cut `stream` into frames, which must be whole; return the numbers of each writer, as they came."""
    found: dict[int, list[int]] = {writer: [] for writer in range(writers)}
    rest = memoryview(stream)
    while rest:
        assert len(rest) >= HEADER.size, "the last frame is torn"
        magic, writer, number, length, checksum = HEADER.unpack(rest[: HEADER.size])
        assert magic == MAGIC, f"a frame was torn before byte {len(stream) - len(rest)}"
        body, rest = rest[HEADER.size : HEADER.size + length], rest[HEADER.size + length :]
        assert len(body) == length, "the last frame is torn"
        assert zlib.crc32(body) == checksum, f"frame {number} of writer {writer} arrived changed"
        found[writer].append(number)
    return found


@pytest.mark.asyncio
@pytest.mark.parametrize("writing", [1, 3])
@pytest.mark.slow
async def test_a_stalling_reader_of_cancelled_writes_sees_whole_frames_in_order(writing: int) -> None:
    # Until there were enough cancelled writes of both kinds; with too few of them this shows nothing.
    withdrawn = finished_alone = rounds = 0
    while withdrawn < 10 or finished_alone < 10:
        writers, arrived = await write_and_receive(writing, seed=writing * 100 + rounds)
        rounds += 1
        for number, writer in enumerate(writers):
            assert arrived[number] == sorted(set(arrived[number])), "out of order, or twice"
            assert writer.returned <= set(arrived[number]), "a write returned, and its frame did not arrive"
            finished_alone += len(writer.cancelled & set(arrived[number]))
            withdrawn += len(writer.cancelled - set(arrived[number]))
            assert len(writer.returned) + len(writer.cancelled) == writer.made
    print(f"{withdrawn} withdrawn, {finished_alone} finished alone, {rounds} rounds")


async def write_and_receive(writing: int, seed: int) -> tuple[list[Writer], dict[int, list[int]]]:
    options = aionet.TcpOptions(send_buffer=SMALL_BUFFER, linger=30.0)
    with RawListener() as listener:
        sock = await aionet.AsyncTcpSocket(options=options).connect_to(listener.address)
        with await listener.accept() as peer:
            writers = [Writer(sock, number, seed) for number in range(writing)]
            await writers[0].write_frames(5, cancelled=1)  # nobody reads yet: it stalls
            receiving = peer.in_thread(lambda raw: receive_with_stalls(raw, seed))
            await asyncio.gather(*(writer.write_frames(60 // writing, cancelled=0.8) for writer in writers))
            await sock.aclose()
            return writers, whole_frames(await receiving, writing)


@pytest.mark.asyncio
async def test_a_torn_frame_is_told_by_the_close_that_could_not_finish_it() -> None:
    """Begun, cancelled, and then the peer never reads on: `aclose` must not keep that to itself."""
    options = aionet.TcpOptions(send_buffer=SMALL_BUFFER, linger=0.1)
    with RawListener() as listener:
        sock = await aionet.AsyncTcpSocket(options=options).connect_to(listener.address)
        with await listener.accept() as peer:
            task = asyncio.ensure_future(sock.write(bytes(64 << 20)))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(aionet.DeliveryError):
                await sock.aclose()
            with suppress(ConnectionResetError):  # and the peer can tell that it is not whole
                await peer.receive_to_end()
                pytest.fail("a torn stream looked like a whole one")
