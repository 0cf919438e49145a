"""What a TLS peer sees of a handler's end: close_notify, or a stream that is cut short and reset.

The peers are the standard library's `ssl` over raw sockets.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from tls_peers import TlsOverSocket, contexts

from aionet import ConnectionLimits, IncompleteReadError, TlsTruncatedError

from .test_spawner import Service, service

__all__ = ["service"]

pytestmark = pytest.mark.asyncio

HALF = b"half of a rep"
MUCH = bytes(16 << 20)
SHORT = 0.2

Handler = Callable[[Any], Awaitable[object]]


async def raise_it(sock: Any) -> None:
    raise ValueError("a fault of the handler")


async def raise_within_async_with(sock: Any) -> None:
    async with sock:
        await raise_it(sock)


async def return_(sock: Any) -> None:
    pass


async def wait_to_read(sock: Any) -> None:
    await sock.read()


async def write_much(sock: Any) -> None:
    await sock.write(MUCH)


async def write_for_ever(sock: Any) -> None:
    while True:
        await sock.write(b"x")


async def end_and_crash(sock: Any) -> None:
    await sock.send_eof()
    await raise_it(sock)


async def begin(service: Service, end: Handler, unix: Path | None = None, **limits: Any) -> TlsOverSocket:
    """Serve with a handler that answers by half, and then does `end`; return a client that has asked."""

    async def handler(sock: Any) -> None:
        if await sock.read(1):
            await sock.write(HALF)
            await end(sock)

    service.echo = handler  # type: ignore[method-assign]
    pair = contexts()
    await service.begin(pair.server, unix=unix, limits=ConnectionLimits(**limits))
    client = await TlsOverSocket(service.raw(), pair.client, server_side=False).shake_hands()
    client.sendall(b"?")
    return client


async def seen_by(client: TlsOverSocket) -> str:
    """How the stream ends: by close_notify, cut short, or reset."""

    def receive() -> str:
        try:
            while client.recv(1 << 20):
                pass
        except ConnectionResetError as error:
            return "reset" if error.errno else "cut short"
        return "close_notify"

    return await asyncio.to_thread(receive)


@pytest.mark.parametrize(
    ("end", "limits", "seen"),
    [
        (return_, {}, "close_notify"),
        (raise_it, {}, "reset"),
        (raise_within_async_with, {}, "reset"),
        (end_and_crash, {}, "close_notify"),
        (wait_to_read, {"idle_timeout": SHORT}, "close_notify"),
        (wait_to_read, {"handler_timeout": SHORT}, "reset"),
        (raise_it, {"on_unfinished": "close"}, "close_notify"),
        (raise_within_async_with, {"on_unfinished": "close"}, "close_notify"),
    ],
)
async def test_how_a_handler_ends(service: Service, end: Handler, limits: dict[str, Any], seen: str) -> None:
    client = await begin(service, end, **limits)
    assert await seen_by(client) == seen


@pytest.mark.parametrize(("end", "seen"), [(return_, "close_notify"), (raise_it, "cut short")])
async def test_on_a_unix_socket(service: Service, tmp_path: Path, end: Handler, seen: str) -> None:
    """Which knows no reset, but TLS does."""
    client = await begin(service, end, tmp_path / "s")
    assert await seen_by(client) == seen


@pytest.mark.parametrize(
    ("end", "seen"),
    [(wait_to_read, "close_notify"), (write_much, "reset"), (write_for_ever, "reset")],
)
@pytest.mark.parametrize("by", ["drain", "cancel"])
async def test_cancelled(service: Service, end: Handler, by: str, seen: str) -> None:
    client = await begin(service, end)
    least = len(HALF) if end is wait_to_read else len(HALF) + 1
    await until(lambda: any(each.socket.bytes_written >= least for each in service.spawner.connections))
    await until(lambda: end is not wait_to_read or reads(service))
    if by == "drain":
        await service.spawner.drain(0)
    else:
        for connection in service.spawner.connections:
            connection.task.cancel()
    assert await seen_by(client) == seen


def reads(service: Service) -> bool:
    return all(each.socket._wire.waits_for_input for each in service.spawner.connections)


async def test_a_peer_that_ends_without_close_notify_gets_no_clean_end(service: Service) -> None:
    """Its stream may have been cut off, so the reply may be to a part of the question."""
    raised: list[Exception] = []

    async def read_more(sock: Any) -> None:
        try:
            await sock.read_exactly(100)
        except (IncompleteReadError, TlsTruncatedError) as error:
            raised.append(error)
            raise

    client = await begin(service, read_more)
    client.sock.shutdown(socket.SHUT_WR)
    assert await seen_by(client) == "reset"
    assert isinstance(raised[0], TlsTruncatedError)
