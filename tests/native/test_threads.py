"""Several loops in several threads, and sockets that are awaited where they do not belong."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import socket
import sys
import threading

import pytest
from helpers import open_sockets
from peers import RawPeer

import aionet

from .support import LOOPS, TASKS

THREADS = 4
PATIENCE = 20


class LoopThread:
    """A loop that runs in a thread of its own."""

    def __init__(self, make_loop):
        self.loop = make_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def submit(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine):
        return self.submit(coroutine).result(PATIENCE)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture
def loop_thread(new_loop):
    with contextlib.closing(LoopThread(new_loop)) as made:
        yield made


@pytest.fixture
def line(loop_thread):
    """A socket of the loop's, and a raw peer."""

    async def accept():
        async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
            peer = RawPeer(socket.create_connection(("127.0.0.1", server.address.port)))
            return await server.accept(), peer

    async def close():
        sock.abort()

    sock, peer = loop_thread.run(accept())
    with peer:
        yield sock, peer
    loop_thread.run(close())


async def echo(sock):
    async for data in sock:
        await sock.write(data)


async def talk(connections, messages):
    spawner = aionet.ConnectionSpawner(echo)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = asyncio.create_task(spawner.serve(server))

    async def client(number):
        async with await aionet.AsyncTcpSocket().connect_to(server.address) as sock:
            for message in range(messages):
                data = b"%d/%d\n" % (number, message)
                await sock.write(data)
                assert await sock.read_line() == data
                if message % 7 == 0:
                    await asyncio.sleep(0)

    await asyncio.gather(*map(client, range(connections)))
    server.close()
    await serving
    assert spawner.stats.completed == connections


@pytest.mark.parametrize("kind", TASKS)
def test_loops_in_threads_do_not_mind_each_other(new_loop, kind):
    def work():
        loop = new_loop()
        loop.set_task_factory(lambda loop, coroutine, **kw: TASKS[kind](loop, coroutine))
        with contextlib.closing(loop):
            start.wait(PATIENCE)
            loop.run_until_complete(asyncio.wait_for(talk(10, 20), PATIENCE))
        return True

    start = threading.Barrier(THREADS)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
            assert list(threads.map(lambda _: work(), range(THREADS))) == [True] * THREADS
    finally:
        sys.setswitchinterval(interval)


def test_loops_that_come_and_go_in_threads(new_loop):
    def work():
        for _ in range(10):
            with contextlib.closing(new_loop()) as loop:
                loop.run_until_complete(talk(2, 2))

    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(work) for _ in range(THREADS)]:
            done.result(PATIENCE)


def test_a_garbage_collection_in_another_thread(loop_thread):
    """What is forgotten may be finalised by any thread."""

    async def forget():
        async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
            client = await aionet.AsyncTcpSocket().connect_to(server.address)
            accepted = await server.accept()
            await client.write(b"x")
            await accepted.read()
            reading = asyncio.create_task(accepted.read())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            cycle = [client, accepted]
            cycle.append(cycle)

    before = open_sockets()
    gc.disable()
    try:
        loop_thread.run(forget())
        with pytest.warns(ResourceWarning, match="unclosed"):
            gc.collect()
    finally:
        gc.enable()
    assert open_sockets() == before
    loop_thread.run(talk(2, 2))


def test_reading_through_run_coroutine_threadsafe(loop_thread, line):
    sock, peer = line
    for number in range(20):
        data = b"%d" % number
        reading = loop_thread.submit(sock.read())
        assert number % 2 or not reading.done()
        peer.send_now(data)
        assert reading.result(PATIENCE) == data
        assert loop_thread.submit(sock.write(data)).result(PATIENCE) == len(data)
        assert peer.sock.recv(100) == data


def test_cancelling_through_run_coroutine_threadsafe(loop_thread, line):
    sock, peer = line
    for number in range(20):
        reading = loop_thread.submit(sock.read())
        loop_thread.run(asyncio.sleep(0))
        reading.cancel()
        loop_thread.run(asyncio.sleep(0))
        data = b"%d" % number
        peer.send_now(data)
        assert loop_thread.submit(sock.read()).result(PATIENCE) == data


OPERATIONS = {
    "read": lambda sock: sock.read(),
    "read_line": lambda sock: sock.read_line(),
    "read_exactly": lambda sock: sock.read_exactly(1),
    "read_into": lambda sock: sock.read_into(bytearray(10)),
    "anext": lambda sock: sock.__anext__(),
}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("other", LOOPS)
def test_awaiting_on_the_wrong_loop_is_an_error(loop_thread, line, operation, other, kind):
    async def use():
        return await OPERATIONS[operation](sock)

    async def in_a_task():
        await TASKS[kind](asyncio.get_running_loop(), use())

    sock, peer = line
    with contextlib.closing(LOOPS[other]()) as loop:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="attached to a different loop"):
                loop.run_until_complete(asyncio.wait_for(in_a_task(), PATIENCE))
    reading = loop_thread.submit(sock.read())
    peer.send_now(b"x")
    assert reading.result(PATIENCE) == b"x"


@pytest.mark.parametrize("kind", TASKS)
def test_awaiting_on_the_wrong_loop_with_a_reader_on_the_right_one(loop_thread, line, kind):
    async def use():
        return await sock.read()

    async def in_a_task():
        await TASKS[kind](asyncio.get_running_loop(), use())

    sock, peer = line
    reading = loop_thread.submit(sock.read())
    loop_thread.run(asyncio.sleep(0))
    with contextlib.closing(aionet.new_event_loop()) as loop, pytest.raises(aionet.SocketBusyError):
        loop.run_until_complete(in_a_task())
    peer.send_now(b"x")
    assert reading.result(PATIENCE) == b"x"


@pytest.mark.parametrize("kind", TASKS)
def test_a_parked_task_that_goes_on_to_a_socket_of_another_loop(loop_thread, line, new_loop, kind):
    """It waits for a socket of its own loop first, so that the reactor resumes it."""

    async def main():
        async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
            own_peer = RawPeer(socket.create_connection(("127.0.0.1", server.address.port)))
            own = await server.accept()

        async def use():
            await own.read()
            try:
                await foreign.read()
            except RuntimeError as error:
                return str(error), await own.read()

        task = TASKS[kind](asyncio.get_running_loop(), use())
        for data in (b"1", b"2"):
            await asyncio.sleep(0.01)
            own_peer.send_now(data)
        result = await asyncio.wait_for(task, PATIENCE)
        own.abort()
        own_peer.stop()
        return result

    foreign, _ = line
    with contextlib.closing(new_loop()) as loop:
        message, data = loop.run_until_complete(main())
    assert "attached to a different loop" in message
    assert data == b"2"
