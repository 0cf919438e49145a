"""`NetworkToolkit`: defaults reach every socket, the ledger is exact, and leaving it leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from helpers import begin, give_turns, until
from peers import RawListener, RawPeer

import aionet

NAGLE = aionet.TcpOptions(nodelay=False)


def option(sock: Any, level: int, number: int) -> int:
    with socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM) as duplicate:
        return duplicate.getsockopt(level, number)


def nodelay(sock: Any) -> bool:
    return option(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def server_at_home() -> aionet.AsyncTcpConnectionServer:
    return aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))


# Options ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_default_options_reach_every_socket_made_inside() -> None:
    async with aionet.NetworkToolkit(options=NAGLE):
        server = server_at_home()
        client = await aionet.AsyncTcpSocket().connect_to(server.address)
        accepted = await server.accept()
        assert not nodelay(client)
        assert not nodelay(accepted)


@pytest.mark.asyncio
async def test_options_of_ones_own_come_first() -> None:
    mine = aionet.TcpOptions(nodelay=True)
    async with aionet.NetworkToolkit(options=NAGLE):
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), options=mine)
        client = await aionet.AsyncTcpSocket(options=mine).connect_to(server.address)
        accepted = await server.accept()
        assert nodelay(client)
        assert nodelay(accepted)


@pytest.mark.asyncio
async def test_outside_and_afterwards_nothing_is_different() -> None:
    async with server_at_home() as server:
        async with aionet.NetworkToolkit(options=NAGLE):
            pass
        async with await aionet.AsyncTcpSocket().connect_to(server.address) as client:
            assert nodelay(client)


@pytest.mark.asyncio
async def test_unix_options_reach_unix_sockets(tmp_path: Path) -> None:
    options = aionet.UnixOptions(send_buffer=20_000)
    async with aionet.NetworkToolkit(unix_options=options):
        server = aionet.AsyncUnixConnectionServer(tmp_path / "server")
        client = await aionet.AsyncUnixSocket().connect_to(server.address)
        accepted = await server.accept()
        for sock in (client, accepted):
            assert option(sock, socket.SOL_SOCKET, socket.SO_SNDBUF) == 40_000


# The resolver -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_resolver_is_asked_for_connecting_and_for_listening() -> None:
    asked = []

    async def resolver(host: str, port: int) -> list[aionet.SocketAddress]:
        asked.append((host, port))
        return [aionet.SocketAddress("127.0.0.1", port)]

    async with aionet.NetworkToolkit(resolver=resolver):
        server = await aionet.AsyncTcpConnectionServer.listen(("server.test", 0))
        assert asked == [("server.test", 0)]
        port = server.address.port
        client = await aionet.AsyncTcpSocket().connect_to(("client.test", port))
        assert asked[1:] == [("client.test", port)]
        assert client.peer_address == aionet.SocketAddress("127.0.0.1", port)
        await aionet.AsyncTcpSocket().connect_to(("127.0.0.1", port))
        assert len(asked) == 2, "a number needs no resolver"


@pytest.mark.asyncio
async def test_a_resolver_that_fails_or_finds_nothing_is_a_resolve_error() -> None:
    async def resolver(host: str, port: int) -> list[aionet.SocketAddress]:
        if host == "fails.test":
            raise OSError(-2, "the registry is down")
        return []

    async with aionet.NetworkToolkit(resolver=resolver):
        with pytest.raises(aionet.ResolveError, match="the registry is down"):
            await aionet.AsyncTcpSocket().connect_to(("fails.test", 1))
        with pytest.raises(aionet.ResolveError, match=r"nothing\.test"):
            await aionet.AsyncTcpConnectionServer.listen(("nothing.test", 0))


def test_a_resolver_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="resolver"):
        aionet.NetworkToolkit(resolver="8.8.8.8")  # type: ignore[arg-type]


# The ledger ---------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("close", ["aclose", "abort"])
async def test_the_ledger_holds_exactly_what_is_open(close: str, tmp_path: Path) -> None:
    async def end(sock: Any) -> None:
        sock.abort() if close == "abort" else await sock.aclose()

    async with aionet.NetworkToolkit() as toolkit:
        assert toolkit.open_sockets == frozenset()
        idle = aionet.AsyncTcpSocket()
        assert toolkit.open_sockets == frozenset(), "nothing is open before it is connected"
        with pytest.raises(aionet.ConnectError):
            await idle.connect_to(("127.0.0.1", unused_port()))
        assert toolkit.open_sockets == frozenset()
        tcp, unix = server_at_home(), aionet.AsyncUnixConnectionServer(tmp_path / "server")
        assert toolkit.open_sockets == {tcp, unix}
        client = await aionet.AsyncTcpSocket().connect_to(tcp.address)
        assert toolkit.open_sockets == {tcp, unix, client}
        accepted = await tcp.accept()
        unix_client = await aionet.AsyncUnixSocket().connect_to(unix.address)
        unix_accepted = await unix.accept(aionet.AsyncUnixSocket())
        assert toolkit.open_sockets == {tcp, unix, client, accepted, unix_client, unix_accepted}
        for sock in (client, unix_accepted):
            await end(sock)
        assert toolkit.open_sockets == {tcp, unix, accepted, unix_client}
        assert await accepted.read() == b"" if close == "aclose" else True
        for sock in (accepted, unix_client):
            await end(sock)
        tcp.close()
        await unix.aclose()
        assert toolkit.open_sockets == frozenset()


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.asyncio
async def test_the_ledger_follows_a_spawner() -> None:
    async def handler(sock: Any) -> None:
        await sock.read()

    async with aionet.NetworkToolkit() as toolkit:
        server = server_at_home()
        spawner = aionet.ConnectionSpawner(handler)
        serving = asyncio.create_task(spawner.serve(server))
        peers = [await RawPeer.connect(("127.0.0.1", server.address.port)) for _ in range(3)]
        await until(lambda: spawner.stats.active == 3)
        assert toolkit.open_sockets == {server, *(connection.socket for connection in spawner.connections)}
        for peer in peers:
            peer.close()
        await until(lambda: not spawner.connections)
        assert toolkit.open_sockets == {server}
        await spawner.drain(0)
        await serving
        assert toolkit.open_sockets == frozenset()


# Closing ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_closing_closes_what_is_left_and_says_what(caplog: pytest.LogCaptureFixture) -> None:
    toolkit = aionet.NetworkToolkit()
    await toolkit.__aenter__()
    server = server_at_home()
    client = await aionet.AsyncTcpSocket().connect_to(server.address)
    accepted = await server.accept()
    expected = sorted(map(repr, (server, client, accepted)))
    assert await toolkit.aclose() == expected
    assert server.closed
    assert client.closed
    assert accepted.closed
    assert client.fileno() == accepted.fileno() == -1
    (record,) = [record for record in caplog.records if record.name == "aionet"]
    assert record.levelno == logging.WARNING
    assert all(name in record.getMessage() for name in expected)
    assert await toolkit.aclose() == []  # and no second record
    assert len([record for record in caplog.records if record.name == "aionet"]) == 1


@pytest.mark.asyncio
async def test_closing_with_nothing_left_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    async with aionet.NetworkToolkit() as toolkit, server_at_home():
        pass
    assert await toolkit.aclose() == []
    assert [record for record in caplog.records if record.name.startswith("aionet")] == []


@pytest.mark.asyncio
async def test_closing_delivers_the_last_reply() -> None:
    with RawListener() as listener:
        async with aionet.NetworkToolkit():
            sock = await aionet.AsyncTcpSocket().connect_to(listener.address)
            peer = await listener.accept()
            await sock.write(b"last words")
        with peer:
            assert await peer.receive_to_end() == b"last words"


@pytest.mark.asyncio
async def test_closing_wakes_who_waits() -> None:
    async with aionet.NetworkToolkit():
        server = server_at_home()
        client = await aionet.AsyncTcpSocket().connect_to(server.address)
        accepted = await server.accept()
        waiting = [await begin(call) for call in (server.accept(), client.read(), accepted.read())]
    for task in waiting:
        with pytest.raises(aionet.SocketClosedError):
            await task


@pytest.mark.asyncio
@pytest.mark.parametrize("turns", [1, 2, 3, 5])
async def test_closing_that_is_cancelled_closes_all_the_same(turns: int) -> None:
    with RawListener() as listener:
        toolkit = aionet.NetworkToolkit(options=aionet.TcpOptions(linger=30.0))
        await toolkit.__aenter__()
        socks = [await aionet.AsyncTcpSocket().connect_to(listener.address) for _ in range(3)]
        # None of them can be closed in good order in time.
        stuck = [await begin(sock.write(bytes(32 << 20))) for sock in socks]
        closing = asyncio.create_task(toolkit.aclose())
        await give_turns(turns)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await give_turns(3)
        closed = [(sock.closed, sock.fileno()) for sock in socks]
        for sock, task in zip(socks, stuck, strict=True):
            sock.abort()
            with pytest.raises(aionet.SocketClosedError):
                await task
        assert closed == [(True, -1)] * 3
        assert toolkit.open_sockets == frozenset()


# Nesting ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_inner_one_is_in_force_until_it_is_left() -> None:
    async with aionet.NetworkToolkit(options=NAGLE) as outer:
        server = server_at_home()
        async with aionet.NetworkToolkit(options=aionet.TcpOptions(nodelay=True)) as inner:
            first = await aionet.AsyncTcpSocket().connect_to(server.address)
            assert nodelay(first)
            assert inner.open_sockets == {first}
            assert outer.open_sockets == {server}
        assert first.closed
        assert not server.closed
        second = await aionet.AsyncTcpSocket().connect_to(server.address)
        assert not nodelay(second)
        assert outer.open_sockets == {server, second}
        await second.aclose()
        await server.aclose()


@pytest.mark.asyncio
async def test_it_is_entered_once_at_a_time() -> None:
    toolkit = aionet.NetworkToolkit()
    async with toolkit:
        with pytest.raises(RuntimeError, match="already"):
            await toolkit.__aenter__()


# Outside of a loop --------------------------------------------------------------------------------------


def test_it_can_be_made_outside_of_a_loop_and_used_in_one_after_the_other() -> None:
    toolkit = aionet.NetworkToolkit(options=NAGLE)

    async def use() -> None:
        async with toolkit:
            assert not nodelay(await aionet.AsyncTcpSocket().connect_to(server_at_home().address))

    for _ in range(2):
        with asyncio.Runner() as runner:
            runner.run(use())


def test_a_server_and_a_socket_made_outside_of_a_loop_work_in_one() -> None:
    server, client = server_at_home(), aionet.AsyncTcpSocket()

    async def use() -> bytes:
        async with server, client:
            await client.connect_to(server.address)
            async with await server.accept() as accepted:
                await client.write(b"hello")
                return await accepted.read()

    with asyncio.Runner() as runner:
        assert runner.run(use()) == b"hello"


def test_entering_it_needs_a_loop() -> None:
    entering = aionet.NetworkToolkit().__aenter__()
    with pytest.raises(RuntimeError, match="no running event loop"):
        entering.send(None)


# The engine ---------------------------------------------------------------------------------------------


def test_another_engine_than_the_one_that_runs_is_refused() -> None:
    other = "native" if aionet.implementation() == "portable" else "portable"
    with pytest.raises(RuntimeError, match=other):
        aionet.NetworkToolkit(engine=other)
    with pytest.raises((RuntimeError, ValueError), match="nonsense"):
        aionet.NetworkToolkit(engine="nonsense")
    aionet.NetworkToolkit(engine=aionet.implementation())


@pytest.mark.asyncio
async def test_many_are_closed_with_turns_in_between(caplog: pytest.LogCaptureFixture) -> None:
    turns: list[int] = []

    class Closing:
        def __init__(self, number: int) -> None:
            self._number = number

        def __repr__(self) -> str:
            return f"<socket {self._number:03}>"

        async def aclose(self) -> None:
            turns.append(turn)

    turn = 0

    def count() -> None:
        nonlocal turn, handle
        turn += 1
        handle = asyncio.get_running_loop().call_soon(count)

    toolkit = aionet.NetworkToolkit()
    toolkit._ledger.update(Closing(number) for number in range(200))
    handle = asyncio.get_running_loop().call_soon(count)
    closed = await toolkit.aclose()
    handle.cancel()
    assert closed == [f"<socket {number:03}>" for number in range(200)]
    assert len(turns) == 200
    assert max(map(turns.count, turns)) <= 64
    assert "the toolkit closed 200" in caplog.text
    assert caplog.text.endswith("and 180 more\n")
