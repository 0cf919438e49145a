"""Writes: whole, in order, never interleaved, with backpressure, whatever happens to their tasks."""

from __future__ import annotations

import array
import asyncio
import ctypes
import io
import os
import time

import pytest
from helpers import begin, until

from aionet import SocketClosedError

pytestmark = pytest.mark.asyncio

BIG = 3 << 19
"""More than both ends' kernel buffers hold."""


def numbered(size):
    """Bytes in which every place looks different from its neighbourhood."""
    return array.array("I", range(size // 4)).tobytes()


async def cancel(*tasks):
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, asyncio.CancelledError)


async def test_returns_the_length(sock, peer):
    assert await sock.write(b"hello") == 5
    assert await sock.write(b"") == 0
    assert await peer.receive_exactly(5) == b"hello"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytearray(b"12345678"), id="bytearray"),
        pytest.param(memoryview(b"..12345678..")[2:10], id="memoryview"),
        pytest.param(memoryview(b"12345678").cast("I"), id="memoryview of numbers"),
        pytest.param(memoryview(b"12345678").cast("B", (2, 4)), id="memoryview of two dimensions"),
        pytest.param(array.array("Q", b"12345678"), id="array"),
    ],
)
async def test_takes_every_kind_of_buffer(sock, peer, data):
    assert await sock.write(data) == 8
    assert await sock.write_vectored([data, b"9"]) == 9
    assert await peer.receive_exactly(17) == b"12345678123456789"


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2]])
async def test_refuses_what_is_no_buffer(sock, peer, data):
    with pytest.raises(TypeError):
        await sock.write(data)
    with pytest.raises(TypeError):
        await sock.write_vectored([b"not this either", data])
    await sock.write(b"!")
    assert await peer.receive_exactly(1) == b"!"


def of_no_bytes():
    return [
        memoryview(bytearray(0)),
        (ctypes.c_uint32 * 4 * 0)(),
        (ctypes.c_uint32 * 0 * 4)(),
        array.array("I"),
    ]


@pytest.mark.parametrize("queued", [False, True])
async def test_a_buffer_of_any_shape_without_a_byte_writes_nothing(sock, peer, queued):
    size = BIG if queued else 0
    first = await begin(sock.write(bytes(size)))
    writes = [await begin(sock.write(data)) for data in of_no_bytes()]
    writes += [await begin(sock.write_vectored([b"x", data])) for data in of_no_bytes()]
    assert (await peer.receive_exactly(size + 4))[size:] == b"xxxx"
    assert await asyncio.gather(*writes) == [0] * 4 + [1] * 4
    await first


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("step", [2, -1])
@pytest.mark.parametrize("count", [1, 100])
async def test_refuses_what_is_not_contiguous_before_any_of_it_is_sent(sock, peer, queued, step, count):
    """A write that waits may not find out in its turn: those behind it would wait for ever."""
    size = BIG if queued else 0
    first = await begin(sock.write(bytes(size)))
    for data in (memoryview(bytes(9))[::step], memoryview(bytes(8)).cast("H")[::step]):
        with pytest.raises(BufferError, match="contiguous"):
            await sock.write(data)
        with pytest.raises(BufferError, match="contiguous"):
            await sock.write_vectored([b"not sent"] * count + [data])
    last = await begin(sock.write(b"after"))
    assert (await peer.receive_exactly(size + 5))[size:] == b"after"
    await asyncio.gather(first, last)


async def test_waits_while_the_peer_does_not_read(sock, peer):
    data = numbered(BIG)
    writing = await begin(sock.write(data))
    assert not writing.done()
    assert await peer.receive_exactly(BIG) == data
    assert await writing == BIG


async def test_many_small_writes(sock, peer):
    receiving = asyncio.create_task(peer.receive_exactly(4 * 3000))
    for number in range(3000):
        await sock.write(number.to_bytes(4, "big"))
    assert await receiving == b"".join(number.to_bytes(4, "big") for number in range(3000))


# Several writers --------------------------------------------------------------------------------------------


async def test_big_writes_of_several_tasks_are_whole_and_in_order(sock, peer):
    chunks = [bytes([number]) * (1 << 20) for number in range(5)]
    writing = [asyncio.create_task(sock.write(chunk)) for chunk in chunks]
    assert await peer.receive_exactly(5 << 20) == b"".join(chunks)
    assert await asyncio.gather(*writing) == [1 << 20] * 5


async def test_small_writes_of_many_tasks_are_in_the_order_of_their_calls(sock, peer):
    messages = [b"%07d\n" % number for number in range(300)]
    writing = [asyncio.create_task(sock.write(message)) for message in messages]
    received = await peer.receive_exactly(8 * 300)
    await asyncio.gather(*writing)
    assert received.splitlines(keepends=True) == messages


