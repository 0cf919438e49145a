"""What programs do all day long leaves nothing that only the cyclic collector can free.

A cycle holds memory until the collector runs, which may be late, and its runs take time. So nothing of an
everyday path may be one: a connection that was made, failed, was cancelled or lost; a read or a write that
timed out; a handshake; a server that was closed; a handler that crashed.

Both ends are aionet's here, so that what both of them leave is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import pathlib
import socket
import ssl
import tempfile
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from helpers import begin, give_turns, until
from tls_peers import HOST, contexts

import aionet
from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, AsyncUnixConnectionServer, AsyncUnixSocket

pytestmark = pytest.mark.asyncio

LARGE = bytes(8_000_000)
"""More than the kernel takes at once."""

TIMES = 2

Path = Callable[["Place"], Coroutine[Any, Any, None]]
PATHS: list[Path] = []


def path(function: Path) -> Path:
    """`function(place)` is run and counted; it leaves nothing open."""
    PATHS.append(function)
    return function


@dataclass
class Place:
    """Where to connect to."""

    directory: pathlib.Path
    refused: Any
    silent: Any
    echo: Any
    """A spawner's server. At ``b"!"`` its handlers raise, and after ``b"?"`` they wait for something else."""
    echo_tls: Any
    spawner: aionet.ConnectionSpawner[Any]
    strict: ssl.SSLContext
    """A client's context that trusts no certificate."""
    raced: Any = None
    """What ``race.example`` resolves to, behind a silent address."""


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[AsyncTcpSocket, AsyncTcpSocket]]:
    async with AsyncTcpConnectionServer("127.0.0.1:0") as server:
        client = AsyncTcpSocket()
        accepted, _ = await asyncio.gather(server.accept(), client.connect_to(server.address))
    yield accepted, client
    await asyncio.gather(client.aclose(), accepted.aclose())


@contextlib.asynccontextmanager
async def tls_pair() -> AsyncIterator[tuple[AsyncTcpSocket, AsyncTcpSocket]]:
    tls = contexts()
    async with AsyncTcpConnectionServer("127.0.0.1:0", tls=tls.server) as server:
        connecting = AsyncTcpSocket().connect_to(server.address, tls=tls.client, server_hostname=HOST)
        accepted, client = await asyncio.gather(server.accept(), connecting)
    yield accepted, client
    await asyncio.gather(client.aclose(), accepted.aclose())


async def end_of(*tasks: asyncio.Task[Any]) -> None:
    """Wait until all have ended, in whatever way. To raise their errors here would make cycles of our own."""
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


# Connecting -------------------------------------------------------------------------------------------------


@path
async def connect(place: Place) -> None:
    async with pair():
        pass


@path
async def connect_to_a_refusal(place: Place) -> None:
    with contextlib.suppress(aionet.ConnectError):
        await AsyncTcpSocket().connect_to(place.refused)


@path
async def connect_to_several_refusals(place: Place) -> None:
    with contextlib.suppress(aionet.ConnectError):
        await AsyncTcpSocket().connect_to(("refused.example", 1))


@path
async def connect_to_no_name(place: Place) -> None:
    with contextlib.suppress(aionet.ResolveError):
        await AsyncTcpSocket().connect_to(("none.example", 1))


@path
async def connect_from_a_bad_address(place: Place) -> None:
    with contextlib.suppress(aionet.ConnectError):
        await AsyncTcpSocket().connect_to(place.refused, local_address="192.0.2.1:0")


@path
async def connect_to_no_unix_server(place: Place) -> None:
    with contextlib.suppress(aionet.ConnectError):
        await AsyncUnixSocket().connect_to(place.directory / "nobody")


@path
async def connect_by_a_race(place: Place) -> None:
    async with AsyncTcpConnectionServer("127.0.0.1:0") as server:
        place.raced = server.address
        client = await AsyncTcpSocket().connect_to(("race.example", 1), happy_eyeballs_delay=0)
        await (await server.accept()).aclose()
        await client.aclose()


