"""A task that never has to wait lets the others run."""

from __future__ import annotations

import asyncio

import pytest

import aionet

pytestmark = pytest.mark.asyncio

MANY = 2000


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


async def test_reading_what_is_always_ready_lets_others_run(stage):
    turns = []

    async def handler():
        await stage.prologue()
        stage.peer.send_now(bytes(MANY))
        before = len(turns)
        for _ in range(MANY):
            assert await stage.sock.read(1) == b"\0"
        return len(turns) - before

    counter = stage.make_task(counting(turns))
    assert await stage.run(handler()) >= MANY // 256
    counter.cancel()
    await asyncio.wait([counter])


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
