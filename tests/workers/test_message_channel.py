"""Messages between processes: whole, bounded, and with no descriptor more than was asked for."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from forking import in_child, refused
from helpers import begin, open_descriptors

from aionet.message_channel import MessageChannel

pytestmark = pytest.mark.asyncio


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    channel = MessageChannel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


async def test_messages_are_lines(pair):
    channel, peer = pair
    channel.send({"go": True})
    assert peer.recv(100) == b'{"go": true}\n'
    peer.sendall(b'{"a": 1}\n{"b"')
    assert await channel.receive() == {"a": 1}
    peer.sendall(b": 2}\n")
    assert await channel.receive() == {"b": 2}
    peer.close()
    assert await channel.receive() is None


async def test_a_cancelled_receive_loses_nothing(pair):
    channel, peer = pair
    waiting = await begin(channel.receive())
    peer.sendall(b'{"a": 1}\n')
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await channel.receive() == {"a": 1}


async def test_descriptors_come_with_their_message(pair):
    channel, peer = pair
    read, write = os.pipe()
    socket.send_fds(peer, [b'{"a": 1}\n'], [write])
    os.close(write)
    assert await channel.receive(most_descriptors=2) == {"a": 1}
    (fd,) = channel.take_descriptors()
    assert not os.get_inheritable(fd)
    os.write(fd, b"x")
    assert os.read(read, 1) == b"x"
    os.close(fd)
    os.close(read)


@pytest.mark.parametrize("allowed", [0, 1])
async def test_descriptors_that_were_not_asked_for_do_not_stay(pair, allowed):
    channel, peer = pair
    before = len(open_descriptors())
    socket.send_fds(peer, [b'{"a": 1}\n'], [0, 1, 2, 0, 1, 2])
    if allowed:
        with pytest.raises(ConnectionError, match="more descriptors than it may"):
            await channel.receive(most_descriptors=allowed)
        for fd in channel.take_descriptors():
            os.close(fd)
    else:
        assert await channel.receive() == {"a": 1}
        assert channel.take_descriptors() == []
    assert len(open_descriptors()) == before


async def test_descriptors_that_nobody_takes_are_closed_with_the_channel(pair):
    channel, peer = pair
    socket.send_fds(peer, [b'{"a": 1}\n'], [0, 1])
    await channel.receive(most_descriptors=2)
    channel.close()  # the ledger looks for the rest


@pytest.mark.parametrize(
    "line",
    [b"nonsense\n", b"[1]\n", b"\xff\n", b"7\n", 100_000 * b"[" + b"\n"],
    ids=["no JSON", "no object", "no UTF-8", "a number", "nested deeply"],
)
async def test_what_is_no_message(pair, line):
    channel, peer = pair
    peer.sendall(line)
    with pytest.raises(ConnectionError, match="something other than a message"):
        await channel.receive()


async def test_a_line_without_an_end(pair):
    channel, peer = pair
    sending = asyncio.ensure_future(asyncio.to_thread(peer.sendall, b"x" * 4_000_000))
    with pytest.raises(ConnectionError, match="a line without an end"):
        await channel.receive()
    channel.close()
    with pytest.raises(ConnectionError):
        await sending


async def test_a_peer_that_does_not_read(pair):
    channel, _ = pair
    with pytest.raises(ConnectionError, match="does not read"):
        any(channel.send({"stats": {"accepted": 1}}) for _ in range(100_000))


async def test_a_forked_child_leaves_the_channel_to_its_parent(pair):
    channel, peer = pair
    waiting = channel.receive()
    task = await begin(waiting)

    async def use():
        async def send():
            channel.send({"from": "child"})

        await refused(send)
        await refused(channel.receive)
        waiting.close()  # as the end of its task in the child does
        channel.close()

    in_child(use)
    peer.sendall(b'{"go": true}\n')
    assert await task == {"go": True}
    channel.send({"from": "parent"})
    assert peer.recv(100) == b'{"from": "parent"}\n'
