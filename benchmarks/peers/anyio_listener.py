"""https://anyio.readthedocs.io/en/stable/networking.html#working-with-tcp-sockets"""

import contextlib

import anyio
from anyio.streams.tls import TLSListener
from common import BACKLOG, CHUNK, announce, bulk, tls


async def handle_echo(client: anyio.abc.ByteStream) -> None:
    async with client:
        with contextlib.suppress(anyio.BrokenResourceError):
            async for data in client:
                await client.send(data)


async def handle_bulk(client: anyio.abc.ByteStream) -> None:
    async with client:
        with contextlib.suppress(anyio.BrokenResourceError):
            while True:
                await client.send(CHUNK)


async def main() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0, backlog=BACKLOG)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if context := tls():
        listener = TLSListener(listener, context, standard_compatible=False)
    announce(port)
    await listener.serve(handle_bulk if bulk() else handle_echo)


if __name__ == "__main__":
    anyio.run(main)
