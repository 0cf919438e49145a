"""`ProxyProtocol` in front of a handler: what it reads, whom it trusts, what it refuses and how.

The handler is what a server would run: the preface under a deadline, then the service. Clients are raw.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from helpers import begin, give_turns, needs_ipv6, until
from peers import RawPeer

import aionet
from aionet import (
    AsyncTcpConnectionServer,
    AsyncUnixConnectionServer,
    ConnectionLostError,
    ProxyHeader,
    ProxyProtocol,
    ProxyProtocolError,
    SocketAddress,
    SocketBusyError,
    UnixAddress,
)

from .strategies import EXAMPLES, SIGNATURE, tlv, v2

pytestmark = pytest.mark.asyncio

CLIENT, SERVER = SocketAddress("192.0.2.7", 56324), SocketAddress("198.51.100.1", 443)
HEADERS = [
    ProxyHeader(version=1, source=CLIENT, destination=SERVER),
    ProxyHeader(source=CLIENT, destination=SERVER, tlvs=((0x05, b"id"), (0xE0, bytes(300)))),
]
both_versions = pytest.mark.parametrize("header", HEADERS, ids=["v1", "v2"])


@contextlib.asynccontextmanager
async def connected(host: str = "127.0.0.1", source: str = "") -> AsyncIterator[tuple[Any, RawPeer]]:
    """A socket that a server accepted, and the raw client."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    async with AsyncTcpConnectionServer((host, 0)) as server:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with RawPeer(sock) as peer:
            if source:
                sock.bind((source, 0))
            sock.connect((host, server.address.port))
            async with await server.accept() as accepted:
                yield accepted, peer


async def refused(proxy: ProxyProtocol, accepted: Any) -> str:
    """The one reason for which `proxy` refuses the connection."""
    peer, local = accepted.peer_address, accepted.local_address
    with pytest.raises(ProxyProtocolError) as caught:
        async with asyncio.timeout(30):
            await proxy(accepted)
    error = caught.value
    assert (error.operation, error.peer_address, error.local_address) == ("proxy_header", peer, local)
    assert (accepted.peer_address, accepted.proxy_header) == (peer, None)
    message = str(error)
    assert message.startswith(f"proxy_header {local}->{peer}: ")
    return message.partition(": ")[2]


# What is read -----------------------------------------------------------------------------------------


@both_versions
async def test_the_payload_in_the_same_segment_stays(header: ProxyHeader) -> None:
    async with connected() as (accepted, peer):
        peer.send_now(header.to_bytes() + b"hello\nrest")
        assert await ProxyProtocol()(accepted) == header
        assert await accepted.read_line() == b"hello\n"
        peer.send_now(b" and more")
        peer.half_close()
        assert b"".join([chunk async for chunk in accepted]) == b"rest and more"


@both_versions
async def test_the_ends_are_those_of_the_header(header: ProxyHeader) -> None:
    async with connected() as (accepted, peer):
        real = accepted.peer_address
        assert accepted.proxy_header is None
        peer.send_now(header.to_bytes())
        await ProxyProtocol()(accepted)
        assert (accepted.peer_address, accepted.local_address) == (CLIENT, SERVER)
        assert accepted.proxy_header == header
        assert SocketAddress.from_sockaddr(accepted.raw_socket.getpeername()) == real
        assert str(CLIENT) in repr(accepted)
        peer.reset()
        with pytest.raises(ConnectionLostError) as caught:
            await accepted.read()
        assert (caught.value.peer_address, caught.value.local_address) == (CLIENT, SERVER)


@both_versions
async def test_a_header_that_comes_byte_by_byte(header: ProxyHeader) -> None:
    async with connected() as (accepted, peer):
        reading = await begin(ProxyProtocol()(accepted))
        for byte in header.to_bytes():
            assert not reading.done()
            peer.send_now(bytes([byte]))
            await give_turns(2)
        assert await reading == header
        peer.send_now(b"payload")
        assert await accepted.read() == b"payload"


