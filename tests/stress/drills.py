"""The drills of the chaos: what has a plan, and happens among all the rest.

Theory of operation
-------------------
A drill has a server of its own, and raw clients in the loop's own thread, so that the kernel has what they
sent at once. In `PileUp` many sockets become ready in one turn and the first task that wakes takes the others
away; in `AcceptRace` tasks are cancelled in the very turn in which what they wait for arrives; in `Urgent`
the kernel stops at urgent data in the middle of a stream; in `Unreferenced` only the engine refers to a
socket and the task that uses it, while the collector runs.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import socket
from contextlib import ExitStack
from typing import Any

from helpers import give_turns, until

import aionet

from .chaos import RESET_ON_CLOSE, Work, World, reap

__all__ = ["DRILLS"]

_PATIENCE = 10.0  # seconds


class Drill:
    """A server of its own, and raw clients in this very thread: the kernel has what they sent at once."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._clean_up = ExitStack()
        self._server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        self._clean_up.callback(self._server.close)

    async def run(self) -> None:
        """Do it, and leave nothing."""
        with self._clean_up:
            await self._drill()

    async def _drill(self) -> None:
        raise NotImplementedError

    def _connect(self) -> socket.socket:
        return self._clean_up.enter_context(socket.create_connection(self._server.address.sockaddr()))

    async def _accept(self) -> Any:
        sock = await self._server.accept()
        self._clean_up.callback(sock.abort)
        return sock

    def _begin(self, operation: str, work: Work) -> asyncio.Task[str]:
        return asyncio.create_task(self._world.judged(operation, work))


class PileUp(Drill):
    """Many sockets become ready in one turn of the loop; the first task that wakes takes the others' away.

    In the same step it accepts new connections, which get the descriptors of those that it closed: word that
    was meant for the old ones must not reach them. Those whose read was cancelled read again.
    """

    async def _drill(self) -> None:
        size = self._rng.randrange(2, 20)
        peers = [self._connect() for _ in range(size)]
        self._socks = [await self._accept() for _ in range(size)]
        self._sent = [self._rng.choice((b"early", b"early", b"", None)) for _ in range(size)]
        self._began = False
        reads = [functools.partial(self._read, number) for number in range(size)]
        self._tasks = [self._begin("read", read) for read in reads]
        late = [self._connect() for _ in range(size)]
        try:
            await give_turns()
            for peer, data in zip(peers, self._sent, strict=True):
                _poke(peer, data)
            for peer in late:
                peer.send(b"late")
            async with asyncio.timeout(_PATIENCE):
                await asyncio.wait(self._tasks)
                for sock, task, read in zip(self._socks, self._tasks, reads, strict=True):
                    if task.cancelled() and not sock.closed:
                        await self._world.judged("read", read)
        finally:
            await reap(self._tasks)

    async def _read(self, number: int) -> None:
        data = await self._socks[number].read()
        assert data == self._sent[number], f"read {data!r}, not {self._sent[number]!r}"
        if not self._began:
            self._began = True
            self._do_harm(number)
            for _ in range(self._rng.randrange(len(self._socks))):
                sock = await self._accept()
                assert await sock.read() == b"late"
                self._world.count("late")

    def _do_harm(self, number: int) -> None:
        for victim, (sock, task) in enumerate(zip(self._socks, self._tasks, strict=True)):
            way = self._rng.choice(("abort", "abort", "cancel", "both", "spare"))
            if victim == number or way == "spare":
                continue
            if way != "cancel":
                sock.abort()
            if way != "abort":
                task.cancel()


def _poke(peer: socket.socket, data: bytes | None) -> None:
    """Send `data`; end the stream if there is none, reset the connection if it is ``None``."""
    if data:
        peer.send(data)
    elif data is not None:
        peer.shutdown(socket.SHUT_WR)
    else:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        peer.close()


class AcceptRace(Drill):
    """Accepts are cancelled as connections arrive: every connection is accepted all the same, by others."""

    async def _drill(self) -> None:
        self._accepted: list[Any] = []
        size = self._rng.randrange(1, 10)
        tasks = [self._begin("accept", self._take) for _ in range(self._rng.randrange(1, 10))]
        try:
            await give_turns(2)
            for number in range(size):
                self._connect().send(bytes([number]))
            await give_turns(self._rng.randrange(4))
            for task in tasks:
                if self._rng.random() < 0.6:
                    task.cancel()
            tasks += [self._begin("accept", self._take) for _ in range(size)]
            await until(lambda: len(self._accepted) == size)
        finally:
            await reap(tasks)
        assert {(await sock.read(1))[0] for sock in self._accepted} == set(range(size))

    async def _take(self) -> None:
        self._accepted.append(await self._accept())


class Urgent(Drill):
    """Urgent data in a stream, which is left out of it: what comes before and after is read to the end.

    There is one byte of it: where a second one comes before the first was taken, that becomes a part of the
    stream (tcp(7)).
    """

    async def _drill(self) -> None:
        peer = self._connect()
        sock = await self._accept()
        before, after = (self._rng.randbytes(self._rng.randrange(200)) for _ in range(2))
        got = b""
        for data, flags in ((before, 0), (b"!", socket.MSG_OOB), (after, 0), (b"last", 0)):
            peer.send(data, flags)
            await give_turns(self._rng.randrange(3))
            if len(got) < len(before) and self._rng.random() < 0.5:
                got += await sock.read(self._rng.choice((1, 50, 65536)))
        async with asyncio.timeout(_PATIENCE):
            while len(got) < len(before + after) + 4:
                got += await sock.read(self._rng.choice((1, 50, 65536)))
        assert got == before + after + b"last"
        self._world.count("urgent")


class Unreferenced(Drill):
    """A task and its socket that only the engine refers to, while they wait: they do all of their work."""

    async def _drill(self) -> None:
        loop = asyncio.get_running_loop()
        peer = self._connect()
        peer.setblocking(False)
        data = self._rng.randbytes(self._rng.choice((10, 500_000)))
        loop.create_task(_send_back(await self._server.accept(), len(data)))  # noqa: RUF006 - which is the point
        sending = asyncio.create_task(loop.sock_sendall(peer, data))
        got = bytearray()
        try:
            async with asyncio.timeout(_PATIENCE):
                while len(got) < len(data):
                    if self._rng.random() < 0.1:
                        gc.collect()
                    got += await loop.sock_recv(peer, 65536)
                assert await loop.sock_recv(peer, 1) == b""
        finally:
            await reap([sending])
        assert got == data
        self._world.count("unreferenced")


async def _send_back(sock: Any, count: int) -> None:
    async with sock:
        await sock.write(await sock.read_exactly(count))


DRILLS = {
    "pile-up": PileUp,
    "accept race": AcceptRace,
    "urgent data": Urgent,
    "unreferenced tasks": Unreferenced,
}
