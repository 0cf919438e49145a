"""Sockets among tasks: fair to the others, and usable with everything that asyncio has."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import warnings

import pytest
from helpers import begin, give_turns

pytestmark = pytest.mark.asyncio


@contextlib.asynccontextmanager
async def counting_turns():
    """Yield a list that grows with every turn that another task gets."""
    turns = []

    async def count():
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    await asyncio.sleep(0)
    try:
        yield turns
    finally:
        counter.cancel()
        await asyncio.wait([counter])


MANY = 2000

ALWAYS_READY = [
    pytest.param(lambda sock: sock.read(1), id="read"),
    pytest.param(lambda sock: sock.read_into(bytearray(1)), id="read_into"),
    pytest.param(lambda sock: sock.read_exactly(2), id="read_exactly"),
]
OUT_OF_THE_BUFFER = [
    pytest.param(lambda sock: sock.read_line(), id="read_line"),
    pytest.param(lambda sock: sock.read_until(b"\n"), id="read_until"),
    pytest.param(lambda sock: sock.read(1), id="read"),
    pytest.param(lambda sock: sock.read_exactly(1), id="read_exactly"),
    pytest.param(lambda sock: sock.read_into(bytearray(1)), id="read_into"),
    pytest.param(lambda sock: sock.peek(), id="peek"),
]


@pytest.mark.parametrize("read", ALWAYS_READY)
async def test_reading_what_is_always_ready_lets_others_run(sock, peer, read):
    peer.send_now(bytes(2 * MANY))
    async with counting_turns() as turns:
        before = len(turns)
        for _ in range(MANY):
            await read(sock)
        assert len(turns) - before >= MANY // 256


@pytest.mark.parametrize("read", OUT_OF_THE_BUFFER)
async def test_reading_what_is_always_buffered_lets_others_run(sock, peer, read):
    peer.send_now(b"\n" * (MANY + 1))
    while len(await sock.peek(MANY + 1)) <= MANY:  # all of it is in the socket's own buffer now
        await sock.read_exactly(1)
        peer.send_now(b"\n")
    async with counting_turns() as turns:
        before = len(turns)
        for _ in range(MANY):
            await read(sock)
        assert len(turns) - before >= MANY // 256


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda sock: sock.write(b"x"), id="write"),
        pytest.param(lambda sock: sock.write_vectored([b"x"]), id="write_vectored"),
        pytest.param(lambda sock: sock.send_file(io.BytesIO(b"x")), id="send_file"),
    ],
)
async def test_writing_what_always_fits_lets_others_run(sock, peer, write):
    draining = asyncio.create_task(peer.receive_exactly(MANY))
    async with counting_turns() as turns:
        before = len(turns)
        for _ in range(MANY):
            await write(sock)
        assert len(turns) - before >= MANY // 256
    await draining


async def test_one_busy_socket_leaves_time_for_another(transport):
    async with transport.connected() as busy, transport.connected() as quiet:
        busy.peer.send_now(bytes(MANY))

        async def read_all():
            for _ in range(MANY):
                await busy.socket.read(1)

        answering = await begin(quiet.socket.read())
        reading = asyncio.create_task(read_all())
        quiet.peer.send_now(b"!")
        assert await answering == b"!"
        assert not reading.done()
        await reading


async def test_wait_for(sock, peer):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sock.read(), 0.01)
    peer.send_now(b"x")
    assert await asyncio.wait_for(sock.read(), 30) == b"x"


async def test_timeout(sock, peer):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await sock.read_line()
    peer.send_now(b"x\n")
    async with asyncio.timeout(30):
        assert await sock.read_line() == b"x\n"


async def test_gather(sock, peer):
    peer.send_now(b"x")
    assert await asyncio.gather(sock.read(), sock.write(b"y"), sock.write(b"z")) == [b"x", 1, 1]
    assert await peer.receive_exactly(2) == b"yz"


async def test_task_group_and_shield(sock, peer):
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(sock.read_exactly(3))
        shielded = asyncio.shield(group.create_task(sock.write(b"abc")))
        peer.send_now(b"xyz")
    assert reading.result() == b"xyz"
    assert await shielded == 3


async def test_create_task_names_and_cancels(sock, peer):
    reading = asyncio.create_task(sock.read(), name="reader")
    await give_turns()
    assert reading.get_name() == "reader"
    reading.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda sock: sock.read(), id="read"),
        pytest.param(lambda sock: sock.read_line(), id="read_line"),
        pytest.param(lambda sock: sock.write(b"x"), id="write"),
        pytest.param(lambda sock: sock.send_eof(), id="send_eof"),
        pytest.param(lambda sock: sock.aclose(), id="aclose"),
    ],
)
async def test_a_call_that_nobody_awaits_warns(sock, peer, call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(sock)
        gc.collect()
    assert any("never awaited" in str(warning.message) for warning in caught)
