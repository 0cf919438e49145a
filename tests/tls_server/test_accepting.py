"""`accept` of a server with TLS: sockets whose handshake is done, whatever others do meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers import begin, give_turns, until
from peers import RawPeer

import aionet
from aionet import (
    AsyncTcpConnectionServer,
    AsyncTcpSocket,
    ServerTls,
    SocketClosedError,
    TcpOptions,
    tls_handshakes,
)

from .authority import Authority

pytestmark = pytest.mark.asyncio


@contextlib.asynccontextmanager
async def listening(authority: Authority) -> AsyncIterator[Any]:
    tls = ServerTls(*authority.pair("server").files)
    options = TcpOptions(close_notify_wait=0.01)  # the peers here never answer one
    async with AsyncTcpConnectionServer("127.0.0.1:0", tls=tls, options=options) as server:
        yield server


async def raw(server: Any) -> RawPeer:
    return await RawPeer.connect(("127.0.0.1", server.address.port))


async def shaken(authority: Authority, peer: RawPeer) -> ssl.SSLSocket:
    """`peer` with its handshake done, which takes somebody who accepts."""
    context = authority.client()
    return await asyncio.to_thread(context.wrap_socket, peer.sock, server_hostname="localhost")


async def test_the_handshake_is_done(authority: Authority) -> None:
    async with listening(authority) as server:
        accepting = await begin(server.accept())
        with await raw(server) as peer, await shaken(authority, peer) as client:
            async with await accepting as socket:
                assert socket.tls.version == "TLSv1.3"
                await socket.write(b"hello")
                assert await asyncio.to_thread(client.recv, 100) == b"hello"


async def test_a_socket_that_is_passed_in(authority: Authority) -> None:
    async with listening(authority) as server:
        mine = AsyncTcpSocket()
        accepting = await begin(server.accept(mine))
        with await raw(server) as peer, await shaken(authority, peer):
            assert await accepting is mine
            assert mine.tls is not None
            await mine.aclose()


async def test_who_says_nothing_or_nonsense_is_passed_over(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aionet")
    async with listening(authority) as server:
        accepting = await begin(server.accept())
        with await raw(server), await raw(server) as nonsense:
            await nonsense.send(b"what?")
            assert await nonsense.receive() == b""
            with await raw(server) as peer, await shaken(authority, peer):
                await (await accepting).aclose()
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("INFO", None)
    assert "failed: handshake" in record.getMessage()
    assert "does not speak TLS" in record.getMessage()


async def test_the_oldest_handshake_gives_way(
    authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_handshakes, "_MOST", 2)
    monkeypatch.setattr(tls_handshakes, "MIN_AGE", 0.05)
    monkeypatch.setattr(tls_handshakes, "_SECONDS", 60.0)
    caplog.set_level(logging.INFO, "aionet")
    async with listening(authority) as server:
        accepting = await begin(server.accept())
        with await raw(server) as first, await raw(server):
            await until(lambda: len(server._tls_acceptor._handshakes) == 2)
            with await raw(server) as peer, await shaken(authority, peer):
                await (await accepting).aclose()
            with pytest.raises(ConnectionResetError):
                await first.receive()
    (record,) = caplog.records
    assert record.getMessage().endswith("cut: evicted")


async def test_what_was_given_out_to_a_cancelled_accept_of_a_closed_server_is_reset(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ServerTls(*authority.pair("server").files)
    server = AsyncTcpConnectionServer("127.0.0.1:0", tls=tls)
    accepting = await begin(server.accept())
    give_out = server._tls_acceptor._give_out

    def give_out_close_and_cancel() -> None:
        give_out()
        monkeypatch.undo()
        server.close()
        accepting.cancel()

    monkeypatch.setattr(server._tls_acceptor, "_give_out", give_out_close_and_cancel)
    with await raw(server) as peer, await shaken(authority, peer) as client:
        with pytest.raises(asyncio.CancelledError):
            await accepting
        with contextlib.suppress(ConnectionResetError):  # which OpenSSL may take for an end
            assert await asyncio.to_thread(client.recv, 100) == b""


async def test_a_cancelled_accept_loses_no_connection(authority: Authority) -> None:
    async with listening(authority) as server:
        with await raw(server) as peer:
            shaking = asyncio.create_task(shaken(authority, peer))
            socket = None
            while socket is None:
                accepting = await begin(server.accept())
                accepting.cancel()  # in whatever state the handshake is by now
                with contextlib.suppress(asyncio.CancelledError):
                    socket = await accepting
            with await shaking:
                await socket.aclose()


async def test_cancelled_at_the_last_moment(authority: Authority) -> None:
    async with listening(authority) as server:
        accepting = await begin(server.accept())
        with await raw(server) as peer, await shaken(authority, peer):
            acceptor = server._tls_acceptor
            await until(lambda: not acceptor._handshakes)  # it was given out in this very turn
            accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await accepting).aclose()
                return
            await (await server.accept()).aclose()


async def test_several_who_wait_are_served_in_turn(authority: Authority) -> None:
    async with listening(authority) as server:
        waiting = [await begin(server.accept()) for _ in range(3)]
        for accepting in waiting:
            with await raw(server) as peer, await shaken(authority, peer):
                await until(accepting.done)
                await accepting.result().aclose()


async def test_closing_ends_it_all(authority: Authority) -> None:
    async with listening(authority) as server:
        accepting = await begin(server.accept())
        with await raw(server) as silent:
            await until(lambda: server._tls_acceptor._handshakes)
            await server.aclose()
            with pytest.raises(SocketClosedError):
                await accepting
            with pytest.raises(ConnectionResetError):
                await silent.receive()
        with pytest.raises(SocketClosedError):
            await server.accept()


async def test_the_deadline(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aionet.tls_handshakes._SECONDS", 0.1)
    async with listening(authority) as server:
        accepting = await begin(server.accept())
        with await raw(server) as silent:
            assert await silent.receive() == b""
        accepting.cancel()
        await give_turns()


async def test_iterating(authority: Authority) -> None:
    seen = []
    async with listening(authority) as server:

        async def serve() -> None:
            async for socket in server:
                async with socket:
                    seen.append(socket.tls.version)

        serving = await begin(serve())
        for _ in range(2):
            with await raw(server) as peer, await shaken(authority, peer) as client:
                assert await asyncio.to_thread(client.recv, 1) == b""
        await server.aclose()
        await serving
    assert seen == ["TLSv1.3", "TLSv1.3"]


async def test_without_tls_nothing_is_different() -> None:
    async with AsyncTcpConnectionServer("127.0.0.1:0") as server:
        client = await aionet.AsyncTcpSocket().connect_to(server.address)
        async with client, await server.accept() as socket:
            assert socket.tls is None


async def test_a_connection_goes_over_to_tls_with_the_same_certificates(authority: Authority) -> None:
    async with AsyncTcpConnectionServer("127.0.0.1:0") as server:
        with await raw(server) as peer:
            async with await server.accept() as socket:
                tls = ServerTls(*authority.pair("server").files)
                starting = await begin(socket.start_tls(tls, server_side=True))
                with await shaken(authority, peer) as client:
                    await starting
                    await socket.write(client.version().encode())  # type: ignore[union-attr]
                    assert await asyncio.to_thread(client.recv, 100) == b"TLSv1.3"
                    socket.abort()
