"""One conversation on a quiet loop: the reactor guesses who is meant, and nobody else may suffer for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator

import pytest
from helpers import give_turns, until
from peers import RawPeer

import aionet

from .support import MakeTask, lines

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop", "own"])


class Talker:
    """A thread that asks and waits for the answer, without pause."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._over = False
        self.rounds = 0
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        while not self._over:
            question = b"%9d" % self.rounds
            self._raw.sendall(question)
            assert self._raw.recv(100) == question
            self.rounds += 1

    def stop(self) -> None:
        self._over = True
        self._thread.join()
        self._raw.close()


async def echo(sock: aionet.AsyncTcpSocket) -> None:
    async for data in sock:
        await sock.write(data)


@contextlib.asynccontextmanager
async def serving(make_task: MakeTask) -> AsyncIterator[aionet.AsyncTcpConnectionServer]:
    """An echo server with a spawner."""
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        spawner = aionet.ConnectionSpawner(echo)
        task = make_task(spawner.serve(server))
        yield server
        await spawner.drain(1)
        await task


def asks(address: aionet.SocketAddress, question: bytes) -> bytes:
    with socket.create_connection((address.host, address.port), timeout=5) as raw:
        raw.sendall(question)
        return raw.recv(100)


async def test_newcomers_are_served_while_one_talks(make_task):
    async with serving(make_task) as server:
        address = server.address
        talker = Talker(socket.create_connection((address.host, address.port)))
        await until(lambda: talker.rounds > 100)
        for number in range(20):
            assert await asyncio.to_thread(asks, address, b"hello %d" % number) == b"hello %d" % number
        rounds = talker.rounds
        await until(lambda: talker.rounds > rounds + 100)
        await asyncio.to_thread(talker.stop)


async def test_a_stream_of_asyncios_goes_on_while_one_talks(make_task):
    async with serving(make_task) as server:
        address = server.address
        talker = Talker(socket.create_connection((address.host, address.port)))
        await until(lambda: talker.rounds > 100)
        theirs, ours = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        for _ in range(50):
            await asyncio.to_thread(theirs.send, b"word\n")
            assert await asyncio.wait_for(reader.readline(), 30) == b"word\n"
        writer.close()
        await writer.wait_closed()
        theirs.close()
        await asyncio.to_thread(talker.stop)


async def talk(peer: RawPeer, rounds: int) -> None:
    for number in range(rounds):
        question = b"%d" % number
        peer.send_now(question)
        assert await peer.receive_exactly(len(question)) == question


async def test_two_by_turns(make_task):
    """Each word is of the other line than the last one, so that every guess would be wrong."""
    async with lines(2) as both:
        tasks = [make_task(echo(line.sock)) for line in both]
        for _ in range(50):
            for line in both:
                await talk(line.peer, 1)
        await ended(tasks)


async def test_one_of_whom_only_one_talks(make_task):
    async with lines(3) as (silent, talker, late):
        tasks = [make_task(echo(line.sock)) for line in (silent, talker)]
        await talk(talker.peer, 50)
        tasks.append(make_task(echo(late.sock)))
        await talk(late.peer, 1)
        await talk(talker.peer, 5)
        await ended(tasks)


@pytest.mark.parametrize("words", [b"", b"bye"])
async def test_the_end_comes_with_the_last_words(make_task, words):
    async with lines(1) as (line,):
        task = make_task(echo(line.sock))
        await talk(line.peer, 50)
        if words:
            line.peer.send_now(words)
        line.peer.half_close()
        assert await line.peer.receive_exactly(len(words)) == words
        await asyncio.wait_for(task, 30)


async def test_a_reset_in_the_middle_of_it(make_task):
    async with lines(1) as (line,):
        task = make_task(echo(line.sock))
        await talk(line.peer, 50)
        line.peer.reset()
        with pytest.raises(aionet.ConnectionLostError):
            await asyncio.wait_for(task, 30)


async def test_a_pause_in_which_nobody_reads(make_task):
    """What comes meanwhile is there afterwards, and nothing spins."""
    async with lines(1) as (line,):
        task = make_task(echo(line.sock))
        await talk(line.peer, 50)
        await ended([task])
        line.peer.send_now(b"anybody there?")
        await give_turns()
        assert await make_task(line.sock.read()) == b"anybody there?"
        task = make_task(echo(line.sock))
        await talk(line.peer, 20)
        await ended([task])


async def test_closed_by_another_task_in_the_middle_of_it(make_task):
    async with lines(2) as (line, other):
        task = make_task(echo(line.sock))
        await talk(line.peer, 50)
        line.sock.abort()
        with pytest.raises(aionet.SocketClosedError):
            await asyncio.wait_for(task, 30)
        task = make_task(echo(other.sock))
        await talk(other.peer, 50)
        await ended([task])


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
