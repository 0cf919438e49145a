"""A connect that is cancelled, at whatever moment, leaves nothing: no descriptor, nothing with the loop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from helpers import until

import aionet

CANCELLED = 5_000

Connect = Callable[[], Awaitable[Any]]


def descriptors() -> set[tuple[str, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
        except OSError:  # that of the listing
            pass
    return found


def registered() -> set[tuple[str, str]]:
    """What is registered with this process's epoll instances, the loop's among them."""
    found = set()
    for number, what in descriptors():
        if what == "anon_inode:[eventpoll]":
            info = Path(f"/proc/self/fdinfo/{number}").read_text()
            found.update((number, line.split()[1]) for line in info.splitlines() if line.startswith("tfd:"))
    assert found
    return found


@contextmanager
def silent_port(host: str) -> Iterator[aionet.SocketAddress]:
    """A port that neither accepts nor refuses: its queue is full, and the kernel drops who comes."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, 0))
        listener.listen(0)
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield aionet.SocketAddress(*listener.getsockname())


@contextmanager
def refusing_port(host: str) -> Iterator[aionet.SocketAddress]:
    """A port that refuses: bound by somebody who does not listen."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        yield aionet.SocketAddress(*sock.getsockname())


async def until_the_end(sock: Any) -> None:
    async for _ in sock:
        pass


@pytest_asyncio.fixture
async def spawner() -> aionet.ConnectionSpawner[Any]:
    return aionet.ConnectionSpawner(until_the_end)


@pytest_asyncio.fixture
async def targets(
    spawner: aionet.ConnectionSpawner[Any], tmp_path: Path
) -> AsyncIterator[dict[str, Connect]]:
    """Ways to connect, by what is special about them."""
    candidates: dict[str, list[aionet.SocketAddress]] = {}

    async def resolver(host: str, port: int) -> list[aionet.SocketAddress]:
        if host.startswith("slow"):
            await asyncio.sleep(0.0005)
        return candidates[host]

    def tcp(address: Any, delay: float | None = 0.25) -> Connect:
        return lambda: aionet.AsyncTcpSocket().connect_to(address, happy_eyeballs_delay=delay)

    tcp_server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    unix_server = aionet.AsyncUnixConnectionServer(tmp_path / "server")
    full_queue = aionet.AsyncUnixConnectionServer(tmp_path / "full", backlog=1)
    good = tcp_server.address
    with silent_port("127.0.0.2") as silent, refusing_port("127.0.0.3") as refusing, ExitStack() as stack:
        candidates["good.test"] = [good, good]
        candidates["slow.test"] = [good, good]
        candidates["mixed.test"] = [silent, refusing, good]
        candidates["silent.test"] = [silent, silent, silent]
        for _ in range(2):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect_ex(str(tmp_path / "full"))
        serving = asyncio.create_task(spawner.serve(tcp_server, unix_server))
        async with full_queue, aionet.NetworkToolkit(resolver=resolver):
            yield {
                "numeric": tcp(good),
                "numeric, silent": tcp(silent),
                "name with two good addresses": tcp(("good.test", 1)),
                "slow name": tcp(("slow.test", 1)),
                "name, staggered": tcp(("mixed.test", 1), 0.0003),
                "name, all at once": tcp(("mixed.test", 1), 0),
                "name, one after the other": tcp(("silent.test", 1), None),
                "unix": lambda: aionet.AsyncUnixSocket().connect_to(tmp_path / "server"),
                "unix, full": lambda: aionet.AsyncUnixSocket().connect_to(tmp_path / "full"),
            }
            await spawner.drain(5)
            await serving


async def connect_then_cancel(connect: Connect, rng: random.Random) -> bool:
    """Cancel `connect` at a random moment; whether it was still connecting then."""
    task = asyncio.ensure_future(connect())
    if rng.random() < 0.15:
        await asyncio.sleep(rng.random() * 0.002)
    else:
        for _ in range(rng.randrange(7)):
            await asyncio.sleep(0)
    task.cancel()
    try:
        sock = await task
    except asyncio.CancelledError:
        return True
    assert await sock.write(b"connected") == 9
    sock.abort() if rng.random() < 0.5 else await sock.aclose()
    return False


@pytest.mark.asyncio
@pytest.mark.slow
async def test_5_000_connects_cancelled_at_random_leave_nothing(
    targets: dict[str, Connect], spawner: aionet.ConnectionSpawner[Any]
) -> None:
    rng = random.Random(4)
    ways = list(targets.values())
    for connect in ways:  # whatever is made once
        await connect_then_cancel(connect, rng)
    await until(lambda: not spawner.connections)
    open_before, registered_before = descriptors(), registered()
    cancelled = connected = 0
    while cancelled < CANCELLED:
        # Several at a time, so that descriptors freed by one are taken by the next.
        for was_connecting in await asyncio.gather(*(connect_then_cancel(connect, rng) for connect in ways)):
            cancelled += was_connecting
            connected += not was_connecting
    assert connected > 0
    sock = await targets["numeric"]()  # the server is as well as before
    await sock.aclose()
    await until(lambda: not spawner.connections)
    assert descriptors() == open_before
    assert registered() == registered_before
    assert spawner.stats.failed == 0
    assert spawner.stats.accepted == spawner.stats.completed + spawner.stats.disconnected
