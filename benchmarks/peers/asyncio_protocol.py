"""https://docs.python.org/3/library/asyncio-protocol.html#tcp-echo-server"""

import asyncio

from common import BACKLOG, CHUNK, announce, bulk, tls


class EchoServerProtocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BulkServerProtocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.resume_writing()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while not self.paused and not self.transport.is_closing():
            self.transport.write(CHUNK)


async def main() -> None:
    protocol = BulkServerProtocol if bulk() else EchoServerProtocol
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=BACKLOG, ssl=tls())
    announce(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
