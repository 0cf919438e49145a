"""An HTTP/1.1 server: the h11 library speaks the protocol, a socket carries the bytes.

    $ pip install h11
    $ python examples/http_hello.py
    listening on 127.0.0.1:3000

    $ curl -v http://127.0.0.1:3000/ http://127.0.0.1:3000/again

Connections are kept alive. A client has `PATIENCE` seconds for every request, to the last
byte of the reply, idling before it included; its headers may have `LONGEST_HEAD` bytes.
"""

import asyncio
import sys
from email.utils import formatdate
from http import HTTPStatus

import h11

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, ConnectionLimits, serve

PATIENCE = 10.0  # seconds
LONGEST_HEAD = 16 * 1024  # bytes
LIMITS = ConnectionLimits(max_connections=1000)
HELLO = b"Hello from aionet\n"


async def serve_http(socket: AsyncTcpSocket) -> None:
    """Answer the requests of one client, one after the other."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
    try:
        while http.our_state is h11.IDLE:
            async with asyncio.timeout(PATIENCE):
                await answer_one(http, socket)
    except TimeoutError:
        pass  # hang up


async def answer_one(http: h11.Connection, socket: AsyncTcpSocket) -> None:
    """Read a request and answer it; do nothing if the client has no more."""
    try:
        request = await read_request(http, socket)
    except h11.RemoteProtocolError as error:
        await reply(http, socket, error.error_status_hint)
        return
    if request is None:
        return
    if request.method == b"GET":
        await reply(http, socket, HTTPStatus.OK, HELLO, HELLO)
    elif request.method == b"HEAD":
        await reply(http, socket, HTTPStatus.OK, HELLO)
    else:
        await reply(http, socket, HTTPStatus.METHOD_NOT_ALLOWED)
    if http.our_state is h11.DONE:  # and not MUST_CLOSE
        http.start_next_cycle()


async def read_request(http: h11.Connection, socket: AsyncTcpSocket) -> h11.Request | None:
    """Return the next request, of whose body nothing is kept; ``None`` if the client has no more."""
    request = None
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await socket.read())
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
            return request


async def reply(
    http: h11.Connection, socket: AsyncTcpSocket, status: int, content: bytes = b"", body: bytes = b""
) -> None:
    """Send a response about `content`, with the `body`: the content itself, or nothing for HEAD."""
    headers = [
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(content))),
    ]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    if http.their_state is h11.ERROR:
        headers.append(("Connection", "close"))
    reason = HTTPStatus(status).phrase.encode()
    response = h11.Response(status_code=status, headers=headers, reason=reason)
    events = (response, h11.Data(data=body), h11.EndOfMessage())
    await socket.write_vectored(http.send(event) or b"" for event in events)


async def main(port: int) -> None:
    server = AsyncTcpConnectionServer(("127.0.0.1", port))
    print(f"listening on {server.address}", flush=True)
    await serve(serve_http, server, limits=LIMITS, drain_grace=PATIENCE)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
