"""anyio's `TLSStream` over our sockets, against itself and against the standard library's blocking one."""

from __future__ import annotations

import asyncio
import socket
import ssl

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSListener, TLSStream
from anyio_pairs import stream_and_peer, two_streams
from peers import PATIENCE, RawListener

from aionet import AsyncTcpConnectionServer, AsyncTcpSocket
from aionet.adapters.anyio import AionetAttribute, AionetByteStream, AionetListener

pytestmark = pytest.mark.asyncio

HOST = "server.example"
LARGE = bytes(range(256)) * 4096  # 1 MiB: many records, and more than the kernel's buffers hold


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and a client's that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    for context in (server, client):
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return server, client


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def echo(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send(chunk)


async def test_client_and_server_speak_with_each_other(contexts: Contexts) -> None:
    async with AionetListener(AsyncTcpConnectionServer(("127.0.0.1", 0))) as plain:
        listener = TLSListener(plain, contexts[0])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, echo)
            sock = await AsyncTcpSocket().connect_to(plain.extra(SocketAttribute.local_address))
            client = await TLSStream.wrap(AionetByteStream(sock), hostname=HOST, ssl_context=contexts[1])
            async with client:
                tasks.start_soon(client.send, LARGE)
                received = bytearray()
                while len(received) < len(LARGE):
                    received += await client.receive()
                assert received == LARGE
                assert client.extra(TLSAttribute.tls_version) == "TLSv1.3"
                assert client.extra(AionetAttribute.socket) is sock
            tasks.cancel_scope.cancel()


async def test_a_blocking_client_speaks_with_our_server(contexts: Contexts) -> None:
    def converse(sock: socket.socket) -> bytes:
        with contexts[1].wrap_socket(sock.dup(), server_hostname=HOST) as tls:
            tls.settimeout(PATIENCE)
            tls.sendall(b"hello")
            received = tls.recv(100)
            tls.unwrap().close()
            return received

    async with stream_and_peer() as (stream, peer):
        client = peer.in_thread(converse)
        async with await TLSStream.wrap(stream, server_side=True, ssl_context=contexts[0]) as server:
            await echo(server)
        assert await client == b"hello"


async def test_our_client_speaks_with_a_blocking_server(contexts: Contexts) -> None:
    def serve(listening: socket.socket) -> bytes:
        sock, _ = listening.accept()
        sock.settimeout(PATIENCE)
        with contexts[0].wrap_socket(sock, server_side=True) as tls:
            received = bytearray()
            while len(received) < len(LARGE):
                received += tls.recv(65536)
            tls.sendall(b"thank you")
            tls.unwrap().close()
            return bytes(received)

    with RawListener() as listening:
        server = asyncio.ensure_future(asyncio.to_thread(serve, listening.sock))
        sock = await AsyncTcpSocket().connect_to(listening.address)
        stream = AionetByteStream(sock)
        async with await TLSStream.wrap(stream, hostname=HOST, ssl_context=contexts[1]) as client:
            await client.send(LARGE)
            assert await client.receive() == b"thank you"
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
        assert await server == LARGE


async def test_a_stream_that_is_cut_off_is_broken_not_ended(contexts: Contexts) -> None:
    async with two_streams() as (ours, theirs):
        async with anyio.create_task_group() as tasks:
            wrapped = []

            async def serve() -> None:
                wrapped.append(await TLSStream.wrap(theirs, server_side=True, ssl_context=contexts[0]))

            tasks.start_soon(serve)
            client = await TLSStream.wrap(ours, hostname=HOST, ssl_context=contexts[1])
        await theirs.aclose()  # without close_notify
        with pytest.raises(anyio.BrokenResourceError):
            await client.receive()
        assert len(wrapped) == 1


async def test_a_reset_is_a_broken_resource_through_tls_too(contexts: Contexts) -> None:
    async with two_streams() as (ours, theirs):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: TLSStream.wrap(theirs, server_side=True, ssl_context=contexts[0]))
            client = await TLSStream.wrap(ours, hostname=HOST, ssl_context=contexts[1])
        theirs.extra(AionetAttribute.socket).abort()
        with pytest.raises(anyio.BrokenResourceError):
            await client.receive()


async def test_a_certificate_that_is_not_trusted_ends_the_handshake(contexts: Contexts) -> None:
    async with two_streams() as (ours, theirs):
        server = asyncio.ensure_future(TLSStream.wrap(theirs, server_side=True, ssl_context=contexts[0]))
        with pytest.raises(ssl.SSLCertVerificationError):
            await TLSStream.wrap(ours, hostname="someone.else", ssl_context=contexts[1])
        await ours.aclose()
        with pytest.raises((ssl.SSLError, anyio.BrokenResourceError)):
            await server
