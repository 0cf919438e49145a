"""Clients that send a header themselves, and a relay whose target is lost before it has taken one."""

from __future__ import annotations

import select
from typing import Any

import pytest
from helpers import until
from peers import RawListener, RawPeer

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, ProxyHeader
from aionet.cli import relay

pytestmark = pytest.mark.asyncio


async def test_a_client_sends_a_header_first() -> None:
    with RawListener() as listener:
        async with await AsyncTcpSocket().connect_to(listener.address) as client:
            header = ProxyHeader.between(client.local_address, client.peer_address)
            await client.write_vectored([header.to_bytes(), b"hello"])
            with await listener.accept() as receiver:
                assert await receiver.receive_exactly(33) == header.to_bytes() + b"hello"


class Events:
    """What a command would announce."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def event(self, name: str, **facts: Any) -> None:
        self.seen.append(facts)


async def test_a_target_that_is_lost_before_it_has_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    events, targets = Events(), []

    async def dial_what_is_lost(address: Any, timeout: float) -> AsyncTcpSocket:
        target = await AsyncTcpSocket().connect_to(address)
        targets.append(target)
        (await listener.accept()).reset()
        poll = select.poll()
        poll.register(target.fileno(), 0)
        await until(lambda: poll.poll(0))  # the reset has arrived
        return target

    monkeypatch.setattr(relay, "dial", dial_what_is_lost)
    with RawListener() as listener:
        async with AsyncTcpConnectionServer("127.0.0.1:0") as server:
            with await RawPeer.connect(server.address.sockaddr()) as client:
                accepted = await server.accept()
                await relay._relay_to(accepted, listener.address, 1.0, 2, events)  # type: ignore[arg-type]
                with pytest.raises(ConnectionResetError):
                    await client.receive()
    assert accepted.closed
    assert [target.closed for target in targets] == [True]
    assert events.seen[0]["lost"] == "target"
    assert "was lost" in events.seen[0]["error"]
