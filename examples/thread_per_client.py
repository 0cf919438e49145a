"""A server that answers in capital letters, with a thread per client: blocking sockets, as ever.

``task_per_client.py`` is the same server with a task per client; read them side by side.

    $ python examples/thread_per_client.py
    listening on 127.0.0.1:3000
    127.0.0.1:49152 came
    127.0.0.1:49152 left

    $ nc 127.0.0.1 3000
    hello
    HELLO
"""

import contextlib
import socket
import sys
import threading


def serve_client(connection: socket.socket, address: tuple[str, int]) -> None:
    with connection:
        peer = "{}:{}".format(*address)
        print(f"{peer} came")
        try:
            while data := connection.recv(65536):
                connection.sendall(data.upper())
            print(f"{peer} left")
        except ConnectionError as error:
            print(f"{peer} was lost: {error}")


def main(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:
        print("listening on {}:{}".format(*server.getsockname()), flush=True)
        while True:
            connection, address = server.accept()
            threading.Thread(target=serve_client, args=(connection, address), daemon=True).start()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
