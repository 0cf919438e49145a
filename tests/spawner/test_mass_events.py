"""What happens to many connections at once does not hold the loop: it has turns in between.

A turn is what a callback that schedules itself sees. Each end of a handler takes a tenth of a millisecond, as
one with a line in a log does.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from helpers import give_turns, until

import aionet
from aionet import CloseCause

from .conftest import Stage

pytestmark = pytest.mark.asyncio

MANY = 160
MOST_IN_A_TURN = 64
WORK = 0.0001  # seconds of CPU time


class Turns:
    """Counts turns of the loop, and what happens in each."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._handle: asyncio.Handle | None = None
        self.ends: Counter[int] = Counter()
        self.order: list[str] = []

    def note_end(self) -> None:
        self.ends[self._number] += 1
        self.order.append("end")
        began = time.thread_time()
        while time.thread_time() - began < WORK:
            pass

    def __enter__(self) -> Turns:
        self._count()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._handle is not None
        self._handle.cancel()

    def _count(self) -> None:
        self._number += 1
        self._handle = self._loop.call_soon(self._count)


class Reading:
    """Handlers that read, and whose end is noted."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.waiting = 0

    async def __call__(self, sock: Any) -> None:
        try:
            self.waiting += 1
            while await self.wait(sock):
                self._turns.order.append("message")
        finally:
            self._turns.note_end()

    async def wait(self, sock: Any) -> bytes:
        data: bytes = await sock.read()
        return data


class WaitingForDrain(Reading):
    async def wait(self, sock: Any) -> bytes:
        await sock.draining.wait()
        return b""


async def serving(
    stage: Stage, handler: Reading, **limits: Any
) -> tuple[aionet.ConnectionSpawner[Any], list[Any]]:
    spawner: aionet.ConnectionSpawner[Any] = aionet.ConnectionSpawner(
        handler, limits=aionet.ConnectionLimits(**limits)
    )
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    clients = []
    for _ in range(MANY):
        clients.append(stage.client(server))
        await until(lambda: spawner.stats.active == len(clients))
    await until(lambda: handler.waiting == MANY)
    await give_turns()
    return spawner, clients


async def test_expiring_together(stage: Stage) -> None:
    turns = Turns()
    spawner, _ = await serving(stage, Reading(turns), idle_timeout=1000)
    wheel = spawner._enforcer._deadlines._wheel  # type: ignore[union-attr]
    with turns:
        for connection in spawner.connections:  # as if the deadline had passed for all
            connection.started -= 2000
            spawner._enforcer._deadlines._seen[connection] = None  # type: ignore[union-attr]
            wheel.discard(connection)
            wheel.add(connection, -1)
        await until(lambda: not spawner.connections)
    assert spawner.stats.causes == {CloseCause.IDLE: MANY}
    assert max(turns.ends.values()) <= MOST_IN_A_TURN


async def test_being_drained(stage: Stage) -> None:
    turns = Turns()
    spawner, _ = await serving(stage, Reading(turns))
    with turns:
        report = await spawner.drain(0)
    assert (report.cancelled, report.aborted) == (MANY, 0)
    assert max(turns.ends.values()) <= MOST_IN_A_TURN


async def test_a_hard_limit_that_is_shorter_than_the_work(stage: Stage) -> None:
    turns = Turns()
    spawner, _ = await serving(stage, Reading(turns))
    with turns:
        report = await spawner.drain(0, hard=0)
    assert (report.finished, report.aborted) == (0, 0)
    assert max(turns.ends.values()) <= MOST_IN_A_TURN


async def test_waiting_for_the_drain(stage: Stage) -> None:
    turns = Turns()
    spawner, _ = await serving(stage, WaitingForDrain(turns))
    with turns:
        report = await spawner.drain(1000)
    assert report.finished == MANY
    assert max(turns.ends.values()) <= MOST_IN_A_TURN


@pytest.fixture
def ends_are_known(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--callback-reactor"):
        pytest.skip("without epoll an end looks like a message until it is read")


@pytest.mark.usefixtures("ends_are_known")
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_peers_that_leave_together(stage: Stage, how: str) -> None:
    turns = Turns()
    spawner, clients = await serving(stage, Reading(turns))
    with turns:
        for client in clients:
            getattr(client, how)()
        await until(lambda: not spawner.connections)
    assert max(turns.ends.values()) <= MOST_IN_A_TURN


@pytest.mark.usefixtures("ends_are_known")
async def test_a_message_does_not_wait_behind_the_ends_of_others(stage: Stage) -> None:
    turns = Turns()
    spawner, clients = await serving(stage, Reading(turns))
    honest = clients.pop(0)
    for client in clients:
        client.close()
    honest.send_now(b"x")  # the last event of all
    await until(lambda: len(spawner.connections) == 1)
    assert turns.order.index("message") <= MOST_IN_A_TURN


async def test_handlers_that_ignore_their_cancellation(stage: Stage) -> None:
    over = asyncio.Event()
    aborted: Counter[int] = Counter()
    turns = Turns()

    async def stubborn(sock: Any) -> None:
        handler.waiting += 1
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                pass

    handler: Any = stubborn
    handler.waiting = 0
    spawner, clients = await serving(stage, handler)
    with turns:
        report = await spawner.drain(0, hard=0.1)
    assert (report.aborted, len(report.stragglers)) == (MANY, MANY)
    assert {straggler.stack for straggler in report.stragglers} == {report.stragglers[0].stack}
    assert "await over.wait()" in report.stragglers[0].stack
    assert not aborted
    for client in clients:
        with pytest.raises(ConnectionResetError):
            await client.receive()
    over.set()
    await until(lambda: not spawner.connections)


async def test_stopped_in_the_middle(stage: Stage) -> None:
    turns = Turns()
    spawner, clients = await serving(stage, Reading(turns))
    draining = asyncio.create_task(spawner.drain(0))
    while not turns.ends:
        await asyncio.sleep(0)
    assert spawner.connections  # it is in the middle
    stage.servings[0].cancel()
    await asyncio.wait(stage.servings)
    assert not spawner.connections
    await draining
    for client in clients:
        assert await client.receive_to_end() == b""
