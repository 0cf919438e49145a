"""A stream of which received bytes are gone: nothing makes it readable again, and its peer sees a reset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from helpers import begin
from peers import RawListener, RawPeer

import aionet

pytestmark = pytest.mark.asyncio

LARGE = 8 << 20  # more than both buffers of a connection hold

Ends = tuple[aionet.AsyncTcpSocket, RawPeer]


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[Ends]:
    with RawListener() as listener:
        sock = await aionet.AsyncTcpSocket().connect_to(listener.address)
        with await listener.accept() as peer:
            yield sock, peer
        sock.abort()


async def test_looking_at_the_raw_socket_makes_it_readable_no_more(ends: Ends) -> None:
    sock, peer = ends
    await peer.send(b"what follows a gap")
    sock._wire.note_gap()
    for _ in range(2):
        with pytest.raises(aionet.ConnectionLostError):
            await sock.read()
        assert sock.raw_socket.fileno() == sock.fileno()


async def test_it_ends_in_a_reset_though_waiting_writes_were_sent(ends: Ends) -> None:
    sock, peer = ends
    writing = await begin(sock.write(bytes(LARGE)))
    sock._wire.note_gap()
    await peer.receive_exactly(LARGE)
    await asyncio.wait_for(writing, 10)
    await sock.aclose()
    assert await peer.end() == "reset"
