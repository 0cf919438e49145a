"""A server whose handlers fork, for `test_forking_servers`: ``python forking_server.py LOOP REACTOR DIR``.

It echoes. ``fork KIND`` makes a child, which does what `child_of` says; the parent answers once the child has
ended, or at once if that one stays. Other words are explained in `handler`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
from pathlib import Path
from typing import Any

import aionet
from aionet.wires import event_loop
from aionet.wires.reactor import CallbackReactor

BIG = bytes(4 << 20)
DIRECTORY = Path(sys.argv[3])
ENDED = DIRECTORY / "ended"


def end_when_told(loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop of the parent run in the child, too, until the parent says that it may end."""
    if ENDED.exists():
        os._exit(0)
    loop.call_later(0.001, end_when_told, loop)


async def use_all(sockets: list[Any]) -> None:
    for sock in sockets:
        for operation in (lambda sock=sock: sock.write(b"from the child"), lambda sock=sock: sock.read(1)):
            try:
                await operation()
            except (aionet.SocketInheritedError, aionet.SocketClosedError):  # one may be closing
                continue
            os._exit(1)


async def child_of(kind: str, loop: asyncio.AbstractEventLoop, sockets: list[Any]) -> None:
    logging.disable()  # what tasks of the parent come to in the child
    if kind == "exits":
        sys.exit(0)
    await use_all(sockets)
    end_when_told(loop)
    await loop.create_future()


async def handler(sock: Any) -> None:
    async with sock:
        async for data in sock:
            words = data.decode()
            if words.startswith("fork "):
                kind = words.removeprefix("fork ")
                loop = asyncio.get_running_loop()  # which a child is not told
                child = os.fork()
                if child == 0:
                    await child_of(kind, loop, [connection.socket for connection in spawner.connections])
                if sys.argv[1] == "aionet" and kind == "exits":
                    await asyncio.to_thread(os.waitpid, child, 0)
                elif kind == "exits":  # asyncio's loop is not woken by threads once the child has closed it
                    os.waitpid(child, 0)
                await sock.write(b"forked")
            elif words == "big":
                await sock.write(BIG)
            elif words == "big and close":
                await sock.write(BIG)
                return
            elif words == "begin big":  # the write goes on by itself
                writing = asyncio.ensure_future(sock.write(BIG))
                while not sock.bytes_written:
                    await asyncio.sleep(0)
                writing.cancel()
                await asyncio.wait([writing])
            elif words == "end":
                ENDED.touch()
                _, status = os.wait()
                await sock.write(b"ended" if status == 0 else b"failed")
            else:
                await sock.write(data)


spawner: Any = None


async def main() -> None:
    global spawner
    spawner = aionet.ConnectionSpawner(handler)
    tcp = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    unix = aionet.AsyncUnixConnectionServer(DIRECTORY / "socket")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(DIRECTORY / "certificate")
    context.set_ecdh_curve("prime256v1")  # else there is a warning of finite-field groups
    tls = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), tls=context)
    async with aionet.NetworkToolkit(), tcp, unix, tls:
        print(tcp.address.port, tls.address.port, flush=True)
        await spawner.serve(tcp, unix, tls)


if __name__ == "__main__":
    if sys.argv[2] == "callbacks":
        event_loop.make_reactor = CallbackReactor  # type: ignore[assignment]
    with asyncio.Runner(loop_factory=aionet.running.loop_factory(sys.argv[1])) as runner:
        runner.run(main())