@path
async def connect_cancelled(place: Place) -> None:
    for address in (place.silent, ("silent.example", 1)):
        task = await begin(AsyncTcpSocket().connect_to(address))
        task.cancel()
        await end_of(task)


@path
async def connect_timed_out(place: Place) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            await AsyncTcpSocket().connect_to(place.silent)


@path
async def connect_aborted(place: Place) -> None:
    sock = AsyncTcpSocket()
    task = await begin(sock.connect_to(place.silent))
    sock.abort()
    await end_of(task)


@path
async def connect_over_unix(place: Place) -> None:
    async with AsyncUnixConnectionServer(place.directory / "server") as server:
        client = await AsyncUnixSocket().connect_to(server.address)
        accepted = await server.accept()
        await client.write(b"hello")
        await accepted.read()
        await client.aclose()
        await accepted.aclose()


# Accepting --------------------------------------------------------------------------------------------------


@path
async def open_and_close_a_server(place: Place) -> None:
    for address in (0, "127.0.0.1:0"):
        AsyncTcpConnectionServer(address).close()
        await AsyncTcpConnectionServer(address, tls=contexts().server).aclose()


@path
async def accept_cancelled(place: Place) -> None:
    for tls in (None, contexts().server):
        async with AsyncTcpConnectionServer("127.0.0.1:0", tls=tls) as server:
            task = await begin(server.accept())
            task.cancel()
            await end_of(task)


@path
async def close_a_server_that_accepts(place: Place) -> None:
    for tls in (None, contexts().server):
        server = AsyncTcpConnectionServer("127.0.0.1:0", tls=tls)
        task = await begin(server.accept())
        await server.aclose()
        await end_of(task)


# Reading and writing ----------------------------------------------------------------------------------------


@path
async def talk(place: Place) -> None:
    async with pair() as (one, other):
        await one.write(b"hello\n")
        await other.read_line()
        await one.write_vectored([b"1", b"2"])
        await other.peek(2)
        await other.read_into(bytearray(10))
        await one.send_eof()
        await other.read()


@path
async def write_a_lot(place: Place) -> None:
    async with pair() as (one, other):
        reading = await begin(other.read_exactly(len(LARGE)))
        await one.write(LARGE)
        await one.wait_acknowledged()
        await reading


@path
async def send_a_file(place: Place) -> None:
    async with pair() as (one, other):
        with tempfile.TemporaryFile() as file:
            file.write(LARGE)
            file.flush()
            reading = await begin(other.read_exactly(len(LARGE)))
            await one.send_file(file)
            await reading


@path
async def time_out_reads(place: Place) -> None:
    async with pair() as (sock, _):
        for read in (
            sock.read,
            sock.read_line,
            sock.peek,
            lambda: sock.read_exactly(5),
            lambda: sock.read_into(bytearray(5)),
        ):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.0005):
                    await read()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(read(), 0.0005)


@path
async def time_out_a_write(place: Place) -> None:
    async with pair() as (one, other):
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.0005):
                    await one.write(LARGE)
        other.abort()
        one.abort()


@path
async def reset_while_nothing_waits(place: Place) -> None:
    async with pair() as (one, other):
        other.abort()
        for _ in range(2):
            with contextlib.suppress(aionet.ConnectionLostError):
                await one.read()
            with contextlib.suppress(aionet.ConnectionLostError):
                await one.write(b"x")


async def all_waits(sock: AsyncTcpSocket) -> list[asyncio.Task[Any]]:
    writing = await begin(sock.write(LARGE))
    return [
        writing,
        *[await begin(wait) for wait in (sock.read(), sock.write(b"x"), sock.wait_acknowledged())],
    ]


@path
async def reset_while_all_waits(place: Place) -> None:
    async with pair() as (one, other):
        tasks = await all_waits(one)
        other.abort()
        await end_of(*tasks)


