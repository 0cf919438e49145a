"""Servers that are not ours, for loads to be tried on: threads that answer rightly or wrongly."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Reply = Callable[[socket.socket, bytes], None]


@contextmanager
def threaded_server(
    reply: Reply, *, greeting: Callable[[socket.socket], None] | None = None
) -> Iterator[int]:
    """A server of plain threads that hands every piece it receives to ``reply``; its port."""
    threads: list[threading.Thread] = []

    def serve_one(connection: socket.socket) -> None:
        with connection:
            try:
                if greeting is not None:
                    greeting(connection)
                while data := connection.recv(65536):
                    reply(connection, data)
            except OSError:
                pass

    def accept_all() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve_one, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept_all)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


def send_all(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)


def flip_the_last_byte(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data[:-1] + bytes([data[-1] ^ 1]))


def send_too_much(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data + b"!")


def leave(connection: socket.socket, data: bytes) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def say_nothing(connection: socket.socket, data: bytes) -> None:
    pass
