"""No room: in the queue, reset, evicted, or told so; the cap is exact under each of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import pytest
from helpers import give_turns, no_descriptors, until

import aionet
from aionet import CloseCause

from .conftest import Stage
from .test_deadlines import STUBBORN, Ends

pytestmark = pytest.mark.asyncio


class Counting:
    """An echo that knows how many of it run, and how many ran at most."""

    def __init__(self) -> None:
        self.running = self.most = 0

    async def __call__(self, sock: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            async for data in sock:
                await sock.write(data)
        finally:
            self.running -= 1


async def serving(stage: Stage, **limits: Any) -> tuple[Counting, Any, Any, Ends]:
    handler, ends = Counting(), Ends()
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(**limits), on_close=ends)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    return handler, spawner, server, ends


async def answers(client: Any) -> bool:
    try:
        client.send_now(b"x")
        return bool(await client.receive() == b"x")
    except ConnectionError:
        return False


async def test_reset(stage: Stage) -> None:
    handler, spawner, server, ends = await serving(stage, max_connections=3, on_full="reset")
    inside = [stage.client(server) for _ in range(3)]
    assert [await answers(client) for client in inside] == [True] * 3
    outside = [stage.client(server) for _ in range(30)]
    assert [await answers(client) for client in outside] == [False] * 30
    assert [await answers(client) for client in inside] == [True] * 3
    assert handler.most == 3
    assert spawner.stats.rejected == 30
    assert ends.causes == [CloseCause.FULL] * 30
    inside[0].reset()
    await until(lambda: handler.running == 2)
    assert await answers(stage.client(server))


async def test_evict_idle(stage: Stage) -> None:
    handler, spawner, server, ends = await serving(stage, max_connections=3, on_full="evict_idle")
    clients = []
    for _ in range(8):
        clients.append(stage.client(server))
        assert await answers(clients[-1])
        await asyncio.sleep(0.02)  # longer than a tick of the kernel's clock, which knows when bytes moved
    assert handler.most == 3
    await until(lambda: spawner.stats.cut == 5)
    assert spawner.stats.active == 3
    assert ends.causes == [CloseCause.EVICTED] * 5
    for client in clients[:5]:  # first come, first to go, as long as nobody moves a byte
        with pytest.raises(ConnectionResetError):
            await client.receive()


async def test_the_most_idle_one_is_evicted(stage: Stage) -> None:
    _, _, server, _ = await serving(stage, max_connections=2, on_full="evict_idle", idle_timeout=1000)
    first, second = stage.client(server), stage.client(server)
    assert await answers(first)
    assert await answers(second)
    await asyncio.sleep(0.05)  # longer than a tick of the kernel's clock
    assert await answers(first)  # no look at the counters since
    third = stage.client(server)
    assert await answers(third)
    assert await answers(first)
    with pytest.raises(ConnectionResetError):
        await second.receive()


async def test_connections_that_move_bytes_are_not_evicted_however_many_come(stage: Stage) -> None:
    _, spawner, server, _ = await serving(stage, max_connections=20, on_full="evict_idle", idle_timeout=1000)
    honest = [stage.client(server) for _ in range(4)]
    for number in range(60):  # three tables full
        for client in honest:
            assert await answers(client), f"evicted by newcomer {number}"
        stage.client(server)
        await until(lambda: spawner.stats.accepted == 5 + number)  # noqa: B023
        await asyncio.sleep(
            0.002
        )  # so that a table full of them takes longer than ticks of the kernel's clock
    await until(lambda: spawner.stats.cut == 44)


async def test_a_peer_with_many_connections_gives_way_first(stage: Stage) -> None:
    _, spawner, server, _ = await serving(stage, max_connections=10, on_full="evict_idle", idle_timeout=1000)
    idle = stage.client(server)
    assert await answers(idle)
    began = asyncio.get_running_loop().time()
    many = [stage.client_from("127.0.0.2", server) for _ in range(9)]
    assert [await answers(client) for client in many] == [True] * 9
    passed = asyncio.get_running_loop().time() - began
    await asyncio.sleep(
        0.05 + passed / 2
    )  # so that the nine have been idle for more than a sixth of its time
    for number in range(4):
        assert await answers(stage.client_from(f"127.0.0.{3 + number}", server))
        await until(lambda: spawner.stats.cut == number + 1)  # noqa: B023
    # Any of the nine: they may have been idle since the same tick of the kernel's clock.
    assert [await answers(client) for client in many].count(False) == 4
    assert await answers(idle)


async def test_a_handler_that_ignores_its_eviction_does_not_block_the_door(stage: Stage) -> None:
    over = asyncio.Event()
    stubborn = []

    async def handler(sock: Any) -> None:
        if not stubborn:
            stubborn.append(sock)
            for _ in range(STUBBORN):
                with contextlib.suppress(asyncio.CancelledError):
                    await over.wait()
        else:
            async for data in sock:
                await sock.write(data)

    limits = aionet.ConnectionLimits(max_connections=2, on_full="evict_idle")
    spawner = aionet.ConnectionSpawner(handler, limits=limits)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    stage.client(server)
    await until(lambda: stubborn)
    second = stage.client(server)
    assert await answers(second)
    third = stage.client(server)
    assert await answers(third)  # a second later, at the cost of the second one
    with pytest.raises(ConnectionResetError):
        await second.receive()
    over.set()
    await until(lambda: spawner.stats.active == 1)


async def test_a_word_of_regret(stage: Stage) -> None:
    async def regret(sock: Any) -> None:
        await sock.write(b"busy\n")

    handler, spawner, server, ends = await serving(stage, max_connections=1, on_full=regret)
    inside = stage.client(server)
    assert await answers(inside)
    for _ in range(5):
        assert await stage.client(server).receive_to_end() == b"busy\n"
    assert await answers(inside)
    await until(lambda: spawner.stats.rejected == 5)
    assert handler.most == 1
    assert ends.causes == [CloseCause.FULL] * 5


async def test_regrets_are_brief_and_few(stage: Stage) -> None:
    """A flood of newcomers must not become a flood of tasks."""
    most = 0

    async def regret(sock: Any) -> None:
        nonlocal most
        most = max(most, len(spawner._intake._overload._regrets))
        await sock.read_exactly(1_000_000)  # far too much to ask

    _, spawner, server, _ = await serving(stage, max_connections=1, on_full=regret)
    inside = stage.client(server)
    assert await answers(inside)
    clients = [stage.client(server) for _ in range(100)]
    await until(lambda: spawner.stats.rejected == 100)
    assert 63 <= most <= 64  # an eager task runs before it is known
    assert await answers(inside)
    for client in clients:
        with contextlib.suppress(ConnectionResetError):
            assert await client.receive() == b""


async def test_a_drain_ends_regrets_and_those_who_wait(stage: Stage) -> None:
    async def regret(sock: Any) -> None:
        await asyncio.Event().wait()

    _, spawner, server, ends = await serving(stage, max_connections=1, on_full=regret)
    assert await answers(stage.client(server))
    stage.client(server)
    await until(lambda: spawner._intake._overload._regrets)
    report = await spawner.drain(0.0)
    assert report.cancelled == 1
    await until(lambda: len(ends.reasons) == 2)
    assert {reason.cause for reason in ends.reasons} == {CloseCause.DRAINED, CloseCause.FULL}


@pytest.mark.parametrize("on_full", ["pause", "reset", "evict_idle"])
async def test_a_burst_of_ten_times_as_many(stage: Stage, on_full: Any) -> None:
    handler, spawner, server, _ = await serving(stage, max_connections=7, on_full=on_full)
    clients = [stage.client(server) for _ in range(70)]
    await until(lambda: spawner.stats.accepted >= (7 if on_full == "pause" else 70))
    await give_turns(20)
    assert handler.most == 7
    for client in clients:
        client.reset()
    await until(lambda: not spawner.connections)
    assert await answers(stage.client(server))  # the places have come back
    assert handler.most == 7


async def test_so_many_of_one_peer(stage: Stage) -> None:
    handler, spawner, server, ends = await serving(stage, max_per_peer=2)
    mine = [stage.client(server) for _ in range(2)]
    assert [await answers(client) for client in mine] == [True, True]
    assert not await answers(stage.client(server))
    other = stage.client_from("127.0.0.2", server)
    assert await answers(other)
    assert spawner.stats.rejected == 1
    assert ends.causes == [CloseCause.TOO_MANY_OF_PEER]
    mine[0].reset()
    await until(lambda: handler.running == 2)
    assert await answers(stage.client(server))


async def test_after_a_preface_the_peer_counts_whom_that_named(stage: Stage) -> None:
    """A proxy's connections are counted by their clients, not by the proxy."""

    async def named(sock: Any) -> None:
        host = (await sock.read_line()).decode().strip()
        sock._wire._peer = aionet.SocketAddress(host, 1)

    handler, ends = Counting(), Ends()
    spawner = aionet.ConnectionSpawner(
        handler, preface=named, limits=aionet.ConnectionLimits(max_per_peer=1), on_close=ends
    )
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    first, again, second = (stage.client(server) for _ in range(3))
    first.send_now(b"192.0.2.1\n")
    assert await answers(first)
    again.send_now(b"192.0.2.1\n")
    assert not await answers(again)
    second.send_now(b"192.0.2.2\n")
    assert await answers(second)
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.TOO_MANY_OF_PEER]
    assert spawner.stats.rejected == 1


