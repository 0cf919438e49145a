"""https://www.gevent.org/examples/echoserver.html"""

import contextlib
import sys

from common import BACKLOG, CHUNK, READ_BYTES, announce, bulk
from gevent.server import StreamServer
from gevent.socket import socket


def echo(client: socket, address: object) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(READ_BYTES):
            client.sendall(data)


def stream(client: socket, address: object) -> None:
    with contextlib.suppress(OSError):
        while True:
            client.sendall(CHUNK)


if __name__ == "__main__":
    tls = dict(zip(("certfile", "keyfile"), sys.argv[2:4], strict=False))
    server = StreamServer(("127.0.0.1", 0), stream if bulk() else echo, backlog=BACKLOG, **tls)
    server.start()
    announce(server.server_port)
    server.serve_forever()
