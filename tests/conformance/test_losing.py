"""Connections that the world breaks: loss is told, what came before it is not lost with it."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import time

import pytest
from helpers import begin, give_turns

from aionet import ConnectionLostError, IncompleteReadError

pytestmark = pytest.mark.asyncio

BIG = 3 << 19


async def read_to_loss(sock):
    """Read until the loss is told; return what came before, and the error."""
    received = bytearray()
    while True:
        try:
            data = await sock.read(1000)
        except ConnectionLostError as error:
            return bytes(received), error
        assert data, "a loss must not look like a clean end"
        received += data


async def write_to_loss(sock):
    """Write until the loss is told."""
    with pytest.raises(ConnectionLostError):
        await asyncio.wait_for(_write_on(sock), 30)


async def _write_on(sock):
    while True:
        await sock.write(b"x")
        await give_turns()


async def test_a_reader_that_waits_is_told(transport, pair):
    reading = await begin(pair.socket.read())
    await transport.lose(pair)
    with pytest.raises(ConnectionLostError) as caught:
        await reading
    assert caught.value.operation == "read"
    assert caught.value.errno
    assert caught.value.local_address == pair.socket.local_address
    assert caught.value.peer_address == pair.socket.peer_address
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_loss_stays_a_loss(transport, pair):
    await transport.lose(pair)
    for _ in range(3):
        with pytest.raises(ConnectionLostError):
            await pair.socket.read()


async def test_a_loss_is_told_to_writers_too(transport, pair):
    await transport.lose(pair)
    with pytest.raises(ConnectionLostError):
        await pair.socket.read()
    with pytest.raises(ConnectionLostError) as caught:
        await pair.socket.write(b"x")
    assert caught.value.operation == "write"
    with pytest.raises(ConnectionLostError):
        await pair.socket.write(b"x")


async def test_a_loss_that_a_write_met_first_is_no_clean_end_for_a_read(transport, pair):
    await transport.lose(pair)
    await write_to_loss(pair.socket)
    for _ in range(2):
        with pytest.raises(ConnectionLostError):
            await pair.socket.read()


async def test_what_came_before_a_loss_is_still_read(transport, pair):
    pair.peer.send_now(b"x" * 5000)
    await transport.lose(pair)
    received, _ = await read_to_loss(pair.socket)
    assert received == b"x" * 5000


async def test_what_came_before_a_loss_is_still_read_after_a_write_has_met_it(transport, pair):
    pair.peer.send_now(b"x" * 5000)
    await transport.lose(pair)
    await write_to_loss(pair.socket)
    received, _ = await read_to_loss(pair.socket)
    assert received == b"x" * 5000


async def test_data_and_loss_arrive_together_while_a_reader_waits(transport, pair):
    await pair.socket.write(b"unread")
    reading = await begin(pair.socket.read(1000))
    pair.peer.send_now(b"x" * 5000)
    await transport.lose(pair)  # no turn of the loop in between, but for Unix, which writes at once
    async with asyncio.timeout(30):
        first = await reading
        received, _ = await read_to_loss(pair.socket)
    assert first + received == b"x" * 5000


async def test_data_and_loss_arrive_one_after_the_other_while_a_reader_waits(transport, pair):
    await pair.socket.write(b"unread")
    reading = asyncio.create_task(read_to_loss(pair.socket))
    await give_turns()
    pair.peer.send_now(b"x" * 500)
    await give_turns()
    pair.peer.send_now(b"x" * 500)
    await transport.lose(pair)
    async with asyncio.timeout(30):
        received, _ = await reading
    assert received == b"x" * 1000


async def test_a_buffered_read_that_is_cut_off_by_a_loss_keeps_what_came(transport, pair):
    pair.peer.send_now(b"half a line")
    await transport.lose(pair)
    with pytest.raises(ConnectionLostError):
        await pair.socket.read_line()
    assert await pair.socket.read() == b"half a line"
    with pytest.raises(ConnectionLostError):
        await pair.socket.read_line()


async def test_iterating_ends_with_the_error(transport, pair):
    pair.peer.send_now(b"data")
    await transport.lose(pair)
    received = []

    async def iterate():
        async for chunk in pair.socket:
            received.append(chunk)  # noqa: PERF401 - what came before the error counts too

    with pytest.raises(ConnectionLostError):
        await iterate()
    assert received == [b"data"]


async def test_all_writers_that_wait_are_told(transport, pair):
    writing = [await begin(pair.socket.write(bytes(BIG))) for _ in range(3)]
    ending = await begin(pair.socket.send_eof())
    pair.peer.reset() if transport.resets else pair.peer.close()
    for error in await asyncio.gather(*writing, ending, return_exceptions=True):
        assert isinstance(error, ConnectionLostError)
        assert error.peer_address == pair.socket.peer_address
    with pytest.raises(ConnectionLostError):
        await pair.socket.write(b"x")
    with pytest.raises(ConnectionLostError):
        await pair.socket.read()


async def test_a_reader_and_a_writer_that_wait_are_both_told(transport, pair):
    writing = await begin(pair.socket.write(bytes(BIG)))
    reading = await begin(pair.socket.read())
    pair.peer.reset() if transport.resets else pair.peer.close()
    for error in await asyncio.gather(reading, writing, return_exceptions=True):
        assert isinstance(error, ConnectionLostError)


async def test_the_first_call_after_a_cancelled_write_was_lost_is_told(transport, pair):
    writing = await begin(pair.socket.write(bytes(BIG)))
    writing.cancel()
    await asyncio.wait([writing])
    pair.peer.reset() if transport.resets else pair.peer.close()
    with pytest.raises(ConnectionLostError):
        await pair.socket.read()


async def test_a_write_that_fails_as_its_task_is_cancelled_is_not_logged(transport, pair):
    writing = await begin(pair.socket.write(bytes(BIG)))
    waiting = writing._fut_waiter
    pair.peer.reset() if transport.resets else pair.peer.close()
    waiting.add_done_callback(lambda _: writing.cancel())  # in the very turn in which the write fails
    await asyncio.wait([writing])
    assert writing.cancelled() or isinstance(writing.exception(), ConnectionLostError)


async def test_ending_a_stream_that_was_lost_raises(transport, pair):
    """shutdown(2) would say that there is no connection; over Unix it takes no notice of the loss."""
    pair.peer.send_now(b"greeting")
    assert await pair.socket.read_exactly(8) == b"greeting"
    await transport.lose(pair)
    for _ in range(2):
        if not transport.resets:
            await pair.socket.send_eof()
            continue
        with pytest.raises(ConnectionLostError) as caught:
            await pair.socket.send_eof()
        assert caught.value.operation == "send_eof"
        assert caught.value.errno in (errno.ECONNRESET, errno.EPIPE)
        assert caught.value.peer_address == pair.socket.peer_address
    with pytest.raises(ConnectionLostError):
        await pair.socket.read()
    if transport.resets:
        with pytest.raises(ConnectionLostError):
            await pair.socket.write(b"x")


async def test_closing_after_a_loss_is_quiet_and_at_once(transport, pair):
    await transport.lose(pair)
    with pytest.raises(ConnectionLostError):
        await pair.socket.read()
    async with asyncio.timeout(30):
        await pair.socket.aclose()
    assert pair.socket.fileno() == -1


async def test_a_loss_does_not_keep_the_loop_busy(transport, pair):
    """An event for a dead descriptor that nobody waits for must not come again and again."""
    reading = await begin(pair.socket.read())
    pair.peer.send_now(b"data")
    await transport.lose(pair)
    assert await reading == b"data"
    before = time.thread_time()
    await asyncio.sleep(0.05)  # not to wait for something, but to see what this thread does meanwhile
    assert time.thread_time() - before < 0.03
    with pytest.raises(ConnectionLostError):
        await pair.socket.read()


async def test_a_clean_end_is_not_a_loss(pair):
    pair.peer.send_now(b"cut")
    pair.peer.half_close()
    with pytest.raises(IncompleteReadError):
        await pair.socket.read_line()


@pytest.mark.parametrize("end", ["aclose", "send_eof"])
async def test_a_write_that_cannot_go_on_is_never_followed_by_a_clean_end(transport, pair, tmp_path, end):
    """The file behind the buffer was cut off, so that the kernel finds nothing there (EFAULT)."""
    if not transport.kernel_reads:
        pytest.skip("reading what is not there is a fatal signal (SIGBUS) outside of the kernel")
    sock, peer = pair
    path = tmp_path / "mapped"
    path.write_bytes(b"a" * BIG)
    receiving = peer.in_thread(lambda raw: b"".join(iter(lambda: raw.recv(65536), b"")))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), BIG) as mapped:
        os.truncate(path, BIG // 2)  # a part of it goes out
        with memoryview(mapped) as view, pytest.raises(ConnectionLostError):
            await sock.write(view)
    if end == "send_eof":
        with pytest.raises(ConnectionLostError):
            await sock.send_eof()
    await sock.aclose()
    if transport.resets:
        with pytest.raises(ConnectionResetError):
            await receiving
    else:
        await receiving
