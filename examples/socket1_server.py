"""The classic pair, server side: accept one connection and read from it.

Run this, then ``socket1_client.py`` in another terminal:

    $ python examples/socket1_server.py
    listening on 127.0.0.1:3000
    Server accepted: 127.0.0.1:49152
    Server read: hello there
"""

import asyncio
import sys

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, SocketAddress


async def main(port: int) -> None:
    async with AsyncTcpConnectionServer(SocketAddress("127.0.0.1", port)) as server:
        print(f"listening on {server.address}", flush=True)
        async with AsyncTcpSocket() as socket:
            await server.accept(socket)
            print(f"Server accepted: {socket.peer_address}")
            data = await socket.read(100)
            print(f"Server read: {data.decode(errors='replace')}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
