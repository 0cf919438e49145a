"""https://trio.readthedocs.io/en/stable/tutorial.html#an-echo-server"""

import contextlib

import trio
from common import BACKLOG, CHUNK, announce, bulk, tls


async def echo_server(server_stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in server_stream:
            await server_stream.send_all(data)


async def bulk_server(server_stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await server_stream.send_all(CHUNK)


async def main() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
    port = listeners[0].socket.getsockname()[1]
    if context := tls():
        listeners = [trio.SSLListener(listener, context) for listener in listeners]
    announce(port)
    await trio.serve_listeners(bulk_server if bulk() else echo_server, listeners)


if __name__ == "__main__":
    trio.run(main)
