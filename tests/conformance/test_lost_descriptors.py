"""A socket whose descriptor the program closes or takes away: it fails at once, and harms no other."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket

import pytest
from helpers import begin, give_turns
from peers import RawPeer

import aionet
from aionet import SocketClosedError

pytestmark = pytest.mark.asyncio

MUCH = 8_000_000


def close(sock):
    sock.raw_socket.close()


def leave_with(sock):
    with sock.raw_socket:
        pass


def detach(sock):
    os.close(sock.raw_socket.detach())


def close_number(sock):
    os.close(sock.fileno())


KNOWN = [close, leave_with, detach]
known_ways = pytest.mark.parametrize("way", KNOWN, ids=lambda way: way.__name__)


@known_ways
async def test_a_task_that_waits_is_told(sock, way):
    reading = await begin(sock.read())
    writing = await begin(sock.write(bytes(MUCH)))
    assert not reading.done()
    assert not writing.done()
    way(sock)
    for task in (reading, writing):
        with pytest.raises(SocketClosedError):
            await task
    assert sock.fileno() == -1


@known_ways
async def test_later_operations_are_refused(sock, way):
    assert sock.raw_socket.fileno() == sock.fileno()
    way(sock)
    for operation in (
        sock.read,
        lambda: sock.write(b"x"),
        sock.send_eof,
        lambda: sock.write_vectored([b"x"]),
    ):
        with pytest.raises(SocketClosedError):
            await operation()
    with pytest.raises(SocketClosedError):
        _ = sock.raw_socket
    await sock.aclose()
    sock.abort()


@pytest.mark.parametrize("unsent", [False, True])
async def test_the_peer_sees_an_end_that_fits(transport, sock, peer, unsent):
    if not transport.kernel_reads:
        pytest.skip("it is a truncation in either case")
    writing = await begin(sock.write(bytes(MUCH) if unsent else b"whole"))
    sock.raw_socket.close()
    if not unsent:
        await writing
        assert await peer.receive_to_end() == b"whole"
        return
    with pytest.raises(SocketClosedError):
        await writing
    if transport.resets:
        with pytest.raises(ConnectionResetError):
            await peer.receive_to_end()


async def test_a_detached_descriptor_is_the_programs(transport, sock, peer):
    if not transport.kernel_reads:
        pytest.skip("what remains is ciphertext")
    peer.send_now(b"x")
    assert await sock.read() == b"x"
    reading = await begin(sock.read())
    raw = socket.socket(fileno=sock.raw_socket.detach())
    with raw, pytest.raises(SocketClosedError):
        await reading
    with contextlib.suppress(OSError):
        raw.close()


async def test_a_detached_descriptor_can_be_used_on_the_same_loop(transport, sock, peer):
    if not transport.kernel_reads:
        pytest.skip("what remains is ciphertext")
    reading = await begin(sock.read())
    with socket.socket(fileno=sock.raw_socket.detach()) as raw:
        raw.setblocking(False)
        with pytest.raises(SocketClosedError):
            await reading
        receiving = await begin(asyncio.get_running_loop().sock_recv(raw, 10))
        peer.send_now(b"mine")
        assert await receiving == b"mine"
        await sock.aclose()
        peer.send_now(b"still")
        assert await asyncio.get_running_loop().sock_recv(raw, 10) == b"still"


@contextlib.asynccontextmanager
async def two_after_each_other(way, prepare):
    """Yield a socket that lost its descriptor in `way`, and a new one with the same number and its peer."""
    async with aionet.AsyncTcpConnectionServer("127.0.0.1:0") as server:
        peers = [RawPeer(socket.create_connection(("127.0.0.1", server.address.port))) for _ in range(2)]
        first = await server.accept()
        tasks = await prepare(first, peers[0])
        number = first.fileno()
        way(first)
        second = await server.accept()
        try:
            assert second.fileno() == number, "the number did not come again: this tests nothing"
            yield first, tasks, second, peers[1]
        finally:
            second.abort()
            for peer in peers:
                peer.stop()


async def nothing(sock, peer):
    return []


async def has_read(sock, peer):
    """It was watched, and was the last one that the reactor has woken."""
    reading = await begin(sock.read())
    peer.send_now(b"x")
    assert await reading == b"x"
    return []


async def reads(sock, peer):
    return [await begin(sock.read())]


async def writes(sock, peer):
    return [await begin(sock.write(bytes(MUCH)))]


@pytest.mark.parametrize(
    ("way", "prepare"),
    [
        (way, prepare)
        for way in [*KNOWN, close_number]
        for prepare in [nothing, has_read, reads, writes]
        if way is not close_number or prepare is not nothing  # of which a wire cannot know
    ],
    ids=lambda function: function.__name__,
)
@pytest.mark.parametrize("then", ["aclose", "abort", "drop"])
async def test_a_new_connection_with_the_number_is_not_disturbed(way, prepare, then):
    async with two_after_each_other(way, prepare) as (first, tasks, second, peer):
        reading = await begin(second.read())  # from here on the number is known to be another's
        for task in tasks:
            with pytest.raises(SocketClosedError):
                await task
        if then == "aclose":
            await first.aclose()
        elif then == "abort":
            first.abort()
        del first, tasks
        gc.collect()
        await give_turns()
        assert not reading.done()
        peer.send_now(b"hello")
        assert await reading == b"hello"
        writing = await begin(second.write(bytes(MUCH)))
        assert await peer.receive_exactly(MUCH) == bytes(MUCH)
        assert await writing == MUCH
