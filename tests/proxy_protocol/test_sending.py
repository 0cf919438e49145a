"""Clients that send a header themselves, and a relay whose target is lost before it has taken one."""

from __future__ import annotations

import argparse
import asyncio
import json
import select
from typing import Any

import pytest
from helpers import until
from peers import RawListener, RawPeer

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, ConnectionSpawner, ProxyHeader
from aionet.cli import relay

pytestmark = pytest.mark.asyncio


async def test_a_client_sends_a_header_first() -> None:
    with RawListener() as listener:
        async with await AsyncTcpSocket().connect_to(listener.address) as client:
            header = ProxyHeader.between(client.local_address, client.peer_address)
            await client.write_vectored([header.to_bytes(), b"hello"])
            with await listener.accept() as receiver:
                assert await receiver.receive_exactly(33) == header.to_bytes() + b"hello"


async def received_from(address: Any) -> bytes:
    with await RawPeer.connect(address) as peer:
        return await peer.receive()


async def test_a_target_that_is_lost_before_it_has_the_header(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = []

    async def dial_what_is_lost(address: Any, timeout: float, **options: Any) -> AsyncTcpSocket:
        target = await AsyncTcpSocket().connect_to(address)
        targets.append(target)
        (await listener.accept()).reset()
        poll = select.poll()
        poll.register(target.fileno(), 0)
        await until(lambda: poll.poll(0))  # the reset has arrived
        return target

    monkeypatch.setattr(relay, "dial", dial_what_is_lost)
    with RawListener() as listener:
        parser = argparse.ArgumentParser()
        relay.add_arguments(parser)
        args = parser.parse_args(
            ["127.0.0.1:0", "{}:{}".format(*listener.address), "--send-proxy", "v2", "--json"]
        )
        relaying = relay._Relaying(args, None)
        spawner = ConnectionSpawner(relaying.serve, on_close=relaying.on_close)
        server = AsyncTcpConnectionServer("127.0.0.1:0")
        serving = asyncio.create_task(spawner.serve(server))
        with pytest.raises(ConnectionResetError):  # it may come within connect(2)
            await received_from(server.address.sockaddr())
        await spawner.drain(0)
        await serving
    assert [target.closed for target in targets] == [True]
    closed = json.loads(capsys.readouterr().out)
    assert (closed["event"], closed["lost"]) == ("closed", "target")
    assert "was lost" in closed["error"]