@both_versions
async def test_nothing_beyond_the_header_is_waited_for(header: ProxyHeader) -> None:
    """Protocols in which the server speaks first have nothing to come."""
    async with connected() as (accepted, peer):
        peer.send_now(header.to_bytes())
        await ProxyProtocol()(accepted)
        await accepted.write(b"220 welcome\r\n")
        assert await peer.receive() == b"220 welcome\r\n"


@pytest.mark.parametrize("data", EXAMPLES)
async def test_every_kind_of_header(data: bytes) -> None:
    async with connected() as (accepted, peer):
        ends = accepted.peer_address, accepted.local_address
        peer.send_now(data + b"payload")
        header = await ProxyProtocol()(accepted)
        if header.source is None:  # LOCAL, UNKNOWN: the real ones
            assert (accepted.peer_address, accepted.local_address) == ends
        else:
            assert (accepted.peer_address, accepted.local_address) == (header.source, header.destination)
        assert accepted.proxy_header is header
        assert await accepted.read() == b"payload"


async def test_tlvs_are_readable() -> None:
    async with connected() as (accepted, peer):
        block = (
            bytes(12)
            + tlv(0x01, b"h2")
            + tlv(0x02, b"a.example")
            + tlv(0x20, b"\1\0\0\0\0" + tlv(0x21, b"TLSv1.3"))
        )
        peer.send_now(v2(0x11, block))
        await ProxyProtocol()(accepted)
        header = accepted.proxy_header
        assert (header.alpn, header.authority, header.tls.version) == (b"h2", "a.example", "TLSv1.3")


async def test_a_second_header_is_payload_and_may_not_be_read() -> None:
    """The presented address must not be taken for that of a proxy."""
    async with connected() as (accepted, peer):
        inside = ProxyHeader.between(SocketAddress("127.0.0.9", 1), SERVER).to_bytes()
        peer.send_now(inside + inside)
        await ProxyProtocol()(accepted)
        with pytest.raises(SocketBusyError):
            await ProxyProtocol()(accepted)
        assert await accepted.read() == inside


# What is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "found b'GET / HTTP/1.1\\r\\n': expected a PROXY protocol header"),
        (b"G", "found b'G'"),
        (b"\x16\x03\x01", "found b'\\x16\\x03\\x01'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", "3 fields after TCP4"),
        (b"PROXY UNKNOWN ".ljust(107, b"x"), "no CRLF within 107 bytes"),
        (b"PROXY UNKNOWN ".ljust(60_000, b"x"), "no CRLF within 107 bytes"),
        (v2(0x11, b"", length=4097), "4097 bytes after the first 16 of the header: 4096 are allowed"),
        (v2(0x11, b"", length=65535), "65535 bytes after"),
        (v2(0x51, bytes(40)), "family and transport 0x51"),
    ],
)
async def test_malformed_and_oversized_headers_are_refused_at_once(data: bytes, reason: str) -> None:
    async with connected() as (accepted, peer):
        peer.send_now(data)
        assert (await refused(ProxyProtocol(), accepted)).startswith(reason)


@pytest.mark.parametrize("data", [b"P", b"\r", b"\r\n\r\n\0\r\nQUIT"])
async def test_a_header_that_turns_out_to_be_none(data: bytes) -> None:
    async with connected() as (accepted, peer):
        refusing = await begin(refused(ProxyProtocol(), accepted))
        peer.send_now(data)
        await give_turns()
        assert not refusing.done()
        peer.send_now(b"\r\n".rjust(16, b"?"))
        assert "expected" in await refusing


@both_versions
async def test_the_stream_ends_in_the_middle(header: ProxyHeader) -> None:
    built = header.to_bytes()
    for end, reason in [
        (0, "the stream ended before the header"),
        (3, "in the middle"),
        (20, "in the middle"),
    ]:
        async with connected() as (accepted, peer):
            peer.send_now(built[:end])
            peer.half_close()
            assert reason in await refused(ProxyProtocol(), accepted)


