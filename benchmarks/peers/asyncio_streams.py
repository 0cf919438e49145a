"""https://docs.python.org/3/library/asyncio-stream.html#tcp-echo-server-using-streams"""

import asyncio
import contextlib

from common import BACKLOG, CHUNK, READ_BYTES, announce, bulk, tls


async def handle_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def handle_bulk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(CHUNK)
            await writer.drain()
    writer.close()


async def main() -> None:
    handle = handle_bulk if bulk() else handle_echo
    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=BACKLOG, ssl=tls())
    announce(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
