"""Plain reads: some bytes, the end of the stream, one reader at a time, nothing lost by cancelling."""

from __future__ import annotations

import asyncio
import select
import sys
import time
import tracemalloc

import pytest
from helpers import begin, give_turns

from aionet import SocketBusyError, SocketClosedError

pytestmark = pytest.mark.asyncio

DATA = bytes(range(256)) * 40


async def read_all(sock, max_bytes=65536):
    received = bytearray()
    while data := await sock.read(max_bytes):
        received += data
    return bytes(received)


async def test_returns_what_is_there(sock, peer):
    peer.send_now(b"hello")
    assert await sock.read() == b"hello"


async def test_waits_for_the_first_byte(sock, peer):
    reading = await begin(sock.read())
    assert not reading.done()
    peer.send_now(b"!")
    assert await reading == b"!"


async def test_returns_no_more_than_max_bytes_and_leaves_the_rest(sock, peer):
    peer.send_now(b"0123456789")
    pieces = [await sock.read(4), await sock.read(4), await sock.read(4)]
    assert b"".join(pieces) == b"0123456789"
    assert max(map(len, pieces)) <= 4


@pytest.mark.parametrize("max_bytes", [0, -1])
async def test_refuses_a_max_bytes_below_one_before_any_io(sock, peer, max_bytes):
    peer.send_now(b"kept")
    with pytest.raises(ValueError, match="max_bytes"):
        await sock.read(max_bytes)
    assert await sock.read() == b"kept"


async def test_a_clean_end_is_an_empty_read_again_and_again(sock, peer):
    peer.send_now(b"last words")
    peer.half_close()
    assert await read_all(sock) == b"last words"
    for _ in range(3):
        assert await sock.read() == b""


async def test_an_end_wakes_a_waiting_reader(sock, peer):
    reading = await begin(sock.read())
    peer.half_close()
    assert await reading == b""


async def test_after_the_end_writing_goes_on(sock, peer):
    peer.half_close()
    assert await sock.read() == b""
    await sock.write(b"answer")
    assert await peer.receive_exactly(6) == b"answer"


@pytest.mark.parametrize("max_bytes", [1 << 20, sys.maxsize, sys.maxsize + 1])
async def test_a_large_max_bytes_takes_no_memory_for_what_does_not_come(sock, peer, max_bytes):
    for _ in range(2):  # the first brings about what is kept
        peer.send_now(b"!")
        tracemalloc.start()
        try:
            assert await sock.read(max_bytes) == b"!"
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 100_000  # a read of the default size takes 64 KiB at most


@pytest.mark.parametrize("max_bytes", [65535, 65536, 65537, 262143, 262144, 262145, 1 << 20])
async def test_what_came_is_read_to_its_end_however_much_is_asked_for(sock, peer, max_bytes):
    """In pieces that fill what was asked of the kernel, exceed it, and fall far below it."""
    for size in (1, 65536, 65536, 1, 262144, 400_000, 400_000, 10_000, 1, 131_072, 131_072, 70_000):
        data = (DATA * 40)[:size]
        sending = asyncio.create_task(peer.send(data))
        received = bytearray()
        while len(received) < size:
            received += await sock.read(max_bytes)
        assert received == data
        await sending


async def test_much_data_arrives_whole_and_in_order(sock, peer):
    data = DATA * 300
    sending = asyncio.create_task(peer.send(data))
    received = bytearray()
    while len(received) < len(data):
        received += await sock.read(100_000)
    await sending
    assert received == data


async def test_alternating_with_the_peer(sock, peer):
    for number in range(50):
        message = b"%d" % number
        peer.send_now(message)
        assert await sock.read() == message
        await sock.write(message)
        assert peer.sock.recv(100) == message


async def test_iterating_ends_with_the_stream(sock, peer):
    peer.send_now(DATA)
    peer.half_close()
    received = bytearray()
    async for chunk in sock:
        assert chunk
        received += chunk
    assert received == DATA


# One reader at a time ---------------------------------------------------------------------------------------

SECOND_READERS = [
    pytest.param(lambda sock: sock.read(), id="read"),
    pytest.param(lambda sock: sock.read_exactly(1), id="read_exactly"),
    pytest.param(lambda sock: sock.read_until(b"\n"), id="read_until"),
    pytest.param(lambda sock: sock.read_line(), id="read_line"),
    pytest.param(lambda sock: sock.read_into(bytearray(5)), id="read_into"),
    pytest.param(lambda sock: sock.peek(), id="peek"),
]