@both_versions
async def test_a_reset_in_the_middle_is_a_lost_connection(header: ProxyHeader) -> None:
    async with connected() as (accepted, peer):
        reading = await begin(ProxyProtocol()(accepted))
        peer.send_now(header.to_bytes()[:20])
        await give_turns()
        peer.reset()
        with pytest.raises(ConnectionLostError):
            await reading


@pytest.mark.parametrize("data", [b"", b"PROXY TCP4 1.2", SIGNATURE, v2(0x11, b"x", length=12)])
async def test_a_slow_header_ends_at_the_deadline(data: bytes) -> None:
    async with connected() as (accepted, peer):
        peer.send_now(data)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ProxyProtocol()(accepted)
        assert accepted.proxy_header is None


async def test_an_incomplete_header_holds_no_more_than_its_cap() -> None:
    async with connected() as (accepted, peer):
        reading = await begin(ProxyProtocol(max_header_bytes=65535)(accepted))
        peer.send_now(v2(0x00, b"", length=65535))
        held = 0
        for _ in range(64):
            peer.send_now(bytes(1000))
            await give_turns(2)
            held = max(held, len(accepted._received))
        assert not reading.done()
        assert held <= 65535 + 16
        reading.cancel()
        await asyncio.wait([reading])


# Who is trusted ---------------------------------------------------------------------------------------

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="127.0.0.2 is an address of this host on Linux"
)


@linux_only
@pytest.mark.parametrize("data", [b"", b"GET", HEADERS[0].to_bytes(), HEADERS[1].to_bytes()])
async def test_who_is_not_the_proxy_is_refused_header_or_not(data: bytes) -> None:
    async with connected(source="127.0.0.2") as (accepted, peer):
        peer.send_now(data)
        reason = await refused(ProxyProtocol(trusted=("127.0.0.1/32", "10.0.0.0/8", "unix")), accepted)
        assert reason == "the peer is not trusted as a proxy"


@linux_only
@pytest.mark.parametrize(
    "trusted",
    [["127.0.0.2"], ["10.0.0.0/8", "127.0.0.2/31"], [ip_network("127.0.0.0/8")], ("0.0.0.0/0",)],
)
async def test_trusted_networks(trusted: Any) -> None:
    async with connected(source="127.0.0.2") as (accepted, peer):
        peer.send_now(HEADERS[1].to_bytes())
        assert await ProxyProtocol(trusted=trusted)(accepted) == HEADERS[1]


@needs_ipv6
async def test_ipv6_peers() -> None:
    async with connected("::1") as (accepted, peer):
        assert await refused(ProxyProtocol(trusted=["0.0.0.0/0"]), accepted)
        peer.send_now(HEADERS[1].to_bytes())
        assert await ProxyProtocol()(accepted) == HEADERS[1]


@needs_ipv6
async def test_an_ipv4_peer_of_a_socket_for_both_families_is_an_ipv4_peer() -> None:
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    async with AsyncTcpConnectionServer.from_fd(listener.detach()) as server:
        with RawPeer(socket.create_connection(("127.0.0.1", server.address.port))) as peer:
            async with await server.accept() as accepted:
                assert accepted.peer_address.host == "::ffff:127.0.0.1"
                assert await refused(ProxyProtocol(trusted=["::1", "10.0.0.0/8"]), accepted)
                peer.send_now(HEADERS[1].to_bytes())
                assert await ProxyProtocol(trusted=["127.0.0.1"])(accepted) == HEADERS[1]


async def test_unix_peers_are_trusted_where_it_says_so(tmp_path: Path) -> None:
    async with AsyncUnixConnectionServer(tmp_path / "s") as server:
        with await RawPeer.connect(server.address.path, socket.AF_UNIX) as peer:
            async with await server.accept() as accepted:
                with pytest.raises(ProxyProtocolError, match="not trusted"):
                    await ProxyProtocol(trusted=["0.0.0.0/0", "::/0"])(accepted)
                peer.send_now(HEADERS[1].to_bytes() + b"payload")
                await ProxyProtocol(trusted=["unix"])(accepted)
                assert (accepted.peer_address, accepted.local_address) == (CLIENT, SERVER)
                assert await accepted.read() == b"payload"


