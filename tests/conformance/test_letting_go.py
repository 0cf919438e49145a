"""A caller's buffer is free again as soon as its write or read has ended, also where that has raised.

Who catches the error still holds its traceback, and so the frames that it passed.
"""

from __future__ import annotations

import asyncio

import pytest
from helpers import begin

from aionet import ConnectionLostError, SocketClosedError

pytestmark = pytest.mark.asyncio

BIG = 3 << 19
"""More than both ends' kernel buffers hold."""


async def write(sock, buffer):
    await sock.write(buffer)


async def write_vectored(sock, buffer):
    await sock.write_vectored([buffer, b"and more", buffer])


async def read_into(sock, buffer):
    await sock.read_into(buffer)


async def resize_when_raised(operation, sock, buffer, error):
    """Use `buffer` in `operation`, which raises `error`, and resize it before the error is forgotten."""
    try:
        await operation(sock, buffer)
    except error:
        buffer.clear()
    else:
        raise AssertionError("it has not raised")


WRITES = pytest.mark.parametrize("operation", [write, write_vectored])
EVERYTHING = pytest.mark.parametrize("operation", [write, write_vectored, read_into])


@WRITES
async def test_a_write_that_is_withdrawn(sock, peer, operation):
    first = await begin(sock.write(b"a" * BIG))
    for size in (1000, BIG):
        waiting = await begin(resize_when_raised(operation, sock, bytearray(size), asyncio.CancelledError))
        waiting.cancel()
        await waiting
    assert await peer.receive_exactly(BIG) == b"a" * BIG
    await first


@WRITES
async def test_a_write_that_goes_on_without_its_task(sock, peer, operation):
    waiting = await begin(resize_when_raised(operation, sock, bytearray(b"b" * BIG), asyncio.CancelledError))
    waiting.cancel()
    await waiting
    assert await peer.receive_exactly(BIG) == b"b" * BIG


async def test_a_read_that_is_cancelled(sock, peer):
    waiting = await begin(resize_when_raised(read_into, sock, bytearray(100), asyncio.CancelledError))
    waiting.cancel()
    await waiting
    peer.send_now(b"kept")
    assert await sock.read() == b"kept"


@EVERYTHING
async def test_what_waits_when_this_side_closes(sock, operation):
    first = await begin(sock.write(b"a" * BIG))
    waiting = await begin(resize_when_raised(operation, sock, bytearray(BIG), SocketClosedError))
    sock.abort()
    await waiting
    with pytest.raises(SocketClosedError):
        await first


@EVERYTHING
async def test_what_comes_after_this_side_has_closed(sock, operation):
    sock.abort()
    await resize_when_raised(operation, sock, bytearray(100), SocketClosedError)


@WRITES
async def test_a_write_after_the_end_of_the_stream(sock, operation):
    await sock.send_eof()
    await resize_when_raised(operation, sock, bytearray(100), SocketClosedError)


@WRITES
async def test_writes_when_the_connection_is_lost(transport, pair, operation):
    begun, behind = [
        await begin(resize_when_raised(operation, pair.socket, bytearray(BIG), ConnectionLostError))
        for _ in range(2)
    ]
    pair.peer.reset() if transport.resets else pair.peer.close()
    await asyncio.gather(begun, behind)
    await resize_when_raised(operation, pair.socket, bytearray(100), ConnectionLostError)


@EVERYTHING
async def test_what_meets_the_loss_first(transport, pair, operation):
    await transport.lose(pair)
    for size in (100, BIG, 100):  # a write may find room once more
        buffer = bytearray(size)
        try:
            while True:
                await operation(pair.socket, buffer)
        except ConnectionLostError:
            buffer.clear()


async def test_what_is_no_buffer_beside_one_that_is(sock):
    buffer = bytearray(100)
    try:
        await sock.write_vectored([buffer, "text"])
    except TypeError:
        buffer.clear()
    assert not buffer
