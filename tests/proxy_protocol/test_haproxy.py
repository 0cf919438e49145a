"""A real HAProxy between client and server, as sender and as receiver of headers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme
from peers import PATIENCE, RawListener, RawPeer

import aionet
from aionet import AsyncTcpConnectionServer, ProxyHeader, ProxyProtocol, ProxyProtocolError, SocketAddress
from aionet.proxy_protocol import parse_header

from .haproxy import HaProxy

pytestmark = [pytest.mark.asyncio, pytest.mark.requires_program("haproxy")]

CLIENT, SERVER = SocketAddress("203.0.113.7", 56324), SocketAddress("198.51.100.1", 443)


class App:
    """The server behind HAProxy: it says in capitals what it is told, and notes whom it served."""

    def __init__(self, trusted: tuple[str, ...] = ("127.0.0.1/32",)) -> None:
        self.served: asyncio.Queue[Any] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self._proxy = ProxyProtocol(trusted=trusted)
        self._spawner = aionet.ConnectionSpawner(self._handle)

    async def _handle(self, accepted: Any) -> None:
        try:
            async with asyncio.timeout(30):
                await self._proxy(accepted)
        except ProxyProtocolError as error:
            self.errors.put_nowait(error)
            return
        self.served.put_nowait((accepted.proxy_header, accepted.peer_address, accepted.local_address))
        async for chunk in accepted:
            await accepted.write(chunk.upper())

    async def next_client(self) -> Any:
        """Whom it serves next, health checks aside."""
        while True:
            found = await self.served.get()
            if found[0].command != "local":
                return found

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = AsyncTcpConnectionServer(("127.0.0.1", 0))
        serving = asyncio.create_task(self._spawner.serve(server))
        try:
            yield server.address.port
        finally:
            await self._spawner.drain(grace=1)
            await serving


@pytest_asyncio.fixture
async def app() -> AsyncIterator[tuple[App, HaProxy]]:
    app = App()
    async with app.running() as port:
        with HaProxy(port) as haproxy:
            yield app, haproxy


async def converse(address: tuple[str, int], data: bytes, expected: bytes) -> SocketAddress:
    """Send `data`, half-close, and expect `expected`; return the address that the client had."""
    with await RawPeer.connect(address) as peer:
        await peer.send(data)
        peer.half_close()
        assert await peer.receive_to_end() == expected
        return SocketAddress.from_sockaddr(peer.sock.getsockname())


@pytest.mark.parametrize(("front", "version"), [("FRONT", 2), ("FRONT_V1", 1)])
async def test_the_client_is_known_and_nothing_is_lost(app: Any, front: str, version: int) -> None:
    server, haproxy = app
    payload = b"hello, there. " * 20_000
    for data in (b"", b"x", payload):
        client = await converse(haproxy.address(front), data, data.upper())
        header, peer, local = await server.next_client()
        assert (header.version, header.transport) == (version, "stream")
        assert (peer, local) == (client, SocketAddress(*haproxy.address(front)))
        assert (header.source, header.destination) == (peer, local)
        if version == 2:
            assert header.unique_id
            assert f"{client.port:04X}".encode() in header.unique_id


async def test_the_checksum_is_the_one_that_haproxy_computes() -> None:
    with (
        RawListener() as listener,
        HaProxy(listener.port) as haproxy,
        await RawPeer.connect(haproxy.address("FRONT")),
    ):
        data = b""
        while data[12:13] != b"\x21":  # a health check came first
            with await listener.accept() as receiver:
                data = await receiver.receive()
    checksum = data.index(b"\x03\x00\x04") + 3
    assert parse_header(data) is not None
    for place in (*range(16, 28), *range(checksum, checksum + 4), len(data) - 1):  # ends, checksum, a value
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(ProxyProtocolError):
            parse_header(bytes(changed))


async def test_health_checks_are_local(app: Any) -> None:
    server, _ = app
    async with asyncio.timeout(10):
        header, peer, local = await server.served.get()
    assert header == ProxyHeader(command="local")
    assert peer != header.source
    assert str(peer).startswith("127.0.0.1:")
    assert local is not None


@pytest.mark.parametrize(
    "built",
    [
        ProxyHeader(version=1, source=CLIENT, destination=SERVER).to_bytes(),
        ProxyHeader(source=CLIENT, destination=SERVER).to_bytes(),
        ProxyHeader(source=CLIENT, destination=SERVER, tlvs=((0xE0, b"ours"),)).to_bytes(checksum=True),
        ProxyHeader(
            version=1, source=SocketAddress("2001:db8::7", 1), destination=SocketAddress("2001:db8::1", 2)
        ).to_bytes(),
        ProxyHeader(
            source=SocketAddress("2001:db8::7", 1), destination=SocketAddress("2001:db8::1", 2)
        ).to_bytes(checksum=True),
    ],
)
async def test_haproxy_reads_our_headers(app: Any, built: bytes) -> None:
    server, haproxy = app
    await converse(haproxy.address("FRONT_CHAINED"), built + b"payload", b"PAYLOAD")
    _, peer, local = await server.next_client()
    assert (peer, local) in [
        (CLIENT, SERVER),
        (SocketAddress("2001:db8::7", 1), SocketAddress("2001:db8::1", 2)),
    ]
    assert str(peer.ip) in str(built) or peer.ip.packed in built


async def test_haproxy_reads_our_local_header(app: Any) -> None:
    server, haproxy = app
    client = await converse(
        haproxy.address("FRONT_CHAINED"), ProxyHeader(command="local").to_bytes() + b"x", b"X"
    )
    _, peer, _ = await server.next_client()
    assert peer == client


async def test_a_haproxy_that_is_not_trusted() -> None:
    server = App(trusted=("10.0.0.0/8",))
    async with server.running() as port:
        with HaProxy(port) as haproxy:
            with contextlib.suppress(ConnectionResetError):
                await converse(haproxy.address("FRONT_V1"), b"x", b"")
            assert "not trusted" in str(await server.errors.get())
    assert server.served.empty()


@pytest.mark.parametrize("with_certificate", [True, False])
async def test_what_tls_at_haproxy_was_like(tmp_path: Path, with_certificate: bool) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("app.example")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    if with_certificate:
        authority.issue_cert("client.example", common_name="client 7").configure_cert(context)
    server = App()
    async with server.running() as port:
        with HaProxy(
            port, CERTIFICATE=str(tmp_path / "server.pem"), CLIENT_CA=str(tmp_path / "ca.pem")
        ) as haproxy:
            used = await asyncio.to_thread(_converse_over_tls, context, haproxy.address("FRONT_TLS"))
            header, _, _ = await server.next_client()
    assert (header.authority, header.alpn) == ("app.example", b"h2")
    assert (header.tls.encrypted, header.tls.version) == (True, used)
    assert header.tls.cipher
    assert header.tls.signature_algorithm
    assert header.tls.key_algorithm
    assert header.tls.verify == 0, "also without a certificate: the trap"
    assert header.tls.client_verified is with_certificate
    assert header.tls.common_name == ("client 7" if with_certificate else None)


def _converse_over_tls(context: ssl.SSLContext, address: tuple[str, int]) -> str | None:
    """Have a word with the server; return the version of TLS that was agreed on with HAProxy."""
    with (
        socket.create_connection(address, timeout=PATIENCE) as sock,
        context.wrap_socket(sock, server_hostname="app.example") as secured,
    ):
        secured.sendall(b"hello")
        assert secured.recv(100) == b"HELLO"
        return secured.version()
