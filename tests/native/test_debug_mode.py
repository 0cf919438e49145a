"""In asyncio's debug mode slow steps of tasks are logged, whatever wakes the tasks."""

from __future__ import annotations

import asyncio
import logging
import re
import time

import pytest
from helpers import give_turns
from tls.scenes import connected

from .support import lines

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "own"])

SLOW = 0.2
"""Seconds."""


async def slow_reads(sock):
    assert await sock.read(1)
    time.sleep(SLOW)
    return await sock.read(1)


@pytest.fixture
def complaints(caplog):
    """What was said to have taken so long as a slow step."""
    caplog.set_level(logging.WARNING, "asyncio")

    def complaints():
        messages = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
        return [text for text in messages if float(re.search(r"took ([0-9.]+)", text)[1]) >= SLOW]

    return complaints


async def play(sock, send, make_task):
    task = make_task(slow_reads(sock))
    task.set_name("the slow one")
    await give_turns()
    for _ in range(2):
        await send(b"x")
    assert await task == b"x"


@pytest.mark.parametrize("over", ["tcp", "tls"])
async def test_a_slow_step_is_logged_with_the_name_of_its_task(make_task, complaints, over):
    asyncio.get_running_loop().set_debug(True)
    if over == "tls":
        async with connected() as (sock, peer):
            await play(sock, peer.send, make_task)
    else:
        async with lines(1) as (line,):
            await play(line.sock, line.peer.send, make_task)
    assert any("the slow one" in text for text in complaints())  # on a busy machine others may be slow, too


async def test_debug_mode_that_is_switched_on_later(make_task, complaints):
    async with lines(1) as (line,):
        for _ in range(2):
            for _ in range(100):  # it is looked at now and then
                reading = make_task(line.sock.read())
                await give_turns(1)
                line.peer.send_now(b"x")
                await reading
            asyncio.get_running_loop().set_debug(True)
        await play(line.sock, line.peer.send, make_task)
    assert any("the slow one" in text for text in complaints())  # on a busy machine others may be slow, too


async def test_cancelling_in_debug_mode(make_task):
    asyncio.get_running_loop().set_debug(True)
    async with lines(2) as (first, second):
        for cancelled in (True, False):
            readings = [make_task(line.sock.read()) for line in (first, second)]
            await give_turns()
            if cancelled:
                for reading in readings:
                    reading.cancel()
                assert await asyncio.wait(readings) == (set(readings), set())
                assert all(reading.cancelled() for reading in readings)
            else:
                first.peer.send_now(b"1")
                second.peer.send_now(b"2")
                assert await asyncio.gather(*readings) == [b"1", b"2"]
