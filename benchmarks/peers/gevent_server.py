"""https://www.gevent.org/examples/echoserver.html"""

import contextlib
import sys

from common import BACKLOG, CHUNK, READ_BYTES, announce, bulk
from gevent import ssl
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
    handle = stream if bulk() else echo
    options = {}
    if certificate := sys.argv[2:4]:
        options["ssl_context"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        options["ssl_context"].load_cert_chain(*certificate)
    server = StreamServer(("127.0.0.1", 0), handle, backlog=BACKLOG, **options)
    server.start()
    announce(server.server_port)
    server.serve_forever()
