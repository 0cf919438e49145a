"""Ends are counted by their cause, whether somebody wants to know of each or nobody does.

An engine may end the connections of a spawner that nobody watches in a shorter way, while others are being
served.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest
from helpers import until
from peers import RawListener

import aionet
from aionet import CloseCause

from .conftest import Stage
from .test_close_reasons import obey

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=[False, True], ids=["unwatched", "watched"])
def on_close(request: pytest.FixtureRequest) -> Any:
    return (lambda connection, reason: None) if request.param else None


async def serving(stage: Stage, kind: str = "tcp", **options: Any) -> tuple[Any, Any]:
    """A spawner with two clients who stay, and its server."""
    spawner = aionet.ConnectionSpawner(obey, **options)
    server = stage.server(kind)
    await stage.serve(spawner, server)
    for _ in range(2):
        client = stage.client(server)
        client.send_now(b"hello\n")
        assert await client.receive() == b"hello\n"
    return spawner, server


async def end_one(spawner: Any, client: Any, *orders: bytes) -> None:
    """Let a client that is served say its orders, and wait for its end."""
    await until(lambda: spawner.stats.active == 3)
    for order in orders:
        client.send_now(order)
    if not orders:
        client.reset()
    await until(lambda: spawner.stats.active == 2)


@pytest.mark.parametrize(
    ("order", "cause"),
    [
        (b"return\n", CloseCause.COMPLETED),
        (b"crash\n", CloseCause.FAILED),
        (b"cancel\n", CloseCause.CANCELLED),
        (b"close\n", CloseCause.CLOSED),
        (b"reset\n", CloseCause.RESET),
        (b"block\n", CloseCause.RESET),
        (b"finish\n", CloseCause.COMPLETED),
    ],
)
async def test_what_the_handler_does(
    stage: Stage, kind: str, on_close: Any, order: bytes, cause: CloseCause
) -> None:
    spawner, server = await serving(stage, kind, on_close=on_close)
    for _ in range(3):
        await end_one(spawner, stage.client(server), order)
    assert spawner.stats.causes == {cause: 3}
    assert spawner.stats.accepted == 5


async def test_what_the_peer_does(stage: Stage, on_close: Any) -> None:
    spawner, server = await serving(stage, on_close=on_close)
    for end in ("half_close", "reset", "half_close"):
        client = stage.client(server)
        client.send_now(b"hello\n")
        assert await client.receive() == b"hello\n"
        getattr(client, end)()
        await until(lambda: spawner.stats.active == 2)
    assert spawner.stats.causes == {CloseCause.PEER_ENDED: 2, CloseCause.PEER_LOST: 1}


async def test_the_loss_of_another_connection_is_a_crash(stage: Stage, on_close: Any) -> None:
    """A handler that raises what another connection's end has told it has lost nobody."""
    with RawListener() as beyond:

        async def ask_beyond(sock: Any) -> None:
            async with aionet.AsyncTcpSocket() as other:
                await other.connect_to(beyond.address)
                await other.read()

        spawner = aionet.ConnectionSpawner(ask_beyond, on_close=on_close)
        server = stage.tcp_server()
        await stage.serve(spawner, server)
        asked = []
        for _ in range(3):
            stage.client(server)
            asked.append(await beyond.accept())
        for peer in asked:
            peer.reset()
        await until(lambda: not spawner.stats.active)
    assert spawner.stats.causes == {CloseCause.FAILED: 3}


async def test_a_log_that_is_turned_up_meanwhile_tells_of_losses(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    spawner, server = await serving(stage)
    await end_one(spawner, stage.client(server))
    assert not [record for record in caplog.records if "ended" in record.message]
    client = stage.client(server)
    caplog.set_level(logging.DEBUG, "aionet")
    await end_one(spawner, client)
    assert [record.levelname for record in caplog.records if "ended" in record.message] == ["DEBUG"]


async def test_traffic_that_is_counted_from_now_on(stage: Stage) -> None:
    spawner, server = await serving(stage)
    await end_one(spawner, stage.client(server), b"hello\n", b"return\n")
    spawner.count_traffic()
    await end_one(spawner, stage.client(server), b"hello\n", b"return\n")
    assert (spawner.stats.bytes_read, spawner.stats.bytes_written) == (2 * 6 + 13, 2 * 6 + 6)


async def test_a_cap_lets_the_next_one_in_when_one_has_ended(stage: Stage, on_close: Any) -> None:
    spawner, server = await serving(
        stage, on_close=on_close, limits=aionet.ConnectionLimits(max_connections=3)
    )
    for _ in range(3):
        third, fourth = stage.client(server), stage.client(server)
        await end_one_and_go_on(spawner, server, third, fourth)
    assert spawner.stats.causes == {CloseCause.PEER_LOST: 6}


async def end_one_and_go_on(spawner: Any, server: Any, third: Any, fourth: Any) -> None:
    await until(lambda: server.paused)
    third.reset()
    fourth.send_now(b"hello\n")
    assert await fourth.receive() == b"hello\n"
    assert spawner.stats.active == 3
    fourth.reset()
    await until(lambda: spawner.stats.active == 2)


async def test_nothing_of_a_connection_stays(stage: Stage, on_close: Any) -> None:
    spawner, server = await serving(stage, on_close=on_close)
    for order in (b"return\n", b""):
        client = stage.client(server)
        await until(lambda: spawner.stats.active == 3)
        port = client.sock.getsockname()[1]
        (connection,) = [each for each in spawner.connections if each.socket.peer_address.port == port]
        kept = [weakref.ref(each) for each in (connection.socket, connection.task)]
        assert connection.task in asyncio.all_tasks()
        socket = connection.socket
        del connection
        await end_one(spawner, client, *filter(None, [order]))
        assert socket.closed
        del socket
        await asyncio.sleep(0)
        gc.collect()
        assert [ref() for ref in kept] == [None, None]
