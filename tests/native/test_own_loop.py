"""`aionet.new_event_loop` is asyncio's loop in everything, however busy our sockets keep it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time

import pytest
from helpers import until

import aionet

from .ping_pong import PingPong
from .support import lines

pytestmark = pytest.mark.asyncio(loop_factories=["own", "asyncio"])


async def test_call_soon_from_a_handler(ping_pong, make_task):
    called = []

    async def handler(sock):
        await sock.read()
        asyncio.get_running_loop().call_soon(called.append, "soon")
        await sock.read()

    async with lines(1) as (line,):
        task = make_task(handler(line.sock))
        line.peer.send_now(b"x")
        await until(lambda: called)
        line.peer.send_now(b"y")
        await task


async def test_call_soon_threadsafe(ping_pong):
    loop = asyncio.get_running_loop()
    for _ in range(5):
        called = asyncio.Event()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(called.set,))
        thread.start()
        await asyncio.wait_for(called.wait(), 30)
        await asyncio.to_thread(thread.join)
    await loop.shutdown_default_executor()


async def test_readers_and_writers_of_foreign_descriptors(ping_pong, pair):
    ours, theirs = pair
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(10)))
    theirs.send(b"one")
    await until(lambda: seen == [b"one"])
    written = loop.create_future()
    loop.add_writer(ours, lambda: written.done() or written.set_result(None))
    await asyncio.wait_for(written, 30)
    assert loop.remove_writer(ours)
    theirs.send(b"two")
    await until(lambda: seen == [b"one", b"two"])
    assert loop.remove_reader(ours)
    assert not loop.remove_reader(ours)


async def test_signals(ping_pong):
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, seen.set)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(seen.wait(), 30)
    finally:
        assert loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of child watchers
async def test_subprocesses(ping_pong):
    program = "print(input()[::-1])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(b"forward\n"), 20)
    assert (process.returncode, out) == (0, b"drawrof\n")


async def test_executors_and_looking_up(ping_pong):
    loop = asyncio.get_running_loop()
    assert await asyncio.wait_for(loop.run_in_executor(None, sum, [1, 2, 3]), 30) == 6
    found = await asyncio.wait_for(loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM), 30)
    assert found[0][4] == ("127.0.0.1", 80)
    await loop.shutdown_default_executor()


async def test_streams_of_asyncio_side_by_side(ping_pong):
    async def serve(reader, writer):
        writer.write(b"echo: " + await reader.readline())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        async with await aionet.AsyncTcpSocket().connect_to(address) as ours:
            await ours.write(b"ours\n")
            assert await asyncio.wait_for(ours.read_line(), 30) == b"echo: ours\n"
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"asyncio's\n")
        assert await asyncio.wait_for(reader.readline(), 30) == b"echo: asyncio's\n"
        writer.close()
        await writer.wait_closed()


async def test_debug_mode_with_slow_handlers(ping_pong, caplog):
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 30
    await asyncio.sleep(0.02)
    rounds = ping_pong.rounds
    await until(lambda: ping_pong.rounds > rounds + 50)
    loop.set_debug(False)


async def test_stopping_while_they_play(make_task):
    """In another thread, because this loop runs already."""

    async def play(make_task):
        async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
            left = await aionet.AsyncTcpSocket().connect_to(server.address)
            right = await server.accept()
        game = PingPong(make_task, left, right)
        await game.serve()
        return game, left, right

    async def end(game, *socks):
        for task in game.tasks:
            task.cancel()
        await asyncio.wait(game.tasks)
        for sock in socks:
            sock.abort()

    def run():
        loop = type(outer)() if outer_is_plain else aionet.new_event_loop()
        with contextlib.closing(loop):
            played = loop.run_until_complete(play(make_task))
            loop.call_later(0.02, loop.stop)
            before = time.monotonic()
            loop.run_forever()
            seconds = time.monotonic() - before
            loop.run_until_complete(end(*played))
            return seconds

    outer = asyncio.get_running_loop()
    outer_is_plain = type(outer._selector).__module__ == "selectors"
    assert await asyncio.to_thread(run) >= 0.019
    await outer.shutdown_default_executor()
