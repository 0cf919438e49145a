"""The stage on which a task of either kind plays.

Theory of operation
-------------------
An `asyncio.Task` is *driven* on the compiled engine: when one of our sockets is ready the reactor resumes the
coroutine itself, without a step of the Task. No difference may be seen. A task of a subclass is *plain*: it
makes its steps itself. So every test here runs with plain tasks and with driven ones, and asserts nothing but
what plain ones do.

What can go wrong depends on who runs the coroutine at the moment (the Task, or the reactor, for the first
time or once more) and on what it waits for next. So every test with a `Stage` runs once for each *past*,
which is what the task has done before the part that the test is about, and many of them with every `Wait`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

from helpers import give_turns, until
from peers import RawPeer

import aionet

__all__ = ["KINDS", "PASTS", "WAITS", "Kind", "Line", "Stage", "Wait", "connected", "eager_tasks"]

eager_tasks = sys.version_info >= (3, 12)
"""Whether this Python has them."""


class Kind:
    """Makes tasks of one kind: ``kind(coroutine, name=..., context=...)``."""

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name = name
        self._make = make

    def __call__(self, coroutine: Any, *, loop: Any = None, **arguments: Any) -> asyncio.Task[Any]:
        return self.factory(loop or asyncio.get_running_loop(), coroutine, **arguments)

    def factory(self, loop: Any, coroutine: Any, **arguments: Any) -> asyncio.Task[Any]:
        """Make a task, as task factories are called."""
        task: asyncio.Task[Any] = self._make(loop, coroutine, **arguments)
        return task

    def make_all(self, loop: Any) -> None:
        """From now on whatever makes a task on `loop` makes one of this kind, eagerly if it did so before."""
        factory: Any = self.factory
        if eager_tasks and loop.get_task_factory() is not None:
            factory = asyncio.create_eager_task_factory(self._constructor)
        loop.set_task_factory(factory)

    def _constructor(self, coroutine: Any, *, loop: Any, **arguments: Any) -> asyncio.Task[Any]:
        return self.factory(loop, coroutine, **arguments)


class Task(asyncio.Task[Any]):
    """Makes its steps itself."""


KINDS = {
    "plain": Kind("plain", lambda loop, coroutine, **kw: Task(coroutine, loop=loop, **kw)),
    "driven": Kind("driven", lambda loop, coroutine, **kw: asyncio.Task(coroutine, loop=loop, **kw)),
}


class Line(NamedTuple):
    """A socket of ours, and a peer at the other end that knows nothing of aionet."""

    sock: Any
    peer: RawPeer


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Line]:
    """Yield a `Line`."""
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        peer = RawPeer(socket.create_connection(server.address.sockaddr()))  # the backlog answers
        sock = await server.accept()
    try:
        yield Line(sock, peer)
    finally:
        sock.abort()
        peer.stop()


PASTS = {
    "new": (),
    "read": ("read",),
    "yield-read-read": ("yield", "read", "read"),
    "read-yield": ("read", "yield"),
    "read-future": ("read", "future"),
}


class Stage:
    """A line, and a task that begins with `prologue`."""

    def __init__(self, make_task: Kind, line: Line, past: tuple[str, ...]) -> None:
        self.make_task = make_task
        self.sock, self.peer = line
        self._past = past
        self._reads = 0

    async def prologue(self) -> None:
        """For the task to await first of all: its past."""
        for step in self._past:
            if step == "read":
                assert await self.sock.read() == b"past"
                self._reads += 1
            elif step == "yield":
                await asyncio.sleep(0)
            else:
                loop = asyncio.get_running_loop()
                future = loop.create_future()
                loop.call_soon(future.set_result, None)
                await future

    async def begin(self, coroutine: Coroutine[Any, Any, Any], **arguments: Any) -> asyncio.Task[Any]:
        """Return a task for `coroutine` that has its past behind it and has run until it waits."""
        loop = asyncio.get_running_loop()
        if loop.get_task_factory() is None or loop.get_task_factory() in _EAGER:
            self.make_task.make_all(loop)
        task = self.make_task(coroutine, **arguments)
        await give_turns()
        for number in range(1, self._past.count("read") + 1):
            self.peer.send_now(b"past")
            await until(lambda number=number: self._reads >= number or task.done())
            await give_turns()
        return task

    async def run(self, coroutine: Coroutine[Any, Any, Any], **arguments: Any) -> Any:
        """Return what a task for `coroutine` returns."""
        return await (await self.begin(coroutine, **arguments))


_EAGER = [asyncio.eager_task_factory] if eager_tasks else []


class Wait:
    """Something to wait for, on a stage: ``await wait()``, which returns b"end" after `end()`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.awaited: Any = None
        """The future or task that is awaited, if it is one."""

    async def __call__(self) -> bytes:
        raise NotImplementedError

    def end(self) -> None:
        """Bring about what is waited for."""
        self.stage.peer.send_now(b"end")


class _ForSocket(Wait):
    async def __call__(self) -> bytes:
        data: bytes = await self.stage.sock.read()
        return data


class _ForLine(Wait):
    async def __call__(self) -> bytes:
        line: bytes = await self.stage.sock.read_line()
        return line.rstrip(b"\n")

    def end(self) -> None:
        self.stage.peer.send_now(b"end\n")


class _ForFuture(Wait):
    async def __call__(self) -> bytes:
        self.awaited = asyncio.get_running_loop().create_future()
        result: bytes = await self.awaited
        return result

    def end(self) -> None:
        self.awaited.set_result(b"end")


class _ForReadingTask(Wait):
    async def __call__(self) -> bytes:
        self.awaited = asyncio.create_task(self.stage.sock.read())
        result: bytes = await self.awaited
        return result


WAITS: dict[str, type[Wait]] = {
    "socket": _ForSocket,
    "line": _ForLine,
    "future": _ForFuture,
    "task": _ForReadingTask,
}
