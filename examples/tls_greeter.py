"""A server with TLS whose certificate is exchanged while it runs.

    $ openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \\
        -keyout key.pem -out cert.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost
    $ python examples/tls_greeter.py cert.pem key.pem
    listening on 127.0.0.1:3000

    $ echo Ada | aionet connect 127.0.0.1:3000 --tls --ca cert.pem --server-hostname localhost
    hello Ada, in TLSv1.3

Replace the two files, and whoever connects a moment later sees the new ones; SIGHUP does it at once.
Files that do not fit together are not used: the log says why, and those in use stay.
"""

import asyncio
import logging
import sys

from aionet import AsyncTcpSocket, ConnectionLimits, ServerTls, serve

LIMITS = ConnectionLimits(max_handshakes=1000, handshake_timeout=5, idle_timeout=60)


async def greet(socket: AsyncTcpSocket) -> None:
    """Answer each line by a greeting."""
    assert socket.tls is not None
    while name := await socket.read_line():
        await socket.write(b"hello %s, in %s\n" % (name.strip(), socket.tls.version.encode()))


async def main(certificate: str, key: str, port: int) -> None:
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
    await serve(greet, ("127.0.0.1", port), tls=ServerTls(certificate, key), limits=LIMITS)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3000))
