"""`max_connections` is exact, whatever arrives and however connections end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers import give_turns, until

import aionet

from .conftest import Stage

N = 7


class Counting:
    """A handler that knows how many of it run, and how many ran at most."""

    def __init__(self) -> None:
        self.running = self.most = self.begun = 0

    async def __call__(self, sock: Any) -> None:
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            order = await sock.read()
            if order == b"crash":
                raise ZeroDivisionError
            await sock.write(order)
        finally:
            self.running -= 1


@pytest.mark.asyncio
@pytest.mark.parametrize("servers", [1, 2])
async def test_a_burst_of_ten_times_as_many_never_exceeds_it(stage: Stage, servers: int) -> None:
    handler = Counting()
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(max_connections=N))
    listening = [stage.tcp_server() for _ in range(servers)]
    # One burst lies ready before serving begins, the other comes while it waits.
    clients = [stage.client(listening[number % servers]) for number in range(5 * N)]
    await stage.serve(spawner, *listening)
    clients += [stage.client(listening[number % servers]) for number in range(5 * N)]
    await until(lambda: handler.running == N)
    await give_turns(20)
    assert handler.begun == N
    for client in clients:
        client.send_now(b"go")
    for client in clients:  # every one of them is served in the end
        assert await client.receive() == b"go"
        client.close()
    await until(lambda: not spawner.connections)
    assert handler.most == N
    assert handler.begun == 10 * N
    assert spawner.stats.accepted == spawner.stats.completed == 10 * N


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["return", "crash", "cancel", "reset", "abort"])
async def test_a_place_comes_back_however_a_connection_ends(stage: Stage, end: str) -> None:
    handler = Counting()
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(max_connections=1))
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    for number in range(1, 6):
        client = stage.client(server)
        waiting = stage.client(server)
        await until(lambda number=number: handler.begun == 2 * number - 1)
        await give_turns(10)
        assert handler.running == 1
        (connection,) = spawner.connections
        if end == "cancel":
            connection.task.cancel()
        elif end == "reset":
            client.reset()
        elif end == "abort":
            connection.socket.abort()
        else:
            client.send_now(b"go" if end == "return" else b"crash")
        waiting.send_now(b"hello")
        assert await waiting.receive() == b"hello"
        client.close()
        waiting.close()
        await until(lambda: not spawner.connections)
    assert handler.most == 1


@pytest.mark.asyncio
async def test_a_pause_of_the_users_is_not_undone(stage: Stage) -> None:
    handler = Counting()
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(max_connections=1))
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    first, second = stage.client(server), stage.client(server)
    await until(lambda: handler.running == 1)
    server.pause()
    first.send_now(b"go")
    assert await first.receive() == b"go"
    await until(lambda: not spawner.connections)
    await give_turns(20)
    assert handler.begun == 1
    assert server.paused
    server.resume()
    second.send_now(b"at last")
    assert await second.receive() == b"at last"


@pytest.mark.asyncio
async def test_a_resume_of_the_users_does_not_exceed_the_limit(stage: Stage) -> None:
    handler = Counting()
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(max_connections=1))
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    first, second = stage.client(server), stage.client(server)
    await until(lambda: handler.running == 1)
    server.pause()
    server.resume()
    await give_turns(20)
    assert handler.begun == 1
    first.send_now(b"go")
    second.send_now(b"go")
    assert await second.receive() == b"go"
    assert handler.most == 1


@pytest.mark.asyncio
async def test_handlers_that_never_wait_do_not_exceed_it_either(stage: Stage) -> None:
    """With eager tasks such a handler has ended before its task is known."""
    running = most = 0

    async def handler(sock: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        running -= 1

    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(max_connections=2))
    server = stage.tcp_server()
    clients = [stage.client(server) for _ in range(30)]
    await stage.serve(spawner, server)
    for client in clients:
        assert await client.receive() == b""
        client.close()
    await until(lambda: not spawner.connections)
    assert spawner.stats.completed == 30
    assert most <= 2


@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_below_one_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="max_connections"):
        aionet.ConnectionLimits(max_connections=value)


@pytest.mark.parametrize("value", [1.5, "3", True])
def test_a_limit_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="max_connections"):
        aionet.ConnectionLimits(max_connections=value)


@pytest.mark.asyncio
async def test_cancelled_while_full_the_server_is_closed(stage: Stage) -> None:
    handler = Counting()
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(max_connections=1))
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    stage.client(server)
    stage.client(server)
    await until(lambda: handler.running == 1)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert server.closed
    assert handler.begun == 1
