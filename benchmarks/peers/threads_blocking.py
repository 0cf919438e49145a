"""A thread for each connection: https://docs.python.org/3/library/socketserver.html#asynchronous-mixins"""

import contextlib
import socket
import socketserver
import ssl

from common import BACKLOG, CHUNK, READ_BYTES, announce, bulk, tls


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(READ_BYTES):
                self.request.sendall(data)


class Bulk(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.request.sendall(CHUNK)


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = BACKLOG
    daemon_threads = True
    block_on_close = False
    context: ssl.SSLContext | None = None

    def process_request_thread(self, request: socket.socket, address: object) -> None:
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is not None:
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except OSError:
                self.shutdown_request(request)
                return
        super().process_request_thread(request, address)


if __name__ == "__main__":
    Server.context = tls()
    with Server(("127.0.0.1", 0), Bulk if bulk() else Echo) as server:
        announce(server.server_address[1])
        server.serve_forever()
