"""Sockets that keep a loop busy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aionet

from .support import MakeTask

__all__ = ["PingPong", "playing"]


class PingPong:
    """Two of our own sockets that play without pause: the loop may have no reason to leave its selector."""

    def __init__(
        self, make_task: MakeTask, left: aionet.AsyncTcpSocket, right: aionet.AsyncTcpSocket
    ) -> None:
        self.rounds = 0
        self.over = False
        self.tasks = [make_task(self.play(left)), make_task(self.play(right))]
        self.left = left

    async def play(self, sock: aionet.AsyncTcpSocket) -> None:
        while not self.over:
            await sock.write(await sock.read())
            self.rounds += 1

    async def serve(self) -> None:
        """Bring the ball into play."""
        await self.left.write(b"ball")


@contextlib.asynccontextmanager
async def playing(make_task: MakeTask) -> AsyncIterator[PingPong]:
    """Yield a game that goes on until the end."""
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        left = await aionet.AsyncTcpSocket().connect_to(server.address)
        right = await server.accept()
    game = PingPong(make_task, left, right)
    await game.serve()
    yield game
    assert not any(task.done() for task in game.tasks)
    game.over = True
    await asyncio.wait(game.tasks, return_when=asyncio.FIRST_COMPLETED)
    for sock in (left, right):
        sock.abort()
    await asyncio.gather(*game.tasks, return_exceptions=True)