async def test_so_many_a_second(stage: Stage) -> None:
    handler, _, server, _ = await serving(stage, accept_rate=20)
    started = asyncio.get_running_loop().time()
    clients = [stage.client(server) for _ in range(40)]
    await until(lambda: handler.running == 40)
    assert asyncio.get_running_loop().time() - started >= 0.95  # 20 at once, 20 within a second
    assert all([await answers(client) for client in clients])


async def test_a_rate_does_not_delay_the_end(stage: Stage) -> None:
    handler, spawner, server, _ = await serving(stage, accept_rate=0.001)
    stage.client(server)
    waiting = stage.client(server)
    await until(lambda: handler.running == 1)
    await spawner.drain(0.0)
    await asyncio.wait_for(asyncio.gather(*stage.servings), 30)
    with pytest.raises(ConnectionResetError):
        await waiting.receive()


async def test_the_last_descriptor_evicts_no_connection(stage: Stage) -> None:
    """accept(2) fails without a descriptor also where no connection waits."""
    _, spawner, server, _ = await serving(stage, on_full="evict_idle")
    first = stage.client(server)
    assert await answers(first)
    newcomer = socket.socket()
    kept = os.dup(0)
    with newcomer, no_descriptors():
        os.close(kept)  # the last one
        newcomer.connect(("127.0.0.1", server.address.port))
        await until(lambda: len(spawner.connections) == 2)
        await give_turns(10)
        assert spawner.stats.cut == 0
    assert await answers(first)