@pytest.mark.parametrize("second", SECOND_READERS)
async def test_a_second_reader_is_refused_at_once(sock, peer, second):
    first = await begin(sock.read())
    with pytest.raises(SocketBusyError) as caught:
        async with asyncio.timeout(30):
            await second(sock)
    assert caught.value.operation == "read"
    assert caught.value.peer_address == sock.peer_address
    peer.send_now(b"for the first")
    assert await first == b"for the first"
    peer.send_now(b"\n")
    assert await sock.read() == b"\n"


@pytest.mark.parametrize("second", SECOND_READERS)
async def test_a_second_reader_does_not_take_what_the_first_has_buffered(sock, peer, second):
    peer.send_now(b"abc")
    assert await sock.peek() == b"a"
    first = await begin(sock.read_exactly(6))
    with pytest.raises(SocketBusyError):
        await second(sock)
    peer.send_now(b"def")
    assert await first == b"abcdef"


async def test_a_reader_is_no_obstacle_for_a_writer(sock, peer):
    reading = await begin(sock.read())
    await sock.write(b"question")
    assert await peer.receive_exactly(8) == b"question"
    peer.send_now(b"answer")
    assert await reading == b"answer"


async def test_readers_one_after_the_other(sock, peer):
    for number in range(5):
        reading = await begin(sock.read())
        peer.send_now(b"%d" % number)
        assert await reading == b"%d" % number


# Cancelling -------------------------------------------------------------------------------------------------


def wait_until_readable(sock):
    assert select.select([sock.fileno()], [], [], 5)[0]


async def test_a_cancelled_read_leaves_what_had_arrived(sock, peer):
    reading = await begin(sock.read())
    peer.send_now(b"precious")
    wait_until_readable(sock)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await sock.read() == b"precious"


@pytest.mark.parametrize("turns", range(5))
async def test_a_read_cancelled_some_turns_after_the_data_loses_nothing(sock, peer, turns):
    reading = await begin(sock.read())
    peer.send_now(b"precious")
    wait_until_readable(sock)
    await give_turns(turns)
    reading.cancel()
    received = (await asyncio.gather(reading, return_exceptions=True))[0]
    if isinstance(received, asyncio.CancelledError):
        received = await sock.read()
    assert received == b"precious"


async def test_a_deadline_that_meets_the_data_loses_nothing(sock, peer):
    async def read_with_deadline(deadline):
        try:
            async with asyncio.timeout_at(deadline):
                return await sock.read()
        except TimeoutError:
            return b""

    loop = asyncio.get_running_loop()
    received = bytearray()
    sent = bytes(range(100))
    for number in sent:
        deadline = loop.time() + 0.0005
        reading = await begin(read_with_deadline(deadline))
        peer.send_now(bytes([number]))
        wait_until_readable(sock)
        while loop.time() < deadline:  # hold the loop, so that it finds both at once
            time.sleep(0)
        received += await reading
    peer.half_close()
    received += await read_all(sock)
    assert received == sent


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda sock: sock.read_exactly(12), id="read_exactly"),
        pytest.param(lambda sock: sock.read_until(b"\n"), id="read_until"),
        pytest.param(lambda sock: sock.read_line(), id="read_line"),
    ],
)
async def test_a_cancelled_buffered_read_leaves_what_had_arrived(sock, peer, read):
    reading = await begin(read(sock))
    peer.send_now(b"hello ")
    wait_until_readable(sock)
    await give_turns(3)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    peer.send_now(b"world\n")
    assert await read(sock) == b"hello world\n"


async def test_after_a_cancelled_read_another_task_may_read(sock, peer):
    reading = await begin(sock.read())
    reading.cancel()
    await asyncio.wait([reading])
    second = await begin(sock.read())
    peer.send_now(b"x")
    assert await second == b"x"


# Closing ----------------------------------------------------------------------------------------------------


async def test_what_was_buffered_is_not_read_after_closing(sock, peer):
    peer.send_now(b"abc")
    assert await sock.peek(3) == b"abc"
    await sock.aclose()
    for reader in (sock.read, sock.read_line, sock.peek):
        with pytest.raises(SocketClosedError):
            await reader()
