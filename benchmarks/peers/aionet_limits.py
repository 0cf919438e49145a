"""A spawner with everything on: deadlines, a cap, counted traffic, and a reason for every end."""

import asyncio

from common import BACKLOG, CHUNK, announce, bulk

import aionet


async def echo(socket: aionet.AsyncTcpSocket) -> None:
    async for chunk in socket:
        await socket.write(chunk)


async def stream(socket: aionet.AsyncTcpSocket) -> None:
    while True:
        await socket.write(CHUNK)


async def main() -> None:
    limits = aionet.ConnectionLimits(
        max_connections=100_000,
        max_pending_bytes=1 << 30,
        idle_timeout=60,
        read_stall_timeout=120,
        write_stall_timeout=60,
        handler_timeout=3600,
    )
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), backlog=BACKLOG)
    announce(server.address.port, engine=aionet.implementation(), loop="asyncio")
    handler = stream if bulk() else echo
    spawner = aionet.ConnectionSpawner(handler, limits=limits, on_close=lambda connection, reason: None)
    spawner.count_traffic()
    await spawner.serve(server)


if __name__ == "__main__":
    asyncio.run(main())
