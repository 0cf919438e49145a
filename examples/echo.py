"""An echo server: every client gets back what it sends, each in a task of its own.

    $ python examples/echo.py
    listening on 127.0.0.1:3000

    $ nc 127.0.0.1 3000
    hello
    hello

Ctrl-C lets those who are connected finish for five seconds, and tells how that went; a second one ends them.
"""

import asyncio
import sys

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, serve


async def echo(socket: AsyncTcpSocket) -> None:
    async for data in socket:
        await socket.write(data)


async def main(port: int) -> None:
    server = AsyncTcpConnectionServer(("127.0.0.1", port))
    print(f"listening on {server.address}", flush=True)
    report = await serve(echo, server, drain_grace=5)
    print(f"\ndrained: {report}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
