"""Reads that look for something: exactly, until, lines, peeking, into a buffer."""

from __future__ import annotations

import array
import asyncio
import ctypes
import random
import tracemalloc

import pytest
from helpers import begin, give_turns, until

from aionet import ConnectionLostError, IncompleteReadError, LimitExceededError

pytestmark = pytest.mark.asyncio


async def send_in_pieces(peer, *pieces):
    for piece in pieces:
        peer.send_now(piece)
        await give_turns()


# Exactly ----------------------------------------------------------------------------------------------------


async def test_exactly_waits_for_all_of_it(sock, peer):
    reading = await begin(sock.read_exactly(6))
    await send_in_pieces(peer, b"ab", b"cd")
    assert not reading.done()
    await send_in_pieces(peer, b"efgh")
    assert await reading == b"abcdef"
    assert await sock.read() == b"gh"


async def test_exactly_of_a_lot(sock, peer):
    data = bytes(range(256)) * 4096
    sending = asyncio.create_task(peer.send(data + b"rest"))
    assert await sock.read_exactly(len(data)) == data
    await sending
    assert await sock.read_exactly(4) == b"rest"


MUCH = 1 << 20


async def test_exactly_of_a_lot_takes_little_more_than_the_result(sock, peer):
    n, piece = 8 * MUCH, bytes(range(256)) * 256

    async def send():
        for _ in range(n // len(piece)):
            await peer.send(piece)

    tracemalloc.start()
    try:
        sending = asyncio.create_task(send())
        data = await sock.read_exactly(n)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * n
    assert data == piece * (n // len(piece))
    await sending


async def test_exactly_of_a_lot_that_is_cancelled_again_and_again(sock, peer):
    data = random.Random(1).randbytes(MUCH)
    sending = asyncio.create_task(peer.send(b"0123456789" + data + b"rest"))
    assert await sock.read_until(b"9") == b"0123456789"
    reading = asyncio.create_task(sock.read_exactly(2 * MUCH))
    read = 0
    while read < MUCH:
        await until(lambda: sock.bytes_read > read or reading.done())  # noqa: B023
        read = sock.bytes_read
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert data.startswith(await sock.peek(10))
        reading = await begin(sock.read_exactly(2 * MUCH))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await sock.read_exactly(MUCH) == data
    await sending
    assert await sock.read_exactly(4) == b"rest"


async def test_exactly_of_a_lot_of_a_stream_that_ends_too_early(sock, peer):
    data = random.Random(2).randbytes(MUCH)

    async def send():
        await peer.send(data)
        peer.half_close()

    sending = asyncio.create_task(send())
    with pytest.raises(IncompleteReadError) as caught:
        await sock.read_exactly(2 * MUCH)
    assert caught.value.partial == data
    assert await sock.read() == b""
    await sending


async def test_exactly_nothing(sock, peer):
    assert await sock.read_exactly(0) == b""


async def test_exactly_of_a_stream_that_ends_too_early(sock, peer):
    peer.send_now(b"half")
    peer.half_close()
    with pytest.raises(IncompleteReadError) as caught:
        await sock.read_exactly(10)
    assert caught.value.partial == b"half"
    assert caught.value.peer_address == sock.peer_address
    assert await sock.read() == b""


async def test_exactly_at_a_clean_end(sock, peer):
    peer.half_close()
    with pytest.raises(IncompleteReadError) as caught:
        await sock.read_exactly(1)
    assert caught.value.partial == b""


async def test_exactly_refuses_a_negative_count(sock, peer):
    with pytest.raises(ValueError, match="negative"):
        await sock.read_exactly(-1)


# Until ------------------------------------------------------------------------------------------------------


async def test_until_returns_separator_and_leaves_the_rest(sock, peer):
    peer.send_now(b"head\r\n\r\nbody")
    assert await sock.read_until(b"\r\n\r\n") == b"head\r\n\r\n"
    assert await sock.read() == b"body"


async def test_until_finds_a_separator_that_arrives_in_pieces(sock, peer):
    reading = await begin(sock.read_until(b"<end>"))
    await send_in_pieces(peer, b"a<e", b"nd", b">b")
    assert await reading == b"a<end>"
    assert await sock.read() == b"b"


@pytest.mark.parametrize("separators", [(b"\r\n", b"\n"), (b"\n", b"\r\n")])
async def test_until_takes_the_separator_that_ends_first(sock, peer, separators):
    peer.send_now(b"one\ntwo\r\nthree\n")
    assert await sock.read_until(*separators) == b"one\n"
    assert await sock.read_until(*separators) == b"two\r\n"
    assert await sock.read_until(*separators) == b"three\n"


async def test_until_with_one_separator_inside_another(sock, peer):
    peer.send_now(b"xabcdy")
    assert await sock.read_until(b"abcd", b"bc") == b"xabc"
    assert await sock.read() == b"dy"


async def test_until_with_other_separators_than_before(sock, peer):
    reading = await begin(sock.read_until(b";"))
    await send_in_pieces(peer, b"a,b")
    reading.cancel()
    await asyncio.wait([reading])
    assert await sock.read_until(b",") == b"a,"
    await send_in_pieces(peer, b";")
    assert await sock.read_until(b";") == b"b;"


async def test_until_the_limit_keeps_the_data(sock, peer):
    peer.send_now(b"0123456789\n")
    for _ in range(2):
        with pytest.raises(LimitExceededError) as caught:
            await sock.read_until(b"\n", max_bytes=10)
        assert caught.value.peer_address == sock.peer_address
    assert await sock.read_until(b"\n", max_bytes=11) == b"0123456789\n"


async def test_until_the_limit_does_not_wait_for_more(sock, peer):
    peer.send_now(b"0123456789")
    with pytest.raises(LimitExceededError):
        async with asyncio.timeout(30):
            await sock.read_until(b"\n", max_bytes=10)
    assert await sock.read_exactly(10) == b"0123456789"


async def test_until_of_a_stream_that_ends_too_early(sock, peer):
    peer.send_now(b"no separator")
    peer.half_close()
    with pytest.raises(IncompleteReadError) as caught:
        await sock.read_until(b"\n")
    assert caught.value.partial == b"no separator"
    assert await sock.read() == b""


@pytest.mark.parametrize(
    ("separators", "max_bytes", "error"),
    [
        ((), 10, TypeError),
        ((b"",), 10, ValueError),
        ((b"\n", b""), 10, ValueError),
        (("\n",), 10, TypeError),
        ((b"long",), 3, ValueError),
    ],
)
async def test_until_refuses_bad_separators_before_any_io(sock, peer, separators, max_bytes, error):
    peer.send_now(b"kept")
    with pytest.raises(error):
        await sock.read_until(*separators, max_bytes=max_bytes)
    assert await sock.read() == b"kept"


# Lines ------------------------------------------------------------------------------------------------------


async def test_lines(sock, peer):
    peer.send_now(b"one\n\ntwo\r\nthree\n")
    peer.half_close()
    lines = []
    while line := await sock.read_line():
        lines.append(line)
    assert lines == [b"one\n", b"\n", b"two\r\n", b"three\n"]
    assert await sock.read_line() == b""


async def test_a_line_that_is_cut_short(sock, peer):
    peer.send_now(b"whole\ncut")
    peer.half_close()
    assert await sock.read_line() == b"whole\n"
    with pytest.raises(IncompleteReadError) as caught:
        await sock.read_line()
    assert caught.value.partial == b"cut"
    assert await sock.read_line() == b""


async def test_a_line_longer_than_the_limit(sock, peer):
    peer.send_now(b"much too long\n")
    with pytest.raises(LimitExceededError):
        await sock.read_line(max_bytes=5)
    assert await sock.read_line() == b"much too long\n"


# Peeking ----------------------------------------------------------------------------------------------------


async def test_peek_leaves_the_data(sock, peer):
    peer.send_now(b"GET /")
    assert await sock.peek() == b"G"
    assert await sock.peek(3) == b"GET"
    assert await sock.peek(100) == b"GET /"
    assert await sock.read() == b"GET /"


async def test_peek_waits_for_the_first_byte(sock, peer):
    peeking = await begin(sock.peek(4))
    assert not peeking.done()
    peer.send_now(b"x")
    assert await peeking == b"x"


async def test_peek_at_a_clean_end(sock, peer):
    peer.half_close()
    assert await sock.peek() == b""
    assert await sock.read() == b""


async def test_peek_waits_for_as_many_bytes_as_it_needs(sock, peer):
    """And does not look again and again for what has not come, while less than that lies in the buffer."""
    before = sock.bytes_read
    peeking = await begin(sock.peek(5, at_least=3))
    for count in (1, 2):
        peer.send_now(b"a")
        await until(lambda count=count: sock.bytes_read == before + count)
        for _ in range(20):
            await asyncio.sleep(0)
            assert sock._wire.waits_for_input
        assert not peeking.done()
    peer.send_now(b"b")
    assert await peeking == b"aab"
    peer.send_now(b"cdef")
    assert await sock.peek(5, at_least=5) == b"aabcd"
    assert await sock.read_exactly(7) == b"aabcdef"


async def test_a_cancelled_peek_keeps_what_came(sock, peer):
    peer.send_now(b"ab")
    assert await sock.peek() == b"a"
    peeking = await begin(sock.peek(3, at_least=3))
    peeking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await peeking
    peer.send_now(b"c")
    assert await sock.peek(3, at_least=3) == b"abc"


@pytest.mark.parametrize("came", [b"", b"ab"])
async def test_peek_returns_what_there_is_where_the_stream_ends_first(sock, peer, came):
    if came:
        peer.send_now(came)
    peer.half_close()
    for _ in range(2):
        assert await sock.peek(8, at_least=4) == came
    assert await sock.read() == came


async def test_peek_of_more_than_one_receive_brings(sock, peer):
    data = bytes(range(256)) * 4096
    sending = asyncio.create_task(peer.send(data))
    peeked = await sock.peek(len(data), at_least=len(data) - 1)
    assert len(peeked) >= len(data) - 1
    assert data.startswith(peeked)
    await sending
    assert await sock.read_exactly(len(data)) == data


async def test_what_came_stays_readable_where_the_connection_is_lost_first(transport, pair):
    pair.peer.send_now(b"ab")
    assert await pair.socket.peek() == b"a"
    peeking = await begin(pair.socket.peek(3, at_least=3))
    await transport.lose(pair)
    with pytest.raises(ConnectionLostError):
        await peeking
    assert await pair.socket.read() == b"ab"


@pytest.mark.parametrize(("n", "at_least"), [(1, 2), (5, 0), (5, -1)])
async def test_peek_refuses_to_wait_for_more_than_it_returns_or_for_nothing(sock, n, at_least):
    with pytest.raises(ValueError, match="at_least") as caught:
        await sock.peek(n, at_least=at_least)
    assert str(at_least) in str(caught.value)


@pytest.mark.parametrize("count", [0, -1])
async def test_peek_refuses_a_count_below_one(sock, peer, count):
    with pytest.raises(ValueError, match="at least 1"):
        await sock.peek(count)


# Into a buffer ----------------------------------------------------------------------------------------------


async def test_into_a_buffer(sock, peer):
    buffer = bytearray(b"........")
    peer.send_now(b"abc")
    assert await sock.read_into(buffer) == 3
    assert buffer == b"abc....."


async def test_into_a_part_of_a_buffer(sock, peer):
    buffer = bytearray(b"........")
    peer.send_now(b"abcdef")
    assert await sock.read_into(memoryview(buffer)[2:6]) == 4
    assert buffer == b"..abcd.."
    assert await sock.read() == b"ef"


async def test_into_a_buffer_of_numbers(sock, peer):
    numbers = array.array("i", [0, 0])
    peer.send_now(array.array("i", [17, 4]).tobytes())
    assert await sock.read_into(numbers) == 2 * numbers.itemsize
    assert numbers.tolist() == [17, 4]


@pytest.mark.parametrize("buffered", [False, True])
async def test_into_a_buffer_of_any_shape(sock, peer, buffered):
    peer.send_now(b"abcdefghij")
    if buffered:
        await sock.peek(10, at_least=10)
    matrix, number = (ctypes.c_uint16 * 2 * 2)(), ctypes.c_uint16()
    assert await sock.read_into(matrix) == 8
    assert await sock.read_into(number) == 2
    assert bytes(matrix) + bytes(number) == b"abcdefghij"


async def test_into_a_buffer_from_what_was_buffered(sock, peer):
    peer.send_now(b"line\nrest")
    assert await sock.read_line() == b"line\n"
    buffer = bytearray(2)
    assert await sock.read_into(buffer) == 2
    assert buffer == b"re"
    assert await sock.read_into(buffer) == 2
    assert buffer == b"st"


async def test_into_a_buffer_at_a_clean_end(sock, peer):
    reading = await begin(sock.read_into(bytearray(10)))
    peer.half_close()
    assert await reading == 0
    assert await sock.read_into(bytearray(10)) == 0


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        (bytearray(), ValueError),
        ((ctypes.c_uint32 * 4 * 0)(), ValueError),
        ((ctypes.c_uint32 * 0 * 4)(), ValueError),
        (b"constant", TypeError),
        (b"", TypeError),
        (memoryview(bytearray(8))[::2], TypeError),
        (memoryview(bytearray(8)).cast("H")[::-1], TypeError),
        ("text", TypeError),
    ],
)
async def test_into_a_buffer_that_cannot_be_filled(sock, peer, buffer, error):
    peer.send_now(b"kept")
    with pytest.raises(error):
        await sock.read_into(buffer)
    assert await sock.read() == b"kept"


async def test_mixing_all_of_them(sock, peer):
    peer.send_now(b"\x05hello;line\n12345678tail")
    peer.half_close()
    size = (await sock.read_exactly(1))[0]
    assert await sock.read_exactly(size) == b"hello"
    assert await sock.read_until(b";", b",") == b";"
    assert await sock.peek(4) == b"line"
    assert await sock.read_line() == b"line\n"
    buffer = bytearray(4)
    assert await sock.read_into(buffer) == 4
    assert buffer == b"1234"
    assert await sock.read(4) == b"5678"
    assert b"".join([chunk async for chunk in sock]) == b"tail"
