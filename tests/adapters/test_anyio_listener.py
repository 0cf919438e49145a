"""`AionetListener`: what anyio's own socket listeners do, over our servers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import Listener, SocketAttribute
from anyio.streams.stapled import MultiListener
from helpers import begin, needs_ipv6
from peers import RawPeer

from aionet import AsyncTcpConnectionServer, AsyncUnixConnectionServer, SocketAddress
from aionet.adapters.anyio import AionetByteStream, AionetListener

pytestmark = pytest.mark.asyncio

MakeListener = Callable[[], Awaitable[Any]]


async def our_listener() -> AionetListener:
    return AionetListener(AsyncTcpConnectionServer(("127.0.0.1", 0)))


async def anyios_listener() -> anyio.abc.SocketListener:
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1")
    return multi.listeners[0]


both = pytest.mark.parametrize("make", [our_listener, anyios_listener], ids=["ours", "anyio's"])
"""Tests that hold for anyio's own listener too: the adapter does what that does."""


@asynccontextmanager
async def client_of(listener: Listener[Any]) -> AsyncIterator[RawPeer]:
    with await RawPeer.connect(listener.extra(SocketAttribute.local_address)) as peer:
        yield peer


async def echo(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send(chunk)
        await stream.send_eof()


@both
async def test_serve_runs_a_handler_per_client_in_the_task_group(make: MakeListener) -> None:
    async with await make() as listener, AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo, tasks)
        peers = [await stack.enter_async_context(client_of(listener)) for _ in range(10)]
        for number, peer in enumerate(peers):
            peer.send_now(b"hello %d" % number)
        for number, peer in enumerate(peers):
            peer.half_close()
            assert await peer.receive_to_end() == b"hello %d" % number
        tasks.cancel_scope.cancel()


@both
async def test_serve_makes_a_task_group_of_its_own_whose_handlers_end_with_it(make: MakeListener) -> None:
    ended = []

    async def until_cancelled(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                await stream.send(b"hello")
                await stream.receive()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    async with await make() as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, until_cancelled)
        async with client_of(listener) as peer:
            assert await peer.receive_exactly(5) == b"hello"
            tasks.cancel_scope.cancel()
    assert ended == ["cancelled"]


@both
async def test_closing_ends_serve(make: MakeListener) -> None:
    listener = await make()
    serving = await begin(listener.serve(echo))
    await listener.aclose()
    with pytest.raises(ExceptionGroup) as caught:
        await serving
    assert caught.group_contains(anyio.ClosedResourceError)


@both
async def test_closing_wakes_accept_and_refuses_the_next(make: MakeListener) -> None:
    listener = await make()
    waiting = await begin(listener.accept())
    await listener.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await waiting
    with pytest.raises(anyio.ClosedResourceError):
        await listener.accept()
    await listener.aclose()


@both
async def test_a_second_acceptor_is_told_that_the_listener_is_busy(make: MakeListener) -> None:
    async with await make() as listener:
        waiting = await begin(listener.accept())
        with pytest.raises(anyio.BusyResourceError):
            await listener.accept()
        async with client_of(listener), await waiting:
            pass


@both
async def test_attributes_are_those_of_the_raw_socket(make: MakeListener) -> None:
    async with await make() as listener:
        raw_socket = listener.extra(SocketAttribute.raw_socket)
        assert listener.extra(SocketAttribute.local_address) == raw_socket.getsockname()
        assert listener.extra(SocketAttribute.local_port) == raw_socket.getsockname()[1]
        assert listener.extra(SocketAttribute.family) == raw_socket.family == socket.AF_INET
        assert listener.extra(SocketAttribute.remote_address, None) is None


async def test_accept_is_cancelled_without_losing_the_client() -> None:
    async with await our_listener() as listener:
        for _ in range(20):
            with anyio.move_on_after(0):
                await listener.accept()
            task = await begin(listener.accept())
            async with client_of(listener) as peer:
                task.cancel()
                await asyncio.wait([task])
                stream = await listener.accept() if task.cancelled() else task.result()
                async with stream:
                    assert stream.extra(SocketAttribute.remote_address) == peer.sock.getsockname()


async def test_accept_is_a_checkpoint_even_if_a_client_is_there() -> None:
    async with await our_listener() as listener, client_of(listener):
        others = []
        asyncio.get_running_loop().call_soon(others.append, "ran")
        async with await listener.accept():
            assert others


async def test_what_is_accepted_is_a_stream_over_our_socket() -> None:
    async with (
        await our_listener() as listener,
        client_of(listener) as peer,
        await listener.accept() as stream,
    ):
        assert isinstance(stream, AionetByteStream)
        assert stream.extra(SocketAttribute.remote_address) == peer.sock.getsockname()


async def test_a_handler_that_raises_ends_the_task_group() -> None:
    async def crash(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            raise LookupError("oops")

    async with await our_listener() as listener:
        serving = await begin(listener.serve(crash))
        async with client_of(listener):
            with pytest.raises(ExceptionGroup) as caught:
                await serving
        assert caught.group_contains(LookupError)


async def test_a_listening_socket_that_breaks_is_a_broken_resource() -> None:
    async with await our_listener() as listener:
        raw_socket = listener.extra(SocketAttribute.raw_socket)
        raw_socket.shutdown(socket.SHUT_RDWR)  # accept(2) says EINVAL from now on
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await listener.accept()
        assert isinstance(caught.value.__cause__, OSError)


async def test_closing_is_a_checkpoint_and_closes_before_it() -> None:
    listener = await our_listener()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await listener.aclose()
    assert scope.cancelled_caught
    assert dict(listener.extra_attributes) == {}
    with pytest.raises(anyio.ClosedResourceError):
        await listener.accept()


async def test_a_unix_server_is_a_listener_too(tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    async with AionetListener(AsyncUnixConnectionServer(path)) as listener:
        assert listener.extra(SocketAttribute.local_address) == path
        assert listener.extra(SocketAttribute.family) == socket.AF_UNIX
        assert listener.extra(SocketAttribute.local_port, None) is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, echo, tasks)
            async with await anyio.connect_unix(path) as client:
                await client.send(b"hello")
                assert await client.receive() == b"hello"
            tasks.cancel_scope.cancel()


@needs_ipv6
async def test_a_server_on_both_families_tells_the_port_and_serves_both() -> None:
    async with AionetListener(AsyncTcpConnectionServer(SocketAddress(0))) as listener:
        port = listener.extra(SocketAttribute.local_port)
        assert listener.extra(SocketAttribute.raw_socket).getsockname()[1] == port
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, echo, tasks)
            for host in ("127.0.0.1", "::1"):
                async with await anyio.connect_tcp(host, port) as client:
                    await client.send(b"hello")
                    assert await client.receive() == b"hello"
                    expected = client.extra(SocketAttribute.raw_socket).family
                    assert expected == (socket.AF_INET6 if ":" in host else socket.AF_INET)
            tasks.cancel_scope.cancel()


async def test_anyios_multi_listener_serves_several_of_ours() -> None:
    ours = [await our_listener(), await our_listener()]
    async with MultiListener(ours) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo, tasks)
        for one in ours:
            async with client_of(one) as peer:
                peer.send_now(b"hello")
                assert await peer.receive_exactly(5) == b"hello"
        tasks.cancel_scope.cancel()


async def test_repr_tells_the_server() -> None:
    server = AsyncTcpConnectionServer(("127.0.0.1", 0))
    async with AionetListener(server) as listener:
        assert repr(server) in repr(listener)