@path
async def abort_while_all_waits(place: Place) -> None:
    async with pair() as (one, _):
        tasks = await all_waits(one)
        one.abort()
        await end_of(*tasks)


@path
async def cancel_all_that_waits(place: Place) -> None:
    async with pair() as (one, _):
        tasks = await all_waits(one)
        for task in tasks:
            task.cancel()
        await end_of(*tasks)
        one.abort()


@path
async def end_too_early(place: Place) -> None:
    async with pair() as (one, other):
        await one.write(b"half")
        await one.aclose()
        with contextlib.suppress(aionet.IncompleteReadError):
            await other.read_exactly(5)
        await other.aclose()
        for operation in (other.read(), other.write(b"x"), other.send_eof()):
            with contextlib.suppress(aionet.SocketClosedError):
                await operation


@path
async def use_while_busy(place: Place) -> None:
    async with pair() as (one, _):
        task = await begin(one.read())
        with contextlib.suppress(aionet.SocketBusyError):
            await one.read()
        task.cancel()
        await end_of(task)


# TLS --------------------------------------------------------------------------------------------------------


@path
async def talk_over_tls(place: Place) -> None:
    async with tls_pair() as (one, other):
        reading = await begin(other.read_exactly(len(LARGE)))
        await one.write(LARGE)
        await reading
        await other.write(b"hello\n")
        await one.read_line()


@path
async def reset_over_tls(place: Place) -> None:
    async with tls_pair() as (one, other):
        tasks = [await begin(one.write(LARGE)), await begin(one.read())]
        other.abort()
        await end_of(*tasks)


@path
async def cancel_over_tls(place: Place) -> None:
    async with tls_pair() as (one, other):
        tasks = [await begin(one.write(LARGE)), await begin(one.read())]
        for task in tasks:
            task.cancel()
        await end_of(*tasks)
        one.abort()
        with contextlib.suppress(aionet.AionetError):
            await other.read_exactly(len(LARGE))


@path
async def fail_a_handshake(place: Place) -> None:
    async with AsyncTcpConnectionServer("127.0.0.1:0", tls=contexts().server) as server:
        accepting = await begin(server.accept())
        with contextlib.suppress(aionet.TlsError):
            await AsyncTcpSocket().connect_to(server.address, tls=place.strict, server_hostname=HOST)
        accepting.cancel()
        await end_of(accepting)


@path
async def cancel_a_handshake(place: Place) -> None:
    async with AsyncTcpConnectionServer("127.0.0.1:0") as server:
        sock = AsyncTcpSocket()
        task = await begin(sock.connect_to(server.address, tls=contexts().client, server_hostname=HOST))
        accepted = await server.accept()
        task.cancel()
        await end_of(task)
        accepted.abort()


@path
async def start_tls(place: Place) -> None:
    tls = contexts()
    async with pair() as (one, other):
        await asyncio.gather(
            one.start_tls(tls.server, server_side=True), other.start_tls(tls.client, server_hostname=HOST)
        )


# Serving ----------------------------------------------------------------------------------------------------


async def handle(sock: Any) -> None:
    async for data in sock:
        if data == b"!":
            raise ValueError("the handler is broken")
        await sock.write(data)
        if data == b"?":
            await asyncio.Event().wait()


def clients(place: Place) -> list[Coroutine[Any, Any, AsyncTcpSocket]]:
    return [
        AsyncTcpSocket().connect_to(place.echo),
        AsyncTcpSocket().connect_to(place.echo_tls, tls=contexts().client, server_hostname=HOST),
    ]


@path
async def serve(place: Place) -> None:
    for connecting in clients(place):
        async with await connecting as client:
            await client.write(b"hello")
            await client.read_exactly(5)
    await until(lambda: not place.spawner.connections)


