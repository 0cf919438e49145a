"""Closing, gracefully and not: within its time, waking everybody, destroying nothing."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import time

import pytest
from helpers import begin, give_turns, until
from peers import flood

from aionet import ConnectionLostError, DeliveryError, IncompleteReadError, SocketClosedError

pytestmark = pytest.mark.asyncio

BIG = 3 << 19
AT_ONCE = 1.9  # seconds: less than closing takes where it waits (`linger`, by default)

EVERY_OPERATION = [
    pytest.param(lambda sock: sock.read(), "read", id="read"),
    pytest.param(lambda sock: sock.read_exactly(1), "read", id="read_exactly"),
    pytest.param(lambda sock: sock.read_until(b"\n"), "read", id="read_until"),
    pytest.param(lambda sock: sock.read_line(), "read", id="read_line"),
    pytest.param(lambda sock: sock.read_into(bytearray(1)), "read", id="read_into"),
    pytest.param(lambda sock: sock.peek(), "read", id="peek"),
    pytest.param(lambda sock: anext(sock), "read", id="iterating"),
    pytest.param(lambda sock: sock.write(b"x"), "write", id="write"),
    pytest.param(lambda sock: sock.write_vectored([b"x"]), "write", id="write_vectored"),
    pytest.param(lambda sock: sock.send_file(io.BytesIO(b"x")), "write", id="send_file"),
    pytest.param(lambda sock: sock.send_eof(), "send_eof", id="send_eof"),
]


@pytest.mark.parametrize("end", ["aclose", "abort"])
@pytest.mark.parametrize(("operation", "name"), EVERY_OPERATION)
async def test_everything_is_refused_after_closing(sock, peer, end, operation, name):
    peer.send_now(b"unread\n")
    ends = sock.local_address, sock.peer_address
    if end == "aclose":
        await sock.aclose()
    else:
        sock.abort()
    with pytest.raises(SocketClosedError) as caught:
        await operation(sock)
    assert caught.value.operation == name
    assert (caught.value.local_address, caught.value.peer_address) == ends
    assert caught.value.errno


@pytest.mark.parametrize("end", ["aclose", "abort"])
async def test_the_descriptor_is_gone(sock, peer, end):
    fd = sock.fileno()
    what = os.readlink(f"/proc/self/fd/{fd}")
    if end == "aclose":
        await sock.aclose()
    else:
        sock.abort()
    assert sock.closed
    assert sock.fileno() == -1
    assert not os.path.exists(f"/proc/self/fd/{fd}") or os.readlink(f"/proc/self/fd/{fd}") != what


async def test_the_peer_sees_all_of_it_and_a_clean_end(sock, peer):
    await sock.write(b"goodbye")
    await sock.aclose()
    assert await peer.receive_to_end() == b"goodbye"


async def test_leaving_an_async_with_closes(pair):
    async with pair.socket as entered:
        assert entered is pair.socket
        await entered.write(b"goodbye")
    assert pair.socket.closed
    assert await pair.peer.receive_to_end() == b"goodbye"


async def crash(sock):
    raise LookupError("a fault of the block")


async def be_cancelled(sock):
    asyncio.current_task().cancel()
    await sock.read()


async def be_cancelled_while_it_writes(sock):
    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
    await sock.write(bytes(BIG))


async def end_and_crash(sock):
    await sock.send_eof()
    await crash(sock)


async def expect_more(sock):
    await sock.read_exactly(10)


@pytest.mark.parametrize(
    ("block", "sent", "clean"),
    [
        (crash, b"", False),
        (be_cancelled, b"", True),
        (be_cancelled_while_it_writes, b"", False),
        (end_and_crash, b"", True),
        (expect_more, b"", True),
        (expect_more, b"part", False),
    ],
)
async def test_an_exception_that_leaves_an_async_with(pair, transport, block, sent, clean):
    """It aborts, unless nothing that was written can be unfinished."""

    async def enter_and_leave():
        async with pair.socket:
            await pair.socket.write(b"half")
            await block(pair.socket)

    if block is expect_more:
        pair.peer.send_now(sent)
        pair.peer.half_close()
    leaving = asyncio.create_task(enter_and_leave())
    with pytest.raises((LookupError, IncompleteReadError, asyncio.CancelledError)):
        await leaving
    assert pair.socket.closed
    if clean:
        assert await pair.peer.receive_to_end() == b"half"
    elif transport.resets:
        with pytest.raises(ConnectionResetError):
            await pair.peer.receive_to_end()
    else:  # a Unix peer has read an end of what there was
        assert len(await pair.peer.receive_to_end()) < BIG


async def test_closing_twice_does_nothing(sock, peer):
    await sock.aclose()
    await sock.aclose()
    sock.abort()
    await sock.aclose()


async def test_closing_wakes_reader_and_writer(sock, peer):
    reading = await begin(sock.read())
    writing = await begin(sock.write(bytes(BIG)))
    sock.abort()
    for error in await asyncio.gather(reading, writing, return_exceptions=True):
        assert isinstance(error, SocketClosedError)
        assert error.peer_address == sock.peer_address


async def test_aclose_wakes_a_reader_at_once(sock, peer):
    reading = await begin(sock.read())
    closing = await begin(sock.aclose())
    async with asyncio.timeout(AT_ONCE):
        with pytest.raises(SocketClosedError) as caught:
            await reading
    assert caught.value.operation == "read"
    await closing


@pytest.mark.parametrize("read", [lambda sock: sock.read_line(), lambda sock: sock.read_into(bytearray(9))])
async def test_aclose_wakes_every_kind_of_reader(sock, peer, read):
    reading = await begin(read(sock))
    await sock.aclose()
    with pytest.raises(SocketClosedError):
        await reading


async def test_aclose_finishes_a_write_that_waits(sock, peer):
    writing = await begin(sock.write(b"a" * BIG))
    closing = await begin(sock.aclose())
    assert await peer.receive_to_end() == b"a" * BIG
    assert await writing == BIG
    await closing


async def test_aclose_finishes_a_cancelled_write_that_has_begun(sock, peer):
    writing = await begin(sock.write(b"a" * BIG))
    writing.cancel()
    await asyncio.wait([writing])
    closing = await begin(sock.aclose())
    assert await peer.receive_to_end() == b"a" * BIG
    await closing


async def test_nothing_new_is_written_while_closing(sock, peer):
    writing = await begin(sock.write(b"a" * BIG))
    closing = await begin(sock.aclose())
    with pytest.raises(SocketClosedError):
        await sock.write(b"late")
    with pytest.raises(SocketClosedError):
        await sock.read()
    assert await peer.receive_to_end() == b"a" * BIG
    await asyncio.gather(writing, closing)


async def test_a_look_at_the_raw_socket_while_closing_lets_nobody_in(sock, peer):
    writing = await begin(sock.write(b"a" * BIG))
    closing = await begin(sock.aclose())
    assert sock.raw_socket.fileno() == sock.fileno()
    peer.send_now(b"late")
    with pytest.raises(SocketClosedError):
        async with asyncio.timeout(5):
            await sock.read()
    assert await peer.receive_exactly(BIG) == b"a" * BIG
    await writing
    with pytest.raises(SocketClosedError):
        await sock.write(b"late")
    assert await peer.receive_to_end() == b""
    await closing


async def test_several_tasks_close_at_once(sock, peer):
    writing = await begin(sock.write(b"a" * BIG))
    closing = [await begin(sock.aclose()) for _ in range(3)]
    assert not any(task.done() for task in closing)
    assert await peer.receive_to_end() == b"a" * BIG
    await asyncio.gather(writing, *closing)
    assert sock.fileno() == -1


async def test_unread_input_does_not_destroy_the_last_reply(sock, peer):
    reply = b"the last reply " * 1000
    peer.send_now(b"never read" * 5000)
    await sock.write(reply)
    await sock.aclose()
    assert await peer.receive_to_end() == reply


async def test_input_that_is_still_coming_does_not_destroy_the_last_reply(sock, peer):
    def flood_then_read(raw):
        try:
            for _ in range(200):
                raw.sendall(bytes(10_000))
        except OSError:
            pass
        received = bytearray()
        while data := raw.recv(65536):
            received += data
        return bytes(received)

    reply = b"the last reply " * 1000
    flooding = peer.in_thread(flood_then_read)
    assert await sock.read()
    await sock.write(reply)
    await sock.aclose()
    assert await flooding == reply


async def test_a_half_closed_peer_gets_the_last_reply(sock, peer):
    peer.send_now(b"request")
    peer.half_close()
    await sock.write(b"reply")
    await sock.aclose()
    assert await peer.receive_to_end() == b"reply"


async def test_after_eof_from_both_sides_closing_takes_no_time(sock, peer):
    await sock.send_eof()
    peer.half_close()
    assert await sock.read() == b""
    async with asyncio.timeout(AT_ONCE):
        await sock.aclose()


# Deadlines --------------------------------------------------------------------------------------------------


async def test_closing_ends_within_its_time_when_the_peer_never_reads(transport):
    async with transport.connected(linger=0.2) as (sock, _):
        writing = await begin(sock.write(bytes(BIG)))
        started = time.monotonic()
        await sock.aclose()
        assert 0.15 < time.monotonic() - started < AT_ONCE
        assert sock.fileno() == -1
        with pytest.raises((SocketClosedError, ConnectionLostError)):
            await writing


async def test_what_a_cancelled_write_could_not_deliver_in_time_is_told(transport):
    async with transport.connected(linger=0.1) as (sock, _):
        writing = await begin(sock.write(bytes(BIG)))
        writing.cancel()
        await asyncio.wait([writing])
        with pytest.raises(DeliveryError) as caught:
            await sock.aclose()
        assert 0 < caught.value.unacknowledged <= BIG
        assert caught.value.operation == "aclose"
        assert sock.fileno() == -1
        await sock.aclose()  # told once


async def test_closing_ends_within_its_time_when_the_peer_floods(transport):
    async with transport.connected(linger=0.3) as (sock, peer):
        flooding = peer.in_thread(flood)
        await sock.read()
        await sock.write(b"reply")
        started = time.monotonic()
        await sock.aclose()
        assert time.monotonic() - started < AT_ONCE
        assert sock.fileno() == -1
        peer.stop()
        await flooding


async def test_without_linger_closing_aborts(transport):
    async with transport.connected(linger=0) as (sock, peer):
        writing = await begin(sock.write(bytes(BIG)))
        async with asyncio.timeout(5):
            await sock.aclose()
        assert sock.fileno() == -1
        with pytest.raises(SocketClosedError):
            await writing
        received = peer.in_thread(lambda raw: b"".join(iter(lambda: raw.recv(65536), b"")))
        if transport.resets:
            with pytest.raises(ConnectionResetError):
                await received
        else:
            assert len(await received) < BIG


async def test_cancelled_it_still_closes(sock, peer):
    writing = await begin(sock.write(bytes(BIG)))
    closing = await begin(sock.aclose())
    assert sock.fileno() != -1
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert sock.fileno() == -1
    with pytest.raises(SocketClosedError):
        await writing


async def test_a_second_close_that_is_cancelled_leaves_the_first_alone(sock, peer):
    writing = await begin(sock.write(b"a" * BIG))
    first = await begin(sock.aclose())
    second = await begin(sock.aclose())
    second.cancel()
    await asyncio.wait([second])
    assert not first.done()
    assert await peer.receive_to_end() == b"a" * BIG
    await asyncio.gather(first, writing)


async def test_a_first_close_that_is_cancelled_ends_the_second(sock, peer):
    writing = await begin(sock.write(b"a" * BIG))
    first = await begin(sock.aclose())
    second = await begin(sock.aclose())
    first.cancel()
    async with asyncio.timeout(AT_ONCE):
        await asyncio.wait([first])
        await second
    assert sock.fileno() == -1
    await asyncio.wait([writing])
    assert isinstance(writing.exception(), SocketClosedError)


async def test_aborting_ends_a_close_that_waits(sock, peer):
    writing = await begin(sock.write(bytes(BIG)))
    closing = await begin(sock.aclose())
    sock.abort()
    async with asyncio.timeout(AT_ONCE):
        await closing
    with pytest.raises(SocketClosedError):
        await writing


# Aborting ---------------------------------------------------------------------------------------------------


async def test_aborting_resets(transport, pair):
    pair.socket.abort()
    if transport.resets:
        with pytest.raises(ConnectionResetError):
            await pair.peer.receive()
    else:
        assert await pair.peer.receive() == b""


async def test_aborting_drops_what_was_not_sent(transport, pair):
    writing = await begin(pair.socket.write(bytes(BIG)))
    pair.socket.abort()
    with pytest.raises(SocketClosedError):
        await writing
    if transport.resets:
        with pytest.raises(ConnectionResetError):
            await pair.peer.receive_to_end()
    else:
        assert len(await pair.peer.receive_to_end()) < BIG


async def test_aborting_and_cancelling_a_writer_at_once_leaves_nothing_in_the_log(sock, peer):
    writing = await begin(sock.write(bytes(BIG)))
    sock.abort()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_aborting_and_cancelling_a_reader_at_once_leaves_nothing_in_the_log(sock, peer):
    reading = await begin(sock.read())
    sock.abort()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_descriptor_that_was_given_to_somebody_else_is_not_touched(sock, peer):
    """Closing takes the descriptor off the loop before the system can hand out its number again."""
    fd = sock.fileno()
    reading = await begin(sock.read())
    writing = await begin(sock.write(bytes(BIG)))
    sock.abort()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        mine = ours if ours.fileno() == fd else theirs
        other = theirs if mine is ours else ours
        mine.setblocking(False)
        loop.add_reader(mine.fileno(), readable.set)
        await asyncio.wait([reading, writing])
        assert isinstance(reading.exception(), SocketClosedError)
        assert isinstance(writing.exception(), SocketClosedError)
        other.send(b"x")
        async with asyncio.timeout(AT_ONCE):
            await readable.wait()
        assert mine.recv(10) == b"x"
        loop.remove_reader(mine.fileno())


async def test_addresses_stay_known_after_closing(sock, peer):
    ends = sock.local_address, sock.peer_address
    await sock.aclose()
    assert (sock.local_address, sock.peer_address) == ends
    assert "closed" in repr(sock)


async def test_closing_does_not_hold_the_loop(sock, peer):
    writing = await begin(sock.write(b"a" * BIG))
    closing = await begin(sock.aclose())
    await give_turns(20)
    assert not closing.done()
    assert await peer.receive_to_end() == b"a" * BIG
    await until(closing.done)
    await asyncio.gather(closing, writing)
