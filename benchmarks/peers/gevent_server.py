"""https://www.gevent.org/examples/echoserver.html"""

from gevent import monkey

monkey.patch_all(thread=False)  # common.py waits for the end of standard input in a thread of its own

import contextlib
import socket

from common import BACKLOG, CHUNK, READ_BYTES, announce, bulk, tls
from gevent.server import StreamServer


def echo(client: socket.socket, address: object) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(READ_BYTES):
            client.sendall(data)


def stream(client: socket.socket, address: object) -> None:
    with contextlib.suppress(OSError):
        while True:
            client.sendall(CHUNK)


if __name__ == "__main__":
    context = tls()
    options = {"ssl_context": context} if context else {}
    server = StreamServer(("127.0.0.1", 0), stream if bulk() else echo, backlog=BACKLOG, **options)
    server.start()
    announce(server.server_port)
    server.serve_forever()
