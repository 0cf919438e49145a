"""https://docs.python.org/3/library/asyncio-eventloop.html#working-with-socket-objects-directly"""

import asyncio
import contextlib
import socket

from common import BACKLOG, CHUNK, READ_BYTES, announce, bulk


async def echo(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(client, READ_BYTES):
        await loop.sock_sendall(client, data)


async def stream(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_sendall(client, CHUNK)


async def serve(client: socket.socket) -> None:
    with client, contextlib.suppress(ConnectionError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await (stream if bulk() else echo)(client)


async def main() -> None:
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    announce(listener.getsockname()[1])
    tasks = set()
    while True:
        client, _ = await loop.sock_accept(listener)
        task = asyncio.create_task(serve(client))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main())
