"""What a spawner is compared with: an accept loop, and a task of the same kind for each connection."""

import asyncio
import contextlib

from common import BACKLOG, CHUNK, announce, bulk

import aionet


async def serve(socket: aionet.AsyncTcpSocket) -> None:
    async with socket:
        with contextlib.suppress(aionet.ConnectionLostError):
            while bulk():
                await socket.write(CHUNK)
            async for chunk in socket:
                await socket.write(chunk)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), backlog=BACKLOG)
    announce(server.address.port, engine=aionet.implementation(), loop="asyncio")
    tasks: set[asyncio.Task[None]] = set()
    async for socket in server:
        task = loop.create_task(serve(socket))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main())
