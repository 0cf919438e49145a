"""A socket that cannot be registered with the reactor says so, loses nothing, and works when it can be again.

The reactor opens its epoll instance with the first socket that has to wait; here it finds no descriptor for
that (EMFILE). On aionet's own loop it needs none, and nothing fails. What else may fail is in `tests/faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from helpers import begin, no_descriptors
from peers import RawPeer

import aionet
from aionet.wires.event_loop import running_state

BIG = bytes(range(256)) * 40_000


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[tuple[aionet.AsyncTcpSocket, RawPeer]]:
    """A socket for which nothing is registered yet, and its peer."""
    if running_state().reactor.one_shot:
        pytest.skip("that reactor has no descriptor of its own")
    options = aionet.TcpOptions(send_buffer=1 << 16, linger=5.0)
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), options=options) as server:
        peer = await RawPeer.connect(server.address.sockaddr(), receive_buffer=1 << 14)
        sock = await server.accept()
    with peer:
        yield sock, peer
        sock.abort()


def check(error: aionet.ResourceExhaustedError, operation: str, sock: aionet.AsyncTcpSocket) -> None:
    assert (error.operation, error.errno) == (operation, errno.EMFILE)
    assert (error.local_address, error.peer_address) == (sock.local_address, sock.peer_address)
    assert isinstance(error.__cause__, OSError)


def fill(sock: aionet.AsyncTcpSocket) -> int:
    """Leave no room for a write; return how many bytes that took."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.raw_socket.send(BIG)
    return sent


on_epoll = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@on_epoll
async def test_a_read_raises_and_a_later_one_continues(ends) -> None:
    sock, peer = ends
    with no_descriptors(), pytest.raises(aionet.ResourceExhaustedError) as caught:
        await sock.read_exactly(5)
    check(caught.value, "read", sock)
    peer.send_now(b"he")
    reading = await begin(sock.read_exactly(5))
    peer.send_now(b"llo")
    assert await reading == b"hello"


@on_epoll
async def test_a_write_of_which_nothing_was_sent_is_withdrawn(ends) -> None:
    sock, peer = ends
    filled = fill(sock)
    with no_descriptors(), pytest.raises(aionet.ResourceExhaustedError) as caught:
        await sock.write(b"withdrawn")
    check(caught.value, "write", sock)
    writing = await begin(sock.write(b"later"))
    await peer.receive_exactly(filled)
    assert await writing == 5
    closing = asyncio.create_task(sock.aclose())
    assert await peer.receive_to_end() == b"later"
    await closing


@on_epoll
async def test_a_write_of_which_a_part_was_sent_breaks_the_stream(ends) -> None:
    sock, peer = ends
    with no_descriptors(), pytest.raises(aionet.ResourceExhaustedError) as caught:
        await sock.write(BIG)
    check(caught.value, "write", sock)
    with pytest.raises(aionet.ConnectionLostError, match="lack of resources"):
        await sock.write(b"more")
    with pytest.raises(aionet.ConnectionLostError):
        await sock.send_eof()
    peer.send_now(b"still read")
    assert await sock.read() == b"still read"
    await sock.aclose()
    with pytest.raises(ConnectionResetError):
        await peer.receive_to_end()


@on_epoll
async def test_an_acknowledgement_is_waited_for_without_events(ends) -> None:
    sock, peer = ends
    filled = fill(sock)
    with no_descriptors():
        waiting = await begin(sock.wait_acknowledged())
        peer.receive_exactly_now(filled)
        await waiting
    assert sock.unacknowledged == 0


@on_epoll
async def test_closing_ends_in_good_order_without_events(ends) -> None:
    sock, peer = ends
    filled = fill(sock)
    with no_descriptors():
        closing = await begin(sock.aclose())
        assert len(peer._receive_to_end()) == filled
        await closing
