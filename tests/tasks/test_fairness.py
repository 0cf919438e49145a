"""A task that never has to wait lets the others run."""

from __future__ import annotations

import asyncio
import io

import pytest
from helpers import give_turns

import aionet
from aionet.wires.event_loop import running_state

pytestmark = pytest.mark.asyncio

MANY = 2000
A_TURN = 64  # operations that complete at once before others have a turn
UNIT = 16384  # bytes that count like one more operation
CHUNK = 4 * UNIT
CHUNKS = 256


async def counting(turns):
    while True:
        turns.append(None)
        await asyncio.sleep(0)


async def test_two_tasks_that_play_ping_pong_let_others_run(make_task):
    async def play(sock):
        for _ in range(200):
            assert await sock.read() == b"x"
            await sock.write(b"x")

    turns = []
    async with (
        aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server,
        aionet.AsyncTcpSocket() as ours,
        aionet.AsyncTcpSocket() as theirs,
    ):
        await asyncio.gather(server.accept(theirs), ours.connect_to(server.address))
        counter = make_task(counting(turns))
        await ours.write(b"x")
        await asyncio.gather(make_task(play(theirs)), make_task(play(ours)))
        assert len(turns) >= 400 // 256
        counter.cancel()
        await asyncio.wait([counter])
        assert await theirs.read() == b"x"


async def test_one_that_is_always_ready_does_not_starve_another_that_waits(stage, lines):
    async def greedy():
        while await lines[0].sock.read(1):
            pass

    async def handler():
        await stage.prologue()
        return await stage.sock.read()

    reading = stage.make_task(greedy())
    task = await stage.begin(handler())
    lines[0].peer.send_now(bytes(10 * MANY))
    stage.peer.send_now(b"!")
    assert await task == b"!"
    assert not reading.done()
    lines[0].peer.half_close()
    await reading


# By number and by the byte ----------------------------------------------------------------------------------


async def read(sock, size):
    return len(await sock.read(size))


async def read_into(sock, size):
    return await sock.read_into(bytearray(size))


async def write(sock, size):
    return await sock.write(bytes(size))


async def write_vectored(sock, size):
    return await sock.write_vectored([bytes(size // 2), bytes(size - size // 2)])


async def send_file(sock, size):
    return await sock.send_file(io.BytesIO(bytes(size)))


reads = pytest.mark.parametrize("reading", [read, read_into])
writes = pytest.mark.parametrize("writing", [write, write_vectored, send_file])
sizes = pytest.mark.parametrize("size", [1, UNIT - 1, UNIT, UNIT + 1, CHUNK])


async def turns_of_others(stage, play, prepare=give_turns):
    """How often another task has its turn while one on the stage awaits `play()`, after `prepare()`."""
    turns = []

    async def handler():
        await stage.prologue()
        await prepare()
        before = len(turns)
        await play()
        return len(turns) - before

    counter = stage.make_task(counting(turns))
    counted = await stage.run(handler())
    counter.cancel()
    await asyncio.wait([counter])
    return counted


@reads
async def test_small_reads_have_their_number_to_a_turn(stage, reading):
    async def prepare():
        stage.peer.send_now(bytes(1 + MANY))  # one segment: who has read a byte finds the others there
        assert await reading(stage.sock, 1) == 1

    async def play():
        for _ in range(MANY):
            assert await reading(stage.sock, 1) == 1

    assert abs(await turns_of_others(stage, play, prepare) - MANY // A_TURN) <= 1


@writes
async def test_small_writes_have_their_number_to_a_turn(stage, writing):
    async def play():
        for _ in range(MANY):
            assert await writing(stage.sock, 1) == 1
            stage.peer.receive_exactly_now(1)

    assert abs(await turns_of_others(stage, play) - MANY // A_TURN) <= 1


def turns_due(size):
    """How many turns others have at the least while `size` bytes are moved by no more than `CHUNK` at once.

    Bytes come and go in pieces as the kernel likes. A piece costs no less than its bytes do, one that has to
    wait gives a turn by that, and a turn ends with the piece that uses it up.
    """
    return size // UNIT // (A_TURN + 1 + CHUNK // UNIT) - 1


@reads
async def test_large_reads_let_others_run_by_the_byte(stage, reading):
    async def play():
        stage.peer.send_now(bytes(CHUNK))  # more than is read: who does not take all never has to wait
        for _ in range(CHUNKS):
            stage.peer.send_now(bytes(CHUNK))
            missing = CHUNK
            while missing:
                missing -= await reading(stage.sock, missing)

    assert await turns_of_others(stage, play) >= turns_due(CHUNKS * CHUNK)


@writes
async def test_large_writes_to_one_who_reads_let_others_run_by_the_byte(stage, writing):
    async def play():
        for _ in range(CHUNKS):
            assert await writing(stage.sock, CHUNK) == CHUNK
            stage.peer.receive_exactly_now(CHUNK)

    assert await turns_of_others(stage, play) >= turns_due(CHUNKS * CHUNK)


@reads
@sizes
async def test_what_a_read_takes_from_the_budget(stage, reading, size):
    async def handler():
        await stage.prologue()
        stage.peer.send_now(bytes(size))
        state, missing = running_state(), size
        while missing:
            state.budget = A_TURN
            moved = await reading(stage.sock, missing)
            assert A_TURN - state.budget == 1 + moved // UNIT
            missing -= moved

    await stage.run(handler())


@writes
@sizes
async def test_what_a_write_takes_from_the_budget(stage, writing, size):
    async def handler():
        await stage.prologue()
        state = running_state()
        state.budget = A_TURN
        assert await writing(stage.sock, size) == size
        return A_TURN - state.budget

    assert await stage.run(handler()) == 1 + size // UNIT


@reads
async def test_a_large_read_owes_nothing_to_the_next_turn(stage, reading):
    async def handler():
        await stage.prologue()
        stage.peer.send_now(bytes(2))
        await stage.sock.read(1)
        state = running_state()
        state.budget = -1000
        assert await reading(stage.sock, 1) == 1
        return A_TURN - state.budget

    assert await stage.run(handler()) == 1
