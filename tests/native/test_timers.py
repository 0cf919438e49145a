"""Timers fire in time while our sockets keep the loop inside of its selector."""

from __future__ import annotations

import asyncio

import pytest
from helpers import give_turns, until

from .support import lines

pytestmark = pytest.mark.asyncio(loop_factories=["own", "asyncio"])

LATE = 5.0
"""Seconds that a timer may be late where others use the machine, too; a forgotten one is later."""


async def test_a_timer_that_was_set_before(ping_pong):
    loop = asyncio.get_running_loop()
    fired = loop.create_future()
    due = loop.time() + 0.05
    loop.call_at(due, lambda: fired.set_result(loop.time()))
    late = await asyncio.wait_for(fired, 30) - due
    assert 0 <= late < LATE
    assert ping_pong.rounds > 20


async def test_a_timer_that_a_handler_sets(ping_pong, make_task):
    loop = asyncio.get_running_loop()
    fired = loop.create_future()

    async def handler(sock):
        await sock.read()
        due = loop.time() + 0.05
        loop.call_at(due, lambda: fired.set_result(loop.time() - due))
        await sock.read()

    async with lines(1) as (line,):
        task = make_task(handler(line.sock))
        loop.call_later(0.01, line.peer.send_now, b"x")
        assert 0 <= await asyncio.wait_for(fired, 30) < LATE
        line.peer.send_now(b"y")
        await task


async def test_an_earlier_timer_that_a_handler_sets(ping_pong, make_task):
    loop = asyncio.get_running_loop()
    order = []

    async def handler(sock):
        loop.call_later(10, order.append, "never")
        await sock.read()
        loop.call_later(0.01, order.append, "early")

    async with lines(1) as (line,):
        task = make_task(handler(line.sock))
        line.peer.send_now(b"x")
        await task
        await until(lambda: order)
    assert order == ["early"]


async def test_a_cancelled_timer_before_one_that_is_not(ping_pong):
    loop = asyncio.get_running_loop()
    fired = loop.create_future()
    first = loop.call_later(0.01, fired.set_exception, AssertionError("it was cancelled"))
    loop.call_later(0.03, fired.set_result, None)
    first.cancel()
    await asyncio.wait_for(fired, 30)


async def test_sleeping_and_timeouts(ping_pong):
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.sleep(0.02)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await asyncio.Event().wait()
    assert loop.time() - before >= 0.04


async def cancel_timers(count):
    """asyncio sorts out cancelled timers when they are many: its list of timers is another one afterwards."""
    loop = asyncio.get_running_loop()
    for timer in [loop.call_later(100 + number, int) for number in range(count)]:
        timer.cancel()
    await give_turns()
    assert len(loop._scheduled) < count


async def test_a_timer_that_a_handler_sets_after_many_were_cancelled(ping_pong, make_task):
    """As a server does that reads with a timeout."""
    loop = asyncio.get_running_loop()
    fired = loop.create_future()

    async def handler(sock):
        await sock.read()
        due = loop.time() + 0.02
        loop.call_at(due, lambda: fired.set_result(loop.time() - due))
        await sock.read()

    async with lines(1) as (line,):
        task = make_task(handler(line.sock))
        await give_turns()
        await cancel_timers(300)
        limit = loop.call_later(2, int)  # the loop would wait that long
        line.peer.send_now(b"x")
        assert 0 <= await fired < LATE
        limit.cancel()
        line.peer.send_now(b"y")
        await task