async def test_a_drain_evicts_nobody(stage: Stage) -> None:
    over = asyncio.Event()
    begun = 0

    async def stubborn(sock: Any) -> None:
        nonlocal begun
        begun += 1
        for _ in range(STUBBORN):
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    limits = aionet.ConnectionLimits(max_connections=2, on_full="evict_idle")
    spawner = aionet.ConnectionSpawner(stubborn, limits=limits)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    first, _ = stage.client(server), stage.client(server)
    await until(lambda: begun == 2)
    newcomer = stage.client(server)
    with pytest.raises(ConnectionResetError):  # evicted, though its handler stays
        await first.receive()
    report = await spawner.drain(0.0, hard=0.1)
    assert report.aborted == 2
    with pytest.raises(ConnectionResetError):
        await newcomer.receive()
    over.set()
    await until(lambda: not spawner.connections)
    assert begun == 2
    assert spawner.stats.causes == {CloseCause.EVICTED: 1, CloseCause.ABORTED: 1}


# What strangers can hold ------------------------------------------------------------------------------


async def test_a_connection_that_was_reset_before_takes_no_token(stage: Stage) -> None:
    """Connecting and resetting costs a stranger nothing, and must not cost others their turn."""
    handler, ends = Counting(), Ends()
    limits = aionet.ConnectionLimits(accept_rate=0.001)  # one, and the next in a quarter of an hour
    spawner = aionet.ConnectionSpawner(handler, limits=limits, on_close=ends)
    server = stage.tcp_server()
    for _ in range(20):
        stage.client(server).reset()
    honest = stage.client(server)
    await stage.serve(spawner, server)
    assert await answers(honest)
    assert ends.causes == [CloseCause.RESET_EARLY] * 20
    assert spawner.stats.rejected == 20
    assert handler.most == 1


