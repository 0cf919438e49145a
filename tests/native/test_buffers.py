"""Buffers of every kind, read into and written from, and what their owners do to them meanwhile."""

from __future__ import annotations

import array
import asyncio
import ctypes
import mmap

import pytest
import pytest_asyncio
from helpers import give_turns

from .support import lines

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "own"])

MUCH = 8_000_000


@pytest_asyncio.fixture
async def line():
    async with lines(1) as made:
        yield made[0]


BUFFERS = {
    "bytearray": lambda: bytearray(8),
    "memoryview": lambda: memoryview(bytearray(8)),
    "array": lambda: array.array("I", [0, 0]),
    "ctypes": lambda: (ctypes.c_uint32 * 2)(),
    "mmap": lambda: mmap.mmap(-1, 8),
    "two-dimensional": lambda: memoryview(bytearray(8)).cast("B", (2, 4)),
}


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", BUFFERS)
async def test_reading_into(line, kind, waits):
    buffer = BUFFERS[kind]()
    if not waits:
        line.peer.send_now(b"abcdefghij")
    reading = asyncio.create_task(line.sock.read_into(buffer))
    await give_turns()
    if waits:
        line.peer.send_now(b"abcdefghij")
    assert await reading == 8
    assert bytes(memoryview(buffer).cast("B")) == b"abcdefgh"
    assert await line.sock.read() == b"ij"


async def test_reading_into_a_slice(line):
    buffer = bytearray(b"........")
    line.peer.send_now(b"abcdefgh")
    assert await line.sock.read_into(memoryview(buffer)[2:5]) == 3
    assert buffer == b"..abc..."
    assert await line.sock.read() == b"defgh"


@pytest.mark.parametrize("change", ["buffer.clear()", "buffer.extend(bytes(100_000))", "del buffer[1:]"])
async def test_resizing_what_a_read_waits_to_fill(line, change):
    """Either that is refused, or the read takes it as it is; but it may not pretend that the stream ended."""
    buffer = bytearray(8)
    reading = asyncio.create_task(line.sock.read_into(buffer))
    await give_turns()
    try:
        exec(change)
    except BufferError:
        pass
    line.peer.send_now(b"a")
    try:
        count = await asyncio.wait_for(reading, 30)
    except ValueError:
        count = None
        assert await line.sock.read() == b"a"
    assert count != 0, "a clean end of the stream, which has not ended"
    if count:
        assert buffer[:1] == b"a"


async def test_releasing_a_view_that_a_read_waits_to_fill(line):
    buffer = bytearray(8)
    view = memoryview(buffer)
    reading = asyncio.create_task(line.sock.read_into(view))
    await give_turns()
    view.release()
    line.peer.send_now(b"a")
    try:
        assert await reading == 1
    except ValueError:
        assert await line.sock.read() == b"a"


@pytest.mark.parametrize("name", ["read", "write"])
async def test_views_that_are_not_contiguous(line, name):
    view = memoryview(bytearray(9))[::2]
    if name == "read":
        with pytest.raises(TypeError):
            await line.sock.read_into(view)
    else:
        with pytest.raises(BufferError):
            await line.sock.write(view)
        with pytest.raises(BufferError):
            await line.sock.write_vectored([b"not sent", view])
    await line.sock.write(b"goes on")
    assert await line.peer.receive() == b"goes on"


async def test_huge_reads(line):
    for max_bytes in (50_000_000, 2**62, 2**70):
        line.peer.send_now(b"abc")
        assert await line.sock.read(max_bytes) == b"abc"


@pytest.mark.parametrize("kind", BUFFERS)
async def test_writing(line, kind):
    buffer = BUFFERS[kind]()
    memoryview(buffer).cast("B")[:] = b"abcdefgh"
    assert await line.sock.write(buffer) == 8
    assert await line.sock.write_vectored([buffer, b"", buffer]) == 16
    assert await line.peer.receive_exactly(24) == b"abcdefgh" * 3


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1024, 1025, 2000])
async def test_writing_many_buffers(line, count):
    buffers = [b"%d," % number if number % 3 else b"" for number in range(count)]
    whole = b"".join(buffers)
    assert await line.sock.write_vectored(buffers) == len(whole)
    await line.sock.send_eof()
    assert await line.peer.receive_to_end() == whole


@pytest.mark.parametrize("vectored", [False, True])
async def test_a_mutable_buffer_is_the_callers_again_after_a_cancelled_write(line, vectored):
    buffer = bytearray(b"a" * MUCH)
    write = line.sock.write_vectored([buffer, b"."]) if vectored else line.sock.write(buffer)
    writing = asyncio.create_task(write)
    await give_turns()
    assert not writing.done()
    writing.cancel()
    await asyncio.wait([writing])
    buffer[:] = b"b" * MUCH
    buffer.clear()
    received = await line.peer.receive_exactly(MUCH + vectored)
    assert received == b"a" * MUCH + b"." * vectored


async def test_a_mutable_buffer_is_the_callers_again_after_a_write(line):
    buffer = bytearray(b"a" * MUCH)
    receiving = asyncio.create_task(line.peer.receive_exactly(MUCH))
    assert await line.sock.write(buffer) == MUCH
    buffer[:] = b"b" * MUCH
    buffer.clear()
    assert await receiving == b"a" * MUCH
    await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize("vectored", [False, True])
async def test_a_mutable_buffer_is_not_resized_while_it_is_being_written(line, vectored):
    buffer = bytearray(b"a" * MUCH)
    write = line.sock.write_vectored([buffer]) if vectored else line.sock.write(buffer)
    writing = asyncio.create_task(write)
    await give_turns()
    assert not writing.done()
    with pytest.raises(BufferError):
        buffer.clear()
    assert await line.peer.receive_exactly(MUCH) == b"a" * MUCH
    assert await writing == MUCH
    buffer.clear()


async def test_a_list_of_buffers_is_taken_as_it_is_when_it_is_given(line):
    buffers = [b"one", b"two"]
    write = line.sock.write_vectored(buffers)
    buffers.clear()
    assert await write in (0, 6)
    await line.sock.send_eof()
    assert await line.peer.receive_to_end() in (b"", b"onetwo")
