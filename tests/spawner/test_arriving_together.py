"""Connections that arrive together, and wait for the first time in the same turn of the loop.

An engine may look at all of them together in the next turn; until then anything may happen to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from helpers import give_turns, until
from peers import RawPeer

import aionet

from .conftest import Stage
from .test_peer_gone import skip_without_epoll

pytestmark = pytest.mark.asyncio

COUNT = 8


class Arrivals:
    """Clients that are all there before anybody accepts them, and the spawner that then serves them."""

    def __init__(self, stage: Stage, kind: str, handler: Any, **options: Any) -> None:
        self._stage = stage
        self.server = stage.server(kind)
        self.clients = [stage.client(self.server) for _ in range(COUNT)]
        self.spawner = aionet.ConnectionSpawner(handler, **options)

    async def serve(self) -> None:
        await self._stage.serve(self.spawner, self.server)
        await until(lambda: self.spawner.stats.accepted == COUNT)

    async def answers(self, clients: list[RawPeer] | None = None) -> None:
        """All `clients` speak, and are answered."""
        for number, client in enumerate(clients or self.clients):
            client.send_now(b"%d" % number)
        for number, client in enumerate(clients or self.clients):
            assert await client.receive() == b"%d" % number

    async def ended(self) -> None:
        await until(lambda: not self.spawner.stats.active)


@pytest.fixture
def arrive(stage: Stage, kind: str) -> Callable[..., Arrivals]:
    return partial(Arrivals, stage, kind)


async def echo(sock: Any) -> None:
    async for data in sock:
        await sock.write(data)


@pytest.mark.parametrize("turns", range(5))
async def test_all_are_heard_whenever_they_speak(arrive: Any, turns: int) -> None:
    arrivals = arrive(echo)
    serving = asyncio.create_task(arrivals.serve())
    await give_turns(turns)
    await arrivals.answers()
    await serving
    await arrivals.answers()


async def test_some_leave_before_they_are_looked_at(arrive: Any) -> None:
    arrivals = arrive(echo)
    leaving, staying = arrivals.clients[::2], arrivals.clients[1::2]
    for client in leaving:
        client.send_now(b"bye")
        client.reset()
    await arrivals.serve()
    await until(lambda: arrivals.spawner.stats.active == len(staying))
    await arrivals.answers(staying)
    for client in staying:
        client.close()
    await arrivals.ended()


@pytest.mark.parametrize("turns", range(4))
async def test_all_leave_between_their_first_words_and_the_next_look(arrive: Any, turns: int) -> None:
    waiting = []

    async def handler(sock: Any) -> None:
        waiting.append(await sock.read_exactly(1))
        await echo(sock)

    arrivals = arrive(handler)
    for client in arrivals.clients:
        client.send_now(b"x")
    serving = asyncio.create_task(arrivals.serve())
    await until(lambda: waiting)
    await give_turns(turns)
    for client in arrivals.clients:
        client.reset()
    await serving
    await arrivals.ended()
    assert arrivals.spawner.stats.failed == 0
    assert waiting == [b"x"] * COUNT


async def test_a_wait_that_is_given_up_at_once_loses_nothing(arrive: Any) -> None:
    given_up = []

    async def handler(sock: Any) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await sock.read()
        given_up.append(sock)
        await echo(sock)

    arrivals = arrive(handler)
    await arrivals.serve()
    await until(lambda: len(given_up) == COUNT)
    await arrivals.answers()


async def test_a_wait_that_is_given_up_leaves_the_stream_to_the_next_reader(arrive: Any) -> None:
    """The second wait begins when the first look has come and gone."""
    given_up = []

    async def handler(sock: Any) -> None:
        reading = asyncio.ensure_future(sock.read())
        await asyncio.sleep(0)
        reading.cancel()
        await give_turns()
        given_up.append(reading.cancelled())
        await echo(sock)

    arrivals = arrive(handler)
    await arrivals.serve()
    await until(lambda: len(given_up) == COUNT)
    assert all(given_up)
    await arrivals.answers()


async def test_one_closes_the_others_in_the_same_turn(arrive: Any) -> None:
    closed = []

    async def handler(sock: Any) -> None:
        if len(arrivals.spawner.connections) == COUNT and not closed:
            closed.append(None)
            await asyncio.sleep(0)
            for connection in arrivals.spawner.connections:
                if connection.socket is not sock:
                    connection.socket.abort()
            await echo(sock)
        else:
            with pytest.raises(aionet.SocketClosedError):
                await sock.read()
            closed.append(None)

    arrivals = arrive(handler)
    await arrivals.serve()
    await until(lambda: arrivals.spawner.stats.active == 1)
    assert len(closed) == COUNT
    client = next(client for client in arrivals.clients if not has_ended(client))
    await arrivals.answers([client])


def has_ended(client: RawPeer) -> bool:
    """Whether the server has closed the connection of `client`, to whom it has said nothing."""
    return bool(select.select([client.sock], [], [], 0)[0])


async def test_the_server_closes_before_they_are_looked_at(arrive: Any) -> None:
    """Nothing but them is watched from then on."""

    async def handler(sock: Any) -> None:
        arrivals.server.close()
        await echo(sock)

    arrivals = arrive(handler)
    await arrivals.serve()
    await arrivals.answers()


async def test_each_has_two_who_want_to_know_of_its_input(arrive: Any) -> None:
    """A handler that reads, and the watch for the end of its peer."""
    served, gone = [], []

    async def handler(sock: Any) -> None:
        served.append(sock)
        data = await sock.read_exactly(1)
        await sock.write(data)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            gone.append(sock)

    arrivals = arrive(handler, limits=aionet.ConnectionLimits(on_peer_gone="cancel"))
    await arrivals.serve()
    await arrivals.answers()
    skip_without_epoll(served[0])
    for client in arrivals.clients:
        client.close()
    await arrivals.ended()
    assert len(gone) == COUNT
