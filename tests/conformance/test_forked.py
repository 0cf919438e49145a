"""In a fork's child every operation on a parent's socket refuses, and closing drops the descriptor only."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from forking import in_child, refused
from helpers import begin

import aionet

from .transports import RECEIVE_BUFFER, SEND_BUFFER

pytestmark = [pytest.mark.asyncio, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")]

INPUT = b"for the parent\n"
BIG = os.urandom(4 * (SEND_BUFFER + RECEIVE_BUFFER))


async def got(value: object) -> object:
    return value


OPERATIONS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "read": lambda sock: sock.read(),
    "read(n)": lambda sock: sock.read(max_bytes=3),
    "read(large)": lambda sock: sock.read(1 << 20),
    "read_exactly": lambda sock: sock.read_exactly(3),
    "read_exactly(0)": lambda sock: sock.read_exactly(0),
    "read_until": lambda sock: sock.read_until(b"\n"),
    "read_line": lambda sock: sock.read_line(),
    "read_into": lambda sock: sock.read_into(bytearray(3)),
    "peek": lambda sock: sock.peek(),
    "peek(at_least)": lambda sock: sock.peek(9, at_least=5),
    "iterating": anext,
    "write": lambda sock: sock.write(b"from the child"),
    "write(nothing)": lambda sock: sock.write(b""),
    "write(large)": lambda sock: sock.write(BIG),
    "write(bytearray)": lambda sock: sock.write(bytearray(b"from the child")),
    "write_vectored": lambda sock: sock.write_vectored([b"from", b"the", b"child"]),
    "send_file": lambda sock: sock.send_file(io.BytesIO(b"from the child")),
    "send_eof": lambda sock: sock.send_eof(),
    "start_tls": lambda sock: sock.start_tls(ssl.create_default_context(), server_hostname="server.example"),
    "raw_socket": lambda sock: got(sock.raw_socket),
}
OF_TCP: dict[str, Callable[[Any], Awaitable[object]]] = {
    "wait_acknowledged": lambda sock: sock.wait_acknowledged(),
    "unacknowledged": lambda sock: got(sock.unacknowledged),
    "tcp_info": lambda sock: got(sock.tcp_info()),
}


async def intact(pair: Any) -> None:
    """All that was sent before arrives, nothing else does, and the connection ends as its parent ends it."""
    sock, peer = pair
    assert await sock.read_exactly(len(INPUT)) == INPUT
    await peer.send(b"more")
    assert await sock.read() == b"more"
    await sock.write(b"from the parent")
    assert await peer.receive_exactly(15) == b"from the parent"
    await sock.send_eof()
    assert await peer.receive() == b""
    peer.half_close()
    assert await sock.read() == b""
    await sock.aclose()


@pytest.mark.parametrize("buffered", [False, True], ids=["in the kernel", "in the buffer"])
async def test_every_operation_refuses(pair: Any, buffered: bool) -> None:
    sock = pair.socket
    operations = OPERATIONS | (OF_TCP if isinstance(sock, aionet.AsyncTcpSocket) else {})
    local, remote = sock.local_address, sock.peer_address
    await pair.peer.send(INPUT)
    if buffered:
        await sock.peek()

    async def use() -> None:
        for name, operation in operations.items():
            try:
                error = await refused(lambda operation=operation: operation(sock))
            except BaseException as other:
                raise AssertionError(name) from other
            assert (error.local_address, error.peer_address) == (local, remote), name
            assert str(error).startswith(f"{error.operation} {local}->{remote}: opened before a fork"), error
            assert isinstance(error, RuntimeError)
        assert not sock.closed
        assert sock.fileno() >= 0
        assert (sock.local_address, sock.peer_address) == (local, remote)

    in_child(use)
    await intact(pair)


async def leave(sock: Any) -> None:
    async with sock:
        pass


async def abort(sock: Any) -> None:
    sock.abort()


CLOSINGS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "aclose": lambda sock: sock.aclose(),
    "async with": leave,
    "abort": abort,
}


@contextlib.asynccontextmanager
async def unread_input(pair: Any) -> Any:
    await pair.peer.send(INPUT)
    yield
    await intact(pair)


@contextlib.asynccontextmanager
async def a_read_that_waits(pair: Any) -> Any:
    reading = await begin(pair.socket.read_exactly(4))
    yield
    await pair.peer.send(b"late" + INPUT)
    assert await reading == b"late"
    await intact(pair)


@contextlib.asynccontextmanager
async def a_write_that_waits(pair: Any) -> Any:
    writing = await begin(pair.socket.write(BIG))
    assert not writing.done()
    await pair.peer.send(INPUT)
    yield
    assert await pair.peer.receive_exactly(len(BIG)) == BIG
    assert await writing == len(BIG)
    await intact(pair)


@contextlib.asynccontextmanager
async def a_cancelled_write(pair: Any) -> Any:
    """It has begun, and goes on by itself."""
    writing = await begin(pair.socket.write(BIG))
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    await pair.peer.send(INPUT)
    yield
    assert await pair.peer.receive_exactly(len(BIG)) == BIG
    await intact(pair)


@contextlib.asynccontextmanager
async def the_parent_closes(pair: Any) -> Any:
    writing = await begin(pair.socket.write(BIG))
    closing = await begin(pair.socket.aclose())
    yield
    assert await pair.peer.receive_exactly(len(BIG)) == BIG
    assert await pair.peer.receive() == b""
    pair.peer.close()
    await closing
    await writing


@contextlib.asynccontextmanager
async def the_peer_has_ended(pair: Any) -> Any:
    pair.peer.half_close()
    assert await pair.socket.read() == b""
    yield
    await pair.socket.write(b"from the parent")
    assert await pair.peer.receive_exactly(15) == b"from the parent"
    await pair.socket.aclose()
    assert await pair.peer.receive() == b""


STATES = [
    unread_input,
    a_read_that_waits,
    a_write_that_waits,
    a_cancelled_write,
    the_parent_closes,
    the_peer_has_ended,
]


@pytest.mark.parametrize("close", CLOSINGS.values(), ids=CLOSINGS)
@pytest.mark.parametrize("state", STATES)
async def test_closing_drops_the_descriptor_only(
    pair: Any, state: Any, close: Callable[[Any], Awaitable[object]]
) -> None:
    sock = pair.socket
    number = sock.fileno()

    async def close_twice() -> None:
        for _ in range(2):
            await asyncio.wait_for(close(sock), 30)
        assert sock.closed
        assert sock.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        with pytest.raises(aionet.SocketClosedError):
            await sock.write(b"from the child")

    async with state(pair):
        in_child(close_twice)
