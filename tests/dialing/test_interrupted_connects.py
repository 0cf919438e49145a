"""A connect that is interrupted, in whatever turn of the loop: it raises, and nothing stays open."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket

import pytest
from helpers import begin, give_turns, open_sockets, until
from peers import RawListener
from tls_peers import HOST, contexts

from aionet import (
    AsyncTcpSocket,
    AsyncUnixSocket,
    NetworkToolkit,
    SocketAddress,
    SocketClosedError,
    dialing,
)

from .support import resolving

pytestmark = pytest.mark.asyncio

AT_ONCE = [0, 1e-9]
"""Delays with which every attempt starts in the first turns."""


async def cancel(task, sock):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def abort(task, sock):
    sock.abort()
    with pytest.raises(SocketClosedError):
        await task
    assert sock.closed
    assert task.cancelling() == 0


async def close(task, sock):
    await sock.aclose()
    with pytest.raises(SocketClosedError):
        await task
    assert sock.closed
    assert task.cancelling() == 0


async def cancel_and_abort(task, sock):
    sock.abort()
    await cancel(task, sock)


async def fail_the_group(task, sock):
    """A group ends only when all of its tasks have: one that lost its cancellation would read for ever."""

    async def join():
        await task
        await sock.read()

    async def run():
        async with asyncio.TaskGroup() as group:
            group.create_task(join())
            await asyncio.sleep(0)
            raise ValueError("the group ends")

    with pytest.raises(ExceptionGroup):
        await run()
    sock.abort()


INTERRUPTIONS = [cancel, abort, close, cancel_and_abort, fail_the_group]


async def interrupt_in_each_turn(make_socket, connect, interrupt, *, in_turn=lambda number: None):
    """Call `interrupt(task, socket)` in the first turn of a `connect(socket)`, in the second of another, ...

    It ends with the first that has connected before its turn.
    """
    before = open_sockets()
    for turns in itertools.count(1):  # before the first one there is nothing to interrupt
        sock = make_socket()
        task = asyncio.create_task(connect(sock))
        for number in range(turns):
            await asyncio.sleep(0)
            in_turn(number)
        if task.done():
            break
        async with asyncio.timeout(30):
            await interrupt(task, sock)
        await until(lambda: open_sockets() == before)
    assert turns > 1
    assert await task is sock
    assert not sock.closed
    sock.abort()
    await until(lambda: open_sockets() == before)


@pytest.fixture
def listener():
    with RawListener(backlog=512) as listener:
        yield listener


@pytest.mark.parametrize("interrupt", INTERRUPTIONS)
@pytest.mark.parametrize("delay", AT_ONCE)
@pytest.mark.parametrize("order", ["silent first", "silent last", "refused first"])
async def test_a_race_with_an_attempt_in_progress(listener, deaf, refused, order, delay, interrupt):
    candidates = {
        "silent first": [deaf, listener.address],
        "silent last": [listener.address, deaf],
        "refused first": [refused, deaf, listener.address],
    }[order]
    with resolving(*candidates):
        await interrupt_in_each_turn(
            AsyncTcpSocket,
            lambda sock: sock.connect_to(("name.example", 1), happy_eyeballs_delay=delay),
            interrupt,
        )


@pytest.mark.parametrize("interrupt", INTERRUPTIONS)
async def test_one_address(listener, interrupt):
    await interrupt_in_each_turn(AsyncTcpSocket, lambda sock: sock.connect_to(listener.address), interrupt)


@pytest.mark.parametrize("interrupt", INTERRUPTIONS)
async def test_a_race_that_nobody_wins(deaf, refused, interrupt):
    before = open_sockets()
    with resolving(refused, deaf, deaf):
        sock = AsyncTcpSocket()
        task = await begin(sock.connect_to(("name.example", 1), happy_eyeballs_delay=0))
        assert len(open_sockets()) == len(before) + 2
        await interrupt(task, sock)
    assert open_sockets() == before


@pytest.mark.parametrize("interrupt", INTERRUPTIONS)
async def test_a_race_and_a_tls_handshake(deaf, interrupt):
    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            await reader.read()
        writer.transport.abort()

    tls = contexts()
    loop = asyncio.get_running_loop()
    complain = loop.get_exception_handler()
    loop.set_exception_handler(lambda *_: None)  # the server's end of what is interrupted here
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.server) as server:
        with resolving(deaf, server.sockets[0].getsockname()):
            await interrupt_in_each_turn(
                AsyncTcpSocket,
                lambda sock: sock.connect_to(
                    ("name.example", 1), tls=tls.client, server_hostname=HOST, happy_eyeballs_delay=0
                ),
                interrupt,
            )
    loop.set_exception_handler(complain)


@pytest.mark.parametrize("interrupt", INTERRUPTIONS)
async def test_a_full_queue_of_a_unix_server(tmp_path, interrupt, monkeypatch):
    monkeypatch.setattr(dialing, "_FULL_QUEUE_PAUSES", (0,))
    with RawListener(str(tmp_path / "socket"), socket.AF_UNIX, backlog=0) as listener:
        listener.sock.setblocking(False)

        def make_room():
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.sock.accept()[0].close()

        def connect(sock):
            make_room()
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(listener.address)
            return sock.connect_to(listener.address)

        await interrupt_in_each_turn(
            AsyncUnixSocket, connect, interrupt, in_turn=lambda number: number == 3 and make_room()
        )


# Resolvers that do not let a cancellation through ---------------------------------------------------------


async def suppressing(then):
    """A resolver's await that suppresses a cancellation, and then does `then()`."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return then()


@pytest.mark.parametrize("interrupt", [cancel, abort, close, cancel_and_abort])
async def test_a_resolver_that_suppresses_the_cancellation(listener, interrupt):
    before = open_sockets()

    async def resolver(host, port):
        return await suppressing(lambda: [SocketAddress(*listener.address)])

    async with NetworkToolkit(resolver=resolver):
        sock = AsyncTcpSocket()
        await interrupt(await begin(sock.connect_to(("name.example", 1))), sock)
    assert open_sockets() == before


@pytest.mark.parametrize("interrupt", [abort, close])
async def test_a_resolver_that_makes_an_error_of_it(interrupt):
    async def resolver(host, port):
        return await suppressing(fail)

    def fail():
        raise OSError("interrupted")

    async with NetworkToolkit(resolver=resolver):
        sock = AsyncTcpSocket()
        await interrupt(await begin(sock.connect_to(("name.example", 1))), sock)


async def test_a_connect_that_follows_a_cancellation_can_be_aborted(deaf):
    """As in the cleaning up of a task: the abort is not taken for the cancellation before."""
    sock = AsyncTcpSocket()

    async def connect_while_cancelled():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(SocketClosedError):
                await sock.connect_to(deaf)
            raise

    task = await begin(connect_while_cancelled())
    task.cancel()
    await give_turns()
    sock.abort()
    await asyncio.wait([task])
    assert task.cancelled()