async def test_an_end_called_for_after_many_writes_comes_after_them(sock, peer):
    messages = [b"%07d\n" % number for number in range(100)]
    writing = [asyncio.create_task(sock.write(message)) for message in messages]
    ending = asyncio.create_task(sock.send_eof())
    received = await peer.receive_to_end()
    assert await asyncio.gather(*writing, return_exceptions=True) == [8] * 100
    await ending
    assert received == b"".join(messages)


async def test_a_small_write_does_not_overtake_a_big_one(sock, peer):
    first = await begin(sock.write(b"a" * BIG))
    second = await begin(sock.write(b"b"))
    third = await begin(sock.write_vectored([b"c", b"d"]))
    assert await peer.receive_exactly(BIG + 3) == b"a" * BIG + b"bcd"
    assert [await first, await second, await third] == [BIG, 1, 2]


# Cancelling -------------------------------------------------------------------------------------------------


async def test_cancelled_before_its_first_byte_nothing_of_it_is_sent(sock, peer):
    first = await begin(sock.write(b"a" * BIG))
    second = await begin(sock.write(b"b" * 1000))
    third = await begin(sock.write(b"c" * 1000))
    await cancel(second)
    assert await peer.receive_exactly(BIG + 1000) == b"a" * BIG + b"c" * 1000
    await asyncio.gather(first, third)


async def test_cancelled_after_its_first_byte_all_of_it_is_sent(sock, peer):
    data = numbered(BIG)
    writing = await begin(sock.write(data))
    await cancel(writing)
    next_one = await begin(sock.write(b"next"))
    assert await peer.receive_exactly(BIG + 4) == data + b"next"
    assert await next_one == 4


async def test_cancelled_after_its_first_byte_all_of_it_is_sent_even_if_nobody_writes_again(sock, peer):
    data = numbered(BIG)
    await cancel(await begin(sock.write(data)))
    assert await peer.receive_exactly(BIG) == data


async def test_a_deadline_does_not_tear_a_write(sock, peer):
    data = numbered(BIG)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await sock.write(data)
    assert await peer.receive_exactly(BIG) == data


@pytest.mark.parametrize("kind", [bytearray, lambda data: array.array("B", data)])
async def test_a_buffer_may_change_after_a_cancelled_write(sock, peer, kind):
    data = numbered(BIG)
    buffer = kind(data)
    await cancel(await begin(sock.write(buffer)))
    buffer[:] = kind(bytes(BIG))
    assert await peer.receive_exactly(BIG) == data


async def test_a_buffer_may_change_after_a_cancelled_write_seen_through_a_constant_view(sock, peer):
    data = numbered(BIG)
    buffer = bytearray(data)
    await cancel(await begin(sock.write(memoryview(buffer).toreadonly())))
    buffer[:] = bytes(BIG)
    assert await peer.receive_exactly(BIG) == data


async def test_a_buffer_may_change_after_a_finished_write(sock, peer):
    buffer = bytearray(b"x" * 50_000)
    await sock.write(buffer)
    buffer[:] = bytes(50_000)
    assert await peer.receive_exactly(50_000) == b"x" * 50_000


async def test_a_buffer_may_be_resized_after_its_write(sock, peer):
    buffer = bytearray(numbered(BIG))
    await cancel(await begin(sock.write(buffer)))
    buffer.clear()
    buffer = bytearray(b"small")
    writing = await begin(sock.write(buffer))
    assert len(await peer.receive_exactly(BIG + 5)) == BIG + 5
    await writing
    buffer.clear()


async def test_all_writers_cancelled_at_once(sock, peer):
    writers = [await begin(sock.write(bytes([65 + number]) * BIG)) for number in range(4)]
    await cancel(*writers)
    await begin(sock.write(b"end"))
    assert await peer.receive_exactly(BIG + 3) == b"A" * BIG + b"end"


# Vectored ---------------------------------------------------------------------------------------------------


async def test_vectored_writes_return_the_length_of_all(sock, peer):
    assert await sock.write_vectored([b"one", b"", bytearray(b"two"), memoryview(b"three")]) == 11
    assert await peer.receive_exactly(11) == b"onetwothree"


@pytest.mark.parametrize("buffers", [[], [b""], [b"", bytearray()]])
async def test_vectored_writes_of_nothing(sock, peer, buffers):
    assert await sock.write_vectored(buffers) == 0
    await sock.write(b"x")
    assert await peer.receive_exactly(1) == b"x"


