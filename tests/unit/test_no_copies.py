"""What owns a descriptor or tasks has no copies; plain values and errors do."""

from __future__ import annotations

import copy
import pickle

import pytest

from aionet import (
    AsyncTcpConnectionServer,
    AsyncTcpSocket,
    AsyncUnixConnectionServer,
    AsyncUnixSocket,
    ConnectionLimits,
    ConnectionSpawner,
    NetworkToolkit,
    SocketAddress,
    SocketClosedError,
    TcpOptions,
)
from aionet.adapters.anyio import AionetByteStream, AionetListener
from aionet.connection import Connection

pytestmark = pytest.mark.asyncio

WAYS = [copy.copy, copy.deepcopy, pickle.dumps]


async def owners(directory):
    """One of each kind, in a list that closes what has to be closed."""
    server = AsyncTcpConnectionServer("127.0.0.1:0")
    client = await AsyncTcpSocket().connect_to(server.address)
    return [
        server,
        AsyncUnixConnectionServer(directory / "socket"),
        client,
        await server.accept(),
        AsyncTcpSocket(),
        AsyncUnixSocket(),
        ConnectionSpawner(print),
        NetworkToolkit(),
        Connection(client, 0.0),
        AionetByteStream(client),
        AionetListener(server),
    ]


async def test_an_owner_cannot_be_copied(tmp_path):
    found = await owners(tmp_path)
    try:
        for owner in found:
            for way in WAYS:
                with pytest.raises(TypeError, match=f"cannot copy or pickle '{type(owner).__name__}'"):
                    way(owner)
    finally:
        for owner in found:
            if isinstance(owner, AsyncTcpSocket):
                owner.abort()
            elif hasattr(owner, "close"):
                owner.close()


@pytest.mark.parametrize(
    "value", [SocketAddress("::1", 80), TcpOptions(), ConnectionLimits(max_connections=5)], ids=repr
)
async def test_a_value_can_be_copied(value):
    for made in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert made == value


async def test_an_error_that_knows_its_socket_can_be_copied():
    with pytest.raises(SocketClosedError) as caught:
        await AsyncTcpSocket().read()
    for made in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert str(made) == str(caught.value)
