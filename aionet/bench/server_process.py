"""The server that `aionet bench` measures: a `ConnectionSpawner` with one handler, in a process of its own.

Theory of operation
-------------------
Run as ``python -m aionet.bench.server_process``. It binds 127.0.0.1 with port 0, prints one line of JSON
(``port``, ``pid``, ``engine``, ``loop``, ``malloc``) and serves until its standard input ends, so that it
cannot outlive the process that started it, however that one ends.

`echoing` serves nearly all workloads: `accept` sends one byte, waits for it and resets the connection, which
the handler meets as a `ConnectionLostError` and the spawner takes as a disconnect. `bulk` sends without end.

glibc's malloc is settled first, as it is for the other servers that aionet is compared with
(`settle_malloc`); the line says whether it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, ConnectionSpawner, implementation
from aionet.running import LOOPS, loop_factory

from .payloads import stream_chunk

__all__ = ["bulk", "echoing", "main", "settle_malloc"]

_BACKLOG = 4096
_READ_BYTES = 65536
_COLD_MALLOC = "AIONET_BENCH_COLD_MALLOC"


def echoing(read_bytes: int) -> Callable[[AsyncTcpSocket], Coroutine[Any, Any, None]]:
    """Return a handler that sends back what comes, until the other side leaves."""

    async def echo(socket: AsyncTcpSocket) -> None:
        while data := await socket.read(read_bytes):
            await socket.write(data)

    return echo


async def bulk(socket: AsyncTcpSocket) -> None:
    """Send without end, until the other side leaves."""
    chunk = stream_chunk()
    while True:
        await socket.write(chunk)


def settle_malloc() -> str:
    """Bring glibc's malloc to the state that a process reaches once it freed one large block.

    asyncio's transports read into objects of 256 KiB. Until then malloc maps, remaps and unmaps memory for
    each of them, which halves those servers; whether a process gets out of that state by itself is luck.
    Returns what a record calls the state: ``settled``, or ``cold`` where it is to be left alone.
    """
    if os.environ.get(_COLD_MALLOC):
        return "cold"
    bytes(1 << 20)
    return "settled"


async def _serve(options: argparse.Namespace, malloc: str) -> None:
    stopped = asyncio.Event()
    _when_standard_input_ends(asyncio.get_running_loop(), stopped.set)
    async with AsyncTcpConnectionServer(("127.0.0.1", 0), backlog=_BACKLOG, **_tls(options)) as server:
        spawner = ConnectionSpawner(bulk if options.serve == "bulk" else echoing(options.read_bytes))
        serving = asyncio.create_task(spawner.serve(server))
        stopping = asyncio.create_task(stopped.wait())
        ready = {
            "port": server.address.port,
            "pid": os.getpid(),
            "engine": implementation(),
            "loop": options.loop,
            "malloc": malloc,
        }
        print(json.dumps(ready), flush=True)
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()  # raises why it ended
        serving.cancel()
        await asyncio.wait({serving})


def _tls(options: argparse.Namespace) -> dict[str, Any]:
    if options.certificate is None:
        return {}
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.certificate, options.key)
    return {"tls": context}


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
    parser.add_argument("--serve", choices=("echo", "bulk"), default="echo")
    parser.add_argument("--loop", choices=LOOPS, default="aionet")
    parser.add_argument(
        "--read-bytes", type=int, default=_READ_BYTES, metavar="BYTES", help="how much a read asks for"
    )
    parser.add_argument("--certificate", metavar="PEM", help="serve TLS with this certificate")
    parser.add_argument("--key", metavar="PEM", help="of the certificate")
    options = parser.parse_args(arguments)
    malloc = settle_malloc()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(_serve(options, malloc))
    return 0


if __name__ == "__main__":
    sys.exit(main())
