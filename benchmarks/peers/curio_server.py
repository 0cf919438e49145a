"""https://curio.readthedocs.io/en/latest/tutorial.html#an-echo-server"""

import contextlib

import curio
from common import BACKLOG, CHUNK, READ_BYTES, announce, bulk, tls


async def echo_client(client: curio.io.Socket, address: object) -> None:
    with contextlib.suppress(OSError):
        while data := await client.recv(READ_BYTES):
            await client.sendall(data)


async def bulk_client(client: curio.io.Socket, address: object) -> None:
    with contextlib.suppress(OSError):
        while True:
            await client.sendall(CHUNK)


async def main() -> None:
    listener = curio.tcp_server_socket("127.0.0.1", 0, backlog=BACKLOG)
    announce(listener.getsockname()[1])
    client = bulk_client if bulk() else echo_client
    await curio.network.run_server(listener, client, ssl=tls())


if __name__ == "__main__":
    curio.run(main)
