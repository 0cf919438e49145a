"""`serve_metrics`: ``GET /metrics`` over HTTP, in the loop that is measured (extra ``metrics``).

Theory of operation
-------------------
Prometheus's client library can serve from a thread. That thread would read counters in the middle of a step
of the loop, and its server limits neither time nor connections. Here a request is answered by a
`ConnectionSpawner` of its own, in the loop: a scrape sees one moment, and what is wrong with the loop shows
in how long a scrape takes. The format of what is answered is the library's affair.

It is as much HTTP/1.1 (RFC 9112) as one answer per connection takes: the head of a request, GET or HEAD, and
a reply that ends with the connection. A head that is too long, too slow or no HTTP gets an error and the end;
when there are too many connections the one that was idle for the longest goes, so that nobody can keep
Prometheus out by doing nothing. Where the clients of the server that is measured hold all descriptors, a
scrape gets one of the reserve (`open_files.py`).

What a server does is its operator's affair: a port without a host is a port of the loopback interface here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..addresses import AddressLike, SocketAddress, as_address
from ..announcing import Log
from ..cleaning_up import see_through
from ..errors import IncompleteReadError, LimitExceededError
from ..limiting.limits import ConnectionLimits
from ..serving import listen
from ..spawner import ConnectionSpawner
from ..stream_server import AsyncStreamConnectionServer
from ..stream_socket import AsyncStreamSocket
from .metrics import CONTENT_TYPE, SpawnerCollector, exposition

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

__all__ = ["serve_metrics"]

_log = Log("aionet")

_LOOPBACK = ipaddress.IPv4Address("127.0.0.1")

_LARGEST_HEAD = 8192  # bytes
_SLOWEST_HEAD = 5.0  # seconds
_LIMITS = ConnectionLimits(
    max_connections=32, on_full="evict_idle", write_stall_timeout=5.0, handler_timeout=30.0
)

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.[0-9]")
_FIELD_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class _RequestError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus) -> None:
        self.status = status


@asynccontextmanager
async def serve_metrics(
    address: AddressLike | AsyncStreamConnectionServer[Any, Any], collector: Collector
) -> AsyncIterator[AsyncStreamConnectionServer[Any, Any]]:
    """Answer ``GET /metrics`` at `address` while the context lasts; it gives the server, which has `address`.

    Args:
        address: where; a port alone is one of 127.0.0.1. Name an interface to open it to others. It may be
            a server that listens already; it is closed at the end.
        collector: a `SpawnerCollector`, or a `prometheus_client.CollectorRegistry` of several, whose bytes
            are not added up in slices.

    Raises:
        ResolveError, OSError: the address cannot be bound.
        TypeError, ValueError: a bad address.

    Cancel safety: nothing is left open.
    """
    server = (
        address
        if isinstance(address, AsyncStreamConnectionServer)
        else await listen(_closed_to_others(address))
    )

    async def answer(socket: AsyncStreamSocket[Any]) -> None:
        await _answer(socket, collector)

    server._acceptor.use_reserve()
    spawner: ConnectionSpawner[Any] = ConnectionSpawner(answer, limits=_LIMITS)
    async with server:
        serving = asyncio.create_task(_serve(spawner, server))
        try:
            yield server
        finally:
            await see_through(spawner.drain(0.0))
            await serving


async def _serve(spawner: ConnectionSpawner[Any], server: AsyncStreamConnectionServer[Any, Any]) -> None:
    """Serve, and let an endpoint that becomes unusable cost nothing but the metrics."""
    try:
        await spawner.serve(server)
    except OSError as error:
        _log.error("no more metrics: %s", error.strerror)


def _closed_to_others(address: AddressLike) -> AddressLike:
    found = as_address(address)
    if isinstance(found, SocketAddress) and not found.host:
        return SocketAddress(_LOOPBACK, found.port)
    return found


async def _answer(socket: AsyncStreamSocket[Any], collector: Collector) -> None:
    """Read one request and reply."""
    try:
        method = await _read_request(socket)
    except _RequestError as bad:
        await socket.write(_head_of_reply(bad.status, 0))
        return
    if isinstance(collector, SpawnerCollector):
        await collector.refresh()
    body = exposition(collector)
    await socket.write(_head_of_reply(HTTPStatus.OK, len(body)))
    if method == b"GET":
        await socket.write(body)


async def _read_request(socket: AsyncStreamSocket[Any]) -> bytes:
    """Return the method of a request for ``/metrics``; raise `_RequestError` for any other."""
    try:
        async with asyncio.timeout(_SLOWEST_HEAD):
            head = await socket.read_until(b"\r\n\r\n", max_bytes=_LARGEST_HEAD)
    except TimeoutError:
        raise _RequestError(HTTPStatus.REQUEST_TIMEOUT) from None
    except LimitExceededError:
        raise _RequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    except IncompleteReadError as error:
        if not error.partial:  # somebody looked whether anybody is there
            raise
        raise _RequestError(HTTPStatus.BAD_REQUEST) from None
    return _method_of(*head.removesuffix(b"\r\n\r\n").split(b"\r\n"))


def _method_of(request_line: bytes, *field_lines: bytes) -> bytes:
    match = _REQUEST_LINE.fullmatch(request_line)
    if match is None or not all(_FIELD_LINE.fullmatch(line) for line in field_lines):
        raise _RequestError(HTTPStatus.BAD_REQUEST)
    method, target, version = match.groups()
    if version != b"1":
        raise _RequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if target.partition(b"?")[0] != b"/metrics":
        raise _RequestError(HTTPStatus.NOT_FOUND)
    if method not in (b"GET", b"HEAD"):
        raise _RequestError(HTTPStatus.METHOD_NOT_ALLOWED)
    return method


def _head_of_reply(status: HTTPStatus, length: int) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Length: {length}", "Connection: close"]
    if status is HTTPStatus.OK:
        lines.append(f"Content-Type: {CONTENT_TYPE}")
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode()