@path
async def crash_a_handler(place: Place) -> None:
    for connecting in clients(place):
        client = await connecting
        await client.write(b"!")
        with contextlib.suppress(aionet.ConnectionLostError, aionet.TlsTruncatedError):
            await client.read()
        await client.aclose()
    await until(lambda: not place.spawner.connections)


@path
async def leave_a_handler(place: Place) -> None:
    for connecting in clients(place):
        client = await connecting
        await give_turns()
        client.abort()
    await until(lambda: not place.spawner.connections)


@path
async def cancel_a_handler(place: Place) -> None:
    for connecting in clients(place):
        client = await connecting
        await client.write(b"?")
        await client.read_exactly(1)
        for connection in place.spawner.connections:
            connection.task.cancel()
        with contextlib.suppress(aionet.AionetError):
            await client.read()
        await client.aclose()
        await until(lambda: not place.spawner.connections)


@path
async def cancel_a_handler_in_its_handshake(place: Place) -> None:
    async with await AsyncTcpSocket().connect_to(place.echo_tls):
        await until(lambda: place.spawner.connections)
        await give_turns()
        for connection in place.spawner.connections:
            connection.task.cancel()
        await until(lambda: not place.spawner.connections)


@path
async def fail_a_handshake_of_a_spawner(place: Place) -> None:
    with contextlib.suppress(aionet.TlsError):
        await AsyncTcpSocket().connect_to(place.echo_tls, tls=place.strict, server_hostname=HOST)
    await until(lambda: not place.spawner.connections)


@path
async def relay_both_ways(place: Place) -> None:
    async with pair() as (near, one), pair() as (far, other):
        relaying = await begin(aionet.relay(near, far))
        await one.write(b"hello")
        await other.read_exactly(5)
        await one.aclose()
        await other.aclose()
        await relaying


# Counting ---------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    # Records that are kept hold the errors that they are about.
    monkeypatch.setattr(logging.getLogger("aionet"), "propagate", False)
    spawner = aionet.ConnectionSpawner(handle)
    server = AsyncTcpConnectionServer("127.0.0.1:0")
    tls_server = AsyncTcpConnectionServer("127.0.0.1:0", tls=contexts().server)
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.2", 0))
        silent.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        refused = stack.enter_context(socket.socket())
        refused.bind(("127.0.0.1", 0))
        made = Place(
            directory=tmp_path,
            refused=refused.getsockname(),
            silent=silent.getsockname(),
            echo=server.address,
            echo_tls=tls_server.address,
            spawner=spawner,
            strict=ssl.create_default_context(),
        )

        async def resolver(host: str, port: int) -> list[aionet.SocketAddress]:
            if host == "none.example":
                raise OSError("no such name")
            silent, refused = (aionet.SocketAddress(*address) for address in (made.silent, made.refused))
            if host == "race.example":
                return [silent, refused, made.raced]
            return [silent] * 2 if host == "silent.example" else [refused] * 3

        async with aionet.NetworkToolkit(resolver=resolver):
            serving = await begin(spawner.serve(server, tls_server))
            yield made
            await spawner.drain(5)
            await serving


@pytest.mark.parametrize("path", PATHS, ids=[path.__name__ for path in PATHS])
async def test_nothing_is_left_to_the_cyclic_collector(place: Place, path: Path) -> None:
    await path(place)  # what is made once
    await give_turns()
    gc.collect()
    gc.disable()
    try:
        for _ in range(TIMES):
            await path(place)
            await give_turns()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = Counter(map(kind_of, gc.garbage))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found


def kind_of(thing: object) -> str:
    """What to look for where the test fails."""
    if isinstance(thing, types.FrameType):
        return f"frame of {thing.f_code.co_name}"
    if isinstance(thing, types.TracebackType):
        return f"traceback of {thing.tb_frame.f_code.co_name}"
    if isinstance(thing, (types.CoroutineType, types.FunctionType, types.MethodType)):
        return f"{type(thing).__name__} {thing.__qualname__}"
    return type(thing).__qualname__
