"""A peer that leaves while the handler computes, and memory that waiting writes hold."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers import until

import aionet
from aionet import CloseCause

from .conftest import Stage
from .test_deadlines import Ends

pytestmark = pytest.mark.asyncio


async def serving(stage: Stage, handler: Any, kind: str = "tcp", **limits: Any) -> tuple[Any, Any, Ends]:
    ends = Ends()
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(**limits), on_close=ends)
    server = stage.server(kind)
    await stage.serve(spawner, server)
    return spawner, server, ends


def leaves(client: Any, how: str) -> None:
    {"closes": client.close, "half-closes": client.half_close, "resets": client.reset}[how]()


def skip_without_epoll(socket: Any) -> None:
    if not socket._wire._state.reactor.tells_errors:
        pytest.skip("this reactor is told of readable descriptors only")


@pytest.mark.parametrize("how", ["closes", "half-closes", "resets"])
async def test_cancel(stage: Stage, how: str) -> None:
    computing, told = [], []

    async def compute(sock: Any) -> None:
        assert await sock.read() == b"work"
        computing.append(sock)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            told.append(str(error))
            raise

    _, server, ends = await serving(stage, compute, on_peer_gone="cancel")
    client = stage.client(server)
    client.send_now(b"work")
    await until(lambda: computing)
    skip_without_epoll(computing[0])
    leaves(client, how)
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.PEER_GONE]
    assert ends.reasons[0].by == "peer"
    assert told == ["connection cut: peer left while the handler worked"]


@pytest.mark.parametrize("how", ["closes", "half-closes", "resets"])
async def test_event(stage: Stage, how: str) -> None:
    noticed = asyncio.Event()
    sockets = []

    async def compute(sock: Any) -> None:
        sockets.append(sock)
        assert not sock.peer_gone
        await sock.peer_gone.wait()
        assert sock.peer_gone
        noticed.set()

    _, server, ends = await serving(stage, compute, on_peer_gone="event")
    client = stage.client(server)
    await until(lambda: sockets)
    skip_without_epoll(sockets[0])
    leaves(client, how)
    await asyncio.wait_for(noticed.wait(), 30)
    await until(lambda: ends.reasons)
    assert ends.causes[0] in (CloseCause.COMPLETED, CloseCause.PEER_LOST)


@pytest.mark.parametrize("policy", ["event", "cancel"])
async def test_a_handler_that_reads_learns_it_by_reading(stage: Stage, policy: Any) -> None:
    async def read(sock: Any) -> None:
        while await sock.read():
            pass

    _, server, ends = await serving(stage, read, on_peer_gone=policy)
    client = stage.client(server)
    client.send_now(b"x")
    client.close()
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.PEER_ENDED]


async def test_ignore_is_the_default(stage: Stage) -> None:
    over = asyncio.Event()

    async def reply_later(sock: Any) -> None:
        request = bytearray()
        while data := await sock.read():
            request += data
        await over.wait()
        await sock.write(request.upper())

    _, server, ends = await serving(stage, reply_later)
    client = stage.client(server)
    client.send_now(b"please")
    client.half_close()
    await asyncio.sleep(0.05)
    over.set()
    assert await client.receive_to_end() == b"PLEASE"
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.PEER_ENDED]


async def test_waiting_writes_hold_no_more_than_they_may(stage: Stage) -> None:
    """Clients that never read: the memory is bounded, and those who do read are served."""
    chunk, most = 4_000_000, 30_000_000
    held = []

    async def flood(sock: Any) -> None:
        while True:
            await sock.write(bytes(chunk))
            held.append(spawner._enforcer._pending.held)

    spawner, server, ends = await serving(stage, flood, max_pending_bytes=most)
    silent = [stage.client(server) for _ in range(30)]
    await until(lambda: len(ends.reasons) >= 3)
    pending = spawner._enforcer._pending
    await until(lambda: pending.held <= most)
    assert set(ends.causes) == {CloseCause.PENDING_BYTES}
    reader = stage.client(server)
    received = 0
    while received < 3 * chunk:
        received += len(await reader.receive(1 << 20))
    for client in (*silent, reader):
        client.reset()
    await until(lambda: not spawner.connections)
    assert pending.held == 0
    assert max(held, default=0) <= most + 8 * chunk  # new connections of a turn, which write unasked


async def test_one_that_holds_too_much_alone_is_cut_alone(stage: Stage) -> None:
    async def serve(sock: Any) -> None:
        size = int(await sock.read_line())
        await sock.write(bytes(size))

    _, server, ends = await serving(stage, serve, max_pending_bytes=10_000_000)
    greedy, modest = stage.client(server), stage.client(server)
    modest.send_now(b"9000000\n")
    greedy.send_now(b"90000000\n")
    await until(lambda: ends.reasons)
    assert ends.causes == [CloseCause.PENDING_BYTES]
    assert ends.reasons[0].bytes_read == len("90000000\n")
    assert len(await modest.receive_to_end()) == 9_000_000
