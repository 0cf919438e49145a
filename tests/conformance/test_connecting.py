"""Sockets that are not connected, not yet, or already."""

from __future__ import annotations

import asyncio
import io
import socket
import tempfile

import pytest
from helpers import begin, open_sockets
from peers import RawListener

from aionet import AsyncTcpSocket, AsyncUnixSocket, SocketBusyError, SocketClosedError

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["tcp", "unix"])
def kind(request):
    with tempfile.TemporaryDirectory() as directory:
        if request.param == "tcp":
            yield AsyncTcpSocket, RawListener(), ("127.0.0.1", 1)
        else:
            yield AsyncUnixSocket, RawListener(f"{directory}/socket", socket.AF_UNIX), f"{directory}/nobody"


@pytest.fixture
def listener(kind):
    with kind[1] as listener:
        yield listener


@pytest.fixture
def unconnected(kind, listener):
    return kind[0]()


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda sock: sock.read(), id="read"),
        pytest.param(lambda sock: sock.read_exactly(1), id="read_exactly"),
        pytest.param(lambda sock: sock.read_line(), id="read_line"),
        pytest.param(lambda sock: sock.read_into(bytearray(1)), id="read_into"),
        pytest.param(lambda sock: sock.peek(), id="peek"),
        pytest.param(lambda sock: sock.write(b"x"), id="write"),
        pytest.param(lambda sock: sock.write_vectored([b"x"]), id="write_vectored"),
        pytest.param(lambda sock: sock.send_file(io.BytesIO(b"x")), id="send_file"),
        pytest.param(lambda sock: sock.send_eof(), id="send_eof"),
    ],
)
async def test_an_unconnected_socket_says_so(unconnected, operation):
    with pytest.raises(SocketClosedError, match="not connected"):
        await operation(unconnected)
    assert unconnected.fileno() == -1
    assert unconnected.local_address is None
    assert unconnected.peer_address is None
    assert "not connected" in repr(unconnected)


async def test_connecting_returns_the_socket(unconnected, listener):
    assert await unconnected.connect_to(listener.address) is unconnected
    with await listener.accept() as peer:
        await unconnected.write(b"hello")
        assert await peer.receive_exactly(5) == b"hello"
        assert str(unconnected.peer_address).endswith(str(listener.address[-1]))
        unconnected.abort()


async def test_a_connected_socket_is_not_connected_again(unconnected, listener):
    await unconnected.connect_to(listener.address)
    with await listener.accept() as peer:
        with pytest.raises(SocketBusyError):
            await unconnected.connect_to(listener.address)
        await unconnected.write(b"!")
        assert await peer.receive_exactly(1) == b"!"
        unconnected.abort()


@pytest.mark.parametrize("end", ["aclose", "abort"])
async def test_a_closed_socket_is_not_connected(unconnected, listener, end):
    if end == "aclose":
        await unconnected.aclose()
    else:
        unconnected.abort()
    assert unconnected.closed
    with pytest.raises(SocketClosedError):
        await unconnected.connect_to(listener.address)
    with pytest.raises(SocketClosedError):
        await unconnected.read()


async def test_a_socket_that_failed_to_connect_may_try_again(unconnected, listener, kind):
    with pytest.raises(ConnectionError):
        await unconnected.connect_to(kind[2])
    await unconnected.connect_to(listener.address)
    with await listener.accept():
        unconnected.abort()


async def test_an_async_with_around_a_socket_that_never_connected(unconnected):
    async with unconnected:
        pass
    assert unconnected.closed


@pytest.fixture
def deaf_address():
    """Where a connect waits: the queue of the listener is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            waiting.append(sock)
        yield address
        for sock in waiting:
            sock.close()


async def test_a_second_connect_meanwhile_is_refused(deaf_address):
    sock = AsyncTcpSocket()
    first = await begin(sock.connect_to(deaf_address))
    assert not first.done()
    with pytest.raises(SocketBusyError, match="connecting"):
        await sock.connect_to(deaf_address)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.parametrize("end", ["aclose", "abort"])
async def test_closing_ends_a_connect(deaf_address, end):
    before = open_sockets()
    sock = AsyncTcpSocket()
    connecting = await begin(sock.connect_to(deaf_address))
    if end == "aclose":
        await sock.aclose()
    else:
        sock.abort()
    with pytest.raises(SocketClosedError) as caught:
        await connecting
    assert caught.value.operation == "connect"
    assert sock.closed
    assert open_sockets() == before


async def test_the_descriptor_of_a_connect_is_gone_when_aclose_returns(deaf_address):
    before = open_sockets()
    sock = AsyncTcpSocket()
    connecting = await begin(sock.connect_to(deaf_address))
    await sock.aclose()
    left = open_sockets()
    await asyncio.wait([connecting])
    assert isinstance(connecting.exception(), SocketClosedError)
    assert left == before


async def test_a_cancelled_connect_leaves_nothing(deaf_address):
    before = open_sockets()
    sock = AsyncTcpSocket()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await sock.connect_to(deaf_address)
    assert open_sockets() == before
    assert not sock.closed


async def test_closing_and_a_deadline_at_once(deaf_address):
    """A socket that is closed while its task is cancelled by somebody else: both are told."""
    sock = AsyncTcpSocket()
    connecting = await begin(sock.connect_to(deaf_address))
    sock.abort()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
