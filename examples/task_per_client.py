"""A server that answers in capital letters, with a task per client: `await` in place of blocking.

``thread_per_client.py`` is the same server with a thread per client; read them side by side. (``echo.py`` has
a server that is ready for the world: `aionet.serve` writes this loop for you, and supervises the tasks.)

    $ python examples/task_per_client.py
    listening on 127.0.0.1:3000
    127.0.0.1:49152 came
    127.0.0.1:49152 left

    $ nc 127.0.0.1 3000
    hello
    HELLO
"""

import asyncio
import contextlib
import sys

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket


async def serve_client(connection: AsyncTcpSocket) -> None:
    async with connection:
        peer = connection.peer_address
        print(f"{peer} came")
        try:
            while data := await connection.read(65536):
                await connection.write(data.upper())
            print(f"{peer} left")
        except ConnectionError as error:
            print(f"{peer} was lost: {error}")


async def main(port: int) -> None:
    async with AsyncTcpConnectionServer(("127.0.0.1", port)) as server, asyncio.TaskGroup() as clients:
        print(f"listening on {server.address}", flush=True)
        while True:
            connection = await server.accept()
            clients.create_task(serve_client(connection))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
