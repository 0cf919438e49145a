"""Listening sockets change hands, however many there are."""

from __future__ import annotations

import asyncio
import socket

import pytest

from aionet import SocketAddress, SuccessionError, UnixAddress
from aionet.held_listeners import HeldListener, HeldListeners
from aionet.message_channel import MessageChannel
from aionet.succession.handing_over import confirm, send_listeners, take_listeners

pytestmark = pytest.mark.asyncio


@pytest.fixture
def channels():
    old, new = map(MessageChannel, socket.socketpair())
    yield old, new
    old.close()
    new.close()


async def test_more_sockets_than_a_message_carries(channels):
    old, new = channels
    listeners = [
        await HeldListener.open(SocketAddress("127.0.0.1", 0), shares=300),
        await HeldListener.open(SocketAddress(0), shares=200),
    ]
    with HeldListeners(listeners) as held:
        taking = asyncio.create_task(take_listeners(new))
        assert await old.receive() == {"want": "listeners"}
        send_listeners(old, held)
        with HeldListeners(await taking) as taken:
            assert taken.addresses == held.addresses
            assert [[len(share) for share in listener.shares] for listener in taken] == [
                [len(share) for share in listener.shares] for listener in held
            ]


async def test_a_socket_file_is_found_by_a_successor_in_another_directory(channels, tmp_path, monkeypatch):
    old, new = channels
    monkeypatch.chdir(tmp_path)
    with HeldListeners([await HeldListener.open(UnixAddress("sock"))]) as held:
        taking = asyncio.create_task(take_listeners(new))
        await old.receive()
        send_listeners(old, held)
        with HeldListeners(await taking) as taken:
            monkeypatch.chdir("/")
            held.own_files(False)
            held.close()
            taken.own_files(True)
            assert (tmp_path / "sock").exists()
        assert not (tmp_path / "sock").exists()


@pytest.mark.parametrize("word", [{"abort": "busy"}, None])
async def test_a_predecessor_that_gives_nothing(channels, word):
    old, new = channels
    taking = asyncio.create_task(take_listeners(new))
    await old.receive()
    if word is None:
        old.close()
    else:
        old.send(word)
    with pytest.raises(ConnectionError, match="it has ended" if word is None else "busy"):
        await taking


async def test_an_abort_instead_of_a_go(channels):
    old, new = channels
    old.send({"abort": "late"})
    old.close()
    with pytest.raises(SuccessionError, match="the predecessor goes on: late"):
        await confirm(new)


async def test_an_end_instead_of_a_go(channels, caplog):
    old, new = channels
    confirming = asyncio.create_task(confirm(new))
    await old.receive()
    old.close()
    await confirming
    assert "ended without a word" in caplog.text