async def test_vectored_writes_of_more_buffers_than_the_system_takes_at_once(sock, peer):
    count = 3 * os.sysconf("SC_IOV_MAX") + 7
    buffers = [b"%05d" % number for number in range(count)]
    assert await sock.write_vectored(iter(buffers)) == 5 * count
    assert await peer.receive_exactly(5 * count) == b"".join(buffers)


async def test_vectored_writes_wait_and_are_not_interleaved(sock, peer):
    buffers = [bytes([number]) * 100_000 for number in range(20)]
    first = await begin(sock.write_vectored(buffers))
    second = await begin(sock.write(b"second"))
    assert not first.done()
    assert await peer.receive_exactly(2_000_006) == b"".join(buffers) + b"second"
    assert await first == 2_000_000
    await second


async def test_a_vectored_write_cancelled_after_its_first_byte_is_sent_whole(sock, peer):
    buffers = [bytearray(bytes([number]) * 100_000) for number in range(20)]
    expected = b"".join(buffers)
    await cancel(await begin(sock.write_vectored(buffers)))
    for buffer in buffers:
        buffer.clear()
    assert await peer.receive_exactly(len(expected)) == expected


# The end of the stream --------------------------------------------------------------------------------------


async def test_eof_ends_one_direction_only(sock, peer):
    await sock.write(b"request")
    await sock.send_eof()
    assert await peer.receive_to_end() == b"request"
    peer.send_now(b"response")
    peer.half_close()
    assert await sock.read_exactly(8) == b"response"
    assert await sock.read() == b""


async def test_a_second_eof_does_nothing(sock, peer):
    await sock.send_eof()
    await sock.send_eof()
    assert await peer.receive_to_end() == b""


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda sock: sock.write(b"x"), id="write"),
        pytest.param(lambda sock: sock.write_vectored([b"x"]), id="write_vectored"),
        pytest.param(lambda sock: sock.send_file(io.BytesIO(b"x")), id="send_file"),
    ],
)
async def test_nothing_is_written_after_eof(sock, peer, write):
    await sock.send_eof()
    with pytest.raises(SocketClosedError) as caught:
        await write(sock)
    assert caught.value.operation == "write"
    assert caught.value.peer_address == sock.peer_address
    assert await peer.receive_to_end() == b""


async def test_a_second_end_waits_for_the_first(sock, peer):
    writing = await begin(sock.write(bytes(BIG)))
    first = await begin(sock.send_eof())
    second = await begin(sock.send_eof())
    assert not second.done()
    assert await peer.receive_exactly(BIG) == bytes(BIG)
    assert await peer.receive() == b""
    await asyncio.gather(writing, first, second)


async def test_a_second_end_takes_the_place_of_a_first_that_is_cancelled(sock, peer):
    writing = await begin(sock.write(bytes(BIG)))
    first = await begin(sock.send_eof())
    second = await begin(sock.send_eof())
    await cancel(first)
    assert await peer.receive_exactly(BIG) == bytes(BIG)
    assert await peer.receive() == b""
    await asyncio.gather(writing, second)


async def test_eof_comes_after_the_writes_before_it(sock, peer):
    first = await begin(sock.write(b"a" * BIG))
    second = await begin(sock.write(b"b" * 1000))
    ending = await begin(sock.send_eof())
    assert not ending.done()
    assert await peer.receive_to_end() == b"a" * BIG + b"b" * 1000
    await asyncio.gather(first, second, ending)


async def test_a_write_behind_a_waiting_eof_is_refused(sock, peer):
    first = await begin(sock.write(b"a" * BIG))
    ending = await begin(sock.send_eof())
    with pytest.raises(SocketClosedError):
        await sock.write(b"b")
    assert await peer.receive_to_end() == b"a" * BIG
    await asyncio.gather(first, ending)


async def test_a_cancelled_eof_does_not_end_the_stream(sock, peer):
    first = await begin(sock.write(b"a" * BIG))
    ending = await begin(sock.send_eof())
    await cancel(ending)
    second = await begin(sock.write(b"b"))
    assert await peer.receive_exactly(BIG + 1) == b"a" * BIG + b"b"
    await asyncio.gather(first, second)


async def test_a_finished_write_leaves_the_loop_in_peace(sock, peer):
    receiving = asyncio.create_task(peer.receive_exactly(BIG))
    await sock.write(b"a" * BIG)
    await receiving
    before = time.thread_time()
    await asyncio.sleep(0.05)  # not to wait for something, but to see what this thread does meanwhile
    assert time.thread_time() - before < 0.03


async def test_a_write_goes_on_while_the_loop_is_busy_with_others(sock, peer):
    writing = await begin(sock.write(b"a" * BIG))
    receiving = asyncio.create_task(peer.receive_exactly(BIG))
    await until(writing.done)
    assert await receiving == b"a" * BIG
