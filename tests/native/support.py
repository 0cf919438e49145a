"""What the tests of the compiled engine share: lines, loops, scripts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from peers import RawPeer

import aionet

__all__ = [
    "LOOPS",
    "TASKS",
    "Line",
    "LoopFactory",
    "MakeTask",
    "checkout",
    "lines",
    "make_selector",
    "run_script",
]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
MakeTask = Callable[[Any], "asyncio.Task[Any]"]

LOOPS: dict[str, LoopFactory] = {"asyncio": asyncio.SelectorEventLoop, "own": aionet.new_event_loop}
"""Loops by name: epoll beneath a reader of the loop's, and the selector of our own."""


class Task(asyncio.Task[Any]):
    """Makes its steps itself, as a subclass does."""


TASKS: dict[str, Callable[..., Any]] = {
    "plain": lambda loop, coroutine: Task(coroutine, loop=loop),
    "driven": lambda loop, coroutine: asyncio.Task(coroutine, loop=loop),
}

checkout = Path(aionet.__file__).parent.parent
"""Where the package that is tested lies."""


def make_selector() -> Any:
    """Return a selector of ours."""
    from aionet.native.selector import EpollSelector

    return EpollSelector()


class Line(NamedTuple):
    """A socket of ours, and the raw peer at its other end."""

    sock: aionet.AsyncTcpSocket
    peer: RawPeer


@contextlib.asynccontextmanager
async def lines(count: int) -> AsyncIterator[list[Line]]:
    """Yield `count` connected lines; whatever is left of them is aborted at the end."""
    made: list[Line] = []
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        try:
            for _ in range(count):
                peer = RawPeer(socket.create_connection(("127.0.0.1", server.address.port)))
                made.append(Line(await server.accept(), peer))
            yield made
        finally:
            for line in made:
                line.sock.abort()
                line.peer.stop()


_PRELUDE = """\
import asyncio, gc, os, socket, sys, threading, time, warnings
import aionet

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "own": aionet.new_event_loop}
new_loop = LOOPS[sys.argv[1]]
assert aionet.implementation() == os.environ.get("AIONET_ENGINE", "native")
"""


def run_script(
    source: str, loop_name: str = "own", *options: str, engine: str = "native", before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `source`, which finds `new_loop` and the usual modules, in an interpreter with `options`.

    `before` is run before aionet is imported.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout), "AIONET_ENGINE": engine}
    environment.pop("PYTHONWARNINGS", None)
    program = textwrap.dedent(before) + _PRELUDE + textwrap.dedent(source)
    return subprocess.run(
        [sys.executable, *options, "-c", program, loop_name],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
        check=False,
    )