async def test_a_unix_client_of_a_tcp_proxy() -> None:
    async with connected() as (accepted, peer):
        unix = UnixAddress("/run/app")
        peer.send_now(ProxyHeader.between(UnixAddress(""), unix).to_bytes())
        await ProxyProtocol()(accepted)
        assert (accepted.peer_address, accepted.local_address) == (UnixAddress(""), unix)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trusted": "127.0.0.1"}, TypeError, "several networks"),
        ({"trusted": ()}, ValueError, "at least one"),
        ({"trusted": ["127.0.0.1/8"]}, ValueError, "host bits"),
        ({"trusted": ["localhost"]}, ValueError, "localhost"),
        ({"trusted": [0]}, TypeError, "not 0"),
        ({"max_header_bytes": -1}, ValueError, "0 to 65535"),
        ({"max_header_bytes": 65536}, ValueError, "0 to 65535"),
        ({"max_header_bytes": 1.5}, TypeError, "whole number"),
    ],
)
async def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ProxyProtocol(**arguments)


# In front of a handler --------------------------------------------------------------------------------


class Service:
    """A spawner whose handler has the header read first, under a deadline, and notes how that ended."""

    def __init__(self, proxy: ProxyProtocol, deadline: float = 5.0) -> None:
        self.proxy, self.deadline = proxy, deadline
        self.reasons: list[str] = []
        self.spawner = aionet.ConnectionSpawner(self._handle)

    async def _handle(self, accepted: Any) -> None:
        try:
            async with asyncio.timeout(self.deadline):
                await self.proxy(accepted)
        except (ProxyProtocolError, ConnectionLostError, TimeoutError) as error:
            self.reasons.append(type(error).__name__)
            accepted.abort()
            return
        await accepted.write(f"{accepted.peer_address} ".encode())
        async for chunk in accepted:
            await accepted.write(chunk)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = AsyncTcpConnectionServer(("127.0.0.1", 0))
        serving = asyncio.create_task(self.spawner.serve(server))
        try:
            yield server.address.port
        finally:
            await self.spawner.drain(grace=5)
            await serving


async def test_good_connections_are_served_among_all_kinds_of_bad_ones() -> None:
    service = Service(ProxyProtocol(), deadline=0.2)
    bad = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 ",
        b"",
        v2(0x11, b"", length=5000),
        SIGNATURE + b"\x99" * 4,
    ]
    async with service.running() as port, contextlib.AsyncExitStack() as stack:
        for data in bad:
            peer = stack.enter_context(await RawPeer.connect(("127.0.0.1", port)))
            peer.send_now(data)
        for number, header in enumerate(HEADERS * 5):
            with await RawPeer.connect(("127.0.0.1", port)) as peer:
                peer.send_now(header.to_bytes() + b"%d" % number)
                peer.half_close()
                assert await peer.receive_to_end() == b"%s %d" % (str(CLIENT).encode(), number)
        await until(lambda: len(service.reasons) == len(bad))
    assert sorted(service.reasons) == ["ProxyProtocolError"] * 3 + ["TimeoutError"] * 2
    stats = service.spawner.stats
    assert (stats.completed, stats.disconnected) == (10, len(bad))


async def test_a_peer_that_dribbles_for_ever_is_ended_by_the_deadline() -> None:
    service = Service(ProxyProtocol(), deadline=0.1)
    async with service.running() as port:
        with await RawPeer.connect(("127.0.0.1", port)) as peer:
            dribbling = peer.in_thread(lambda sock: [sock.sendall(b"P"), sock.recv(1)])
            with pytest.raises(ConnectionResetError):
                await dribbling
    assert service.reasons == ["TimeoutError"]
