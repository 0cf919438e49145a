"""The server that `aionet bench` measures: a `ConnectionSpawner` with an echo handler, in a process of its
own.

Theory of operation
-------------------
Run as ``python -m aionet.bench.server_process``. It binds 127.0.0.1 with port 0, pins itself to one cpu where
the system can, prints one line of JSON (``port``, ``pid``, ``engine``, ``loop``, ``pinned``) and serves until
its standard input ends, so that it cannot outlive whoever started it, however that one died.

Both workloads have the same handler: `accept` sends one byte, waits for it and resets the connection, which
the handler meets as a `ConnectionLostError` and the spawner takes as a disconnect.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, ConnectionSpawner, implementation
from aionet.running import LOOPS, loop_factory

from .arguments import whole_number
from .facts import pin_to

__all__ = ["echo", "main"]


_BACKLOG = 4096
_READ_BYTES = 65536


async def echo(socket: AsyncTcpSocket) -> None:
    """Send back what comes, until the other side leaves."""
    while data := await socket.read(_READ_BYTES):
        await socket.write(data)


async def _serve(options: argparse.Namespace, *, pinned: bool) -> None:
    stopped = asyncio.Event()
    _when_standard_input_ends(asyncio.get_running_loop(), stopped.set)
    async with AsyncTcpConnectionServer(("127.0.0.1", 0), backlog=_BACKLOG) as server:
        spawner = ConnectionSpawner(echo)
        serving = asyncio.create_task(spawner.serve(server))
        stopping = asyncio.create_task(stopped.wait())
        ready = {
            "port": server.address.port,
            "pid": os.getpid(),
            "engine": implementation(),
            "loop": options.loop,
            "workload": options.workload,
            "pinned": pinned,
        }
        print(json.dumps(ready), flush=True)
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()  # raises why it ended
        serving.cancel()
        await asyncio.wait({serving})


def _when_standard_input_ends(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """A thread, because standard input may be a pipe, a terminal or a file, and epoll refuses files."""

    def wait() -> None:
        try:
            while os.read(sys.stdin.fileno(), 4096):
                pass
        except OSError:
            pass
        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:
            pass  # the loop is closed: the server has ended already

    threading.Thread(target=wait, name="standard input", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m aionet.bench.server_process")
    parser.add_argument("--workload", choices=["accept", "echo"], required=True)
    parser.add_argument("--loop", choices=LOOPS, default="aionet")
    parser.add_argument("--cpu", type=whole_number(0, 4095), help="the cpu to stay on")
    options = parser.parse_args(arguments)
    pinned = pin_to(options.cpu)
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(_serve(options, pinned=pinned))
    return 0


if __name__ == "__main__":
    sys.exit(main())
