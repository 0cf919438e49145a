"""The classic pair, client side: connect and write.

Run ``socket1_server.py`` in another terminal first:

    $ python examples/socket1_client.py
    Client connected: 127.0.0.1:3000
"""

import asyncio
import sys

from aionet import AsyncTcpSocket, SocketAddress


async def main(port: int) -> None:
    async with AsyncTcpSocket() as socket:
        await socket.connect_to(SocketAddress("127.0.0.1", port))
        print(f"Client connected: {socket.peer_address}")
        await socket.write(b"hello there")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