async def test_what_a_unix_client_said_before_it_left_is_served(stage: Stage) -> None:
    """It has no reset: what it wrote is there to be read."""
    said: list[bytes] = []

    async def handler(sock: Any) -> None:
        said.append(await sock.read())

    limits = aionet.ConnectionLimits(accept_rate=1000)
    spawner = aionet.ConnectionSpawner(handler, limits=limits)
    server = stage.unix_server()
    client = stage.client(server)
    client.send_now(b"and away")
    client.close()
    await stage.serve(spawner, server)
    await until(lambda: said == [b"and away"])


REFUSALS: dict[str, tuple[dict[str, Any], CloseCause]] = {
    "number": ({"max_per_peer": 1}, CloseCause.TOO_MANY_OF_PEER),
    "rate": ({"accept_rate_per_peer": 0.001}, CloseCause.TOO_FAST_OF_PEER),
}


@pytest.mark.parametrize("limit", REFUSALS)
async def test_a_connection_that_is_turned_away_takes_no_token(stage: Stage, limit: str) -> None:
    limits, cause = REFUSALS[limit]
    _, spawner, server, ends = await serving(stage, accept_rate=0.001, **limits)
    bucket = spawner._intake._rate._bucket
    bucket._capacity = bucket._tokens = 2.0
    assert await answers(stage.client(server))
    assert [await answers(stage.client(server)) for _ in range(10)] == [False] * 10
    assert await answers(stage.client_from("127.0.0.2", server))
    assert ends.causes == [cause] * 10
    third = stage.client_from("127.0.0.3", server)
    await give_turns(20)
    assert spawner.stats.accepted == 12  # both tokens are used up
    third.close()


@pytest.mark.parametrize("limit", REFUSALS)
async def test_a_connection_that_is_turned_away_evicts_nobody(stage: Stage, limit: str) -> None:
    limits, cause = REFUSALS[limit]
    _, _, server, ends = await serving(stage, max_connections=2, on_full="evict_idle", **limits)
    inside = stage.client(server), stage.client_from("127.0.0.2", server)
    assert [await answers(client) for client in inside] == [True, True]
    assert [await answers(stage.client(server)) for _ in range(5)] == [False] * 5
    assert [await answers(client) for client in inside] == [True, True]
    assert ends.causes == [cause] * 5


async def test_so_many_a_second_of_one_peer(stage: Stage) -> None:
    _, spawner, server, ends = await serving(stage, accept_rate_per_peer=0.001)
    for host in ("127.0.0.1", "127.0.0.2"):
        first = stage.client_from(host, server)
        assert await answers(first)
        first.close()  # it is the rate that counts, not how many there are
        assert not await answers(stage.client_from(host, server))
    await until(lambda: len(ends.causes) == 4)
    assert spawner.stats.causes[CloseCause.TOO_FAST_OF_PEER] == 2
    await spawner.drain(0.0)


async def test_a_lack_of_resources_does_not_count_for_the_peer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, spawner, server, ends = await serving(stage, max_per_peer=1)
    begin = spawner._enforcer.begin

    def fail(connection: Any) -> None:
        monkeypatch.setattr(spawner._enforcer, "begin", begin)
        raise aionet.ResourceExhaustedError(24, "no descriptors", operation="watch_peer")

    monkeypatch.setattr(spawner._enforcer, "begin", fail)
    assert not await answers(stage.client(server))
    assert await answers(stage.client(server))
    assert ends.causes == [CloseCause.EXHAUSTED]
