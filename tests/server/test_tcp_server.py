"""`AsyncTcpConnectionServer`: where it listens, and with what."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest
from helpers import begin, needs_ipv6, no_descriptors, open_sockets, until
from peers import RawPeer

from aionet import (
    AsyncTcpConnectionServer,
    AsyncTcpSocket,
    KeepAlive,
    NetworkToolkit,
    SocketAddress,
    TcpOptions,
    UnixAddress,
)

pytestmark = pytest.mark.asyncio


async def answer_one(server, address, family=socket.AF_INET):
    with await RawPeer.connect(address, family) as peer:
        accepted = await server.accept()
        peer.send_now(b"x")
        assert await accepted.read() == b"x"
        ends = accepted.local_address, accepted.peer_address
        assert ends[0] == SocketAddress.from_sockaddr(peer.sock.getpeername())
        assert ends[1] == SocketAddress.from_sockaddr(peer.sock.getsockname())
        accepted.abort()


@pytest.mark.parametrize(
    "address",
    [("127.0.0.1", 0), "127.0.0.1:0", SocketAddress("127.0.0.1", 0)],
    ids=["tuple", "text", "address"],
)
async def test_every_kind_of_address(address):
    async with AsyncTcpConnectionServer(address) as server:
        assert server.address.host == "127.0.0.1"
        assert server.address.port
        assert server.addresses == (server.address,)
        assert str(server.address) in repr(server)
        await answer_one(server, ("127.0.0.1", server.address.port))


@needs_ipv6
@pytest.mark.parametrize("address", [0, SocketAddress(0)])
async def test_a_port_alone_is_one_port_on_both_families(address):
    async with AsyncTcpConnectionServer(address) as server:
        port = server.address.port
        assert server.address == SocketAddress(port)
        assert server.addresses == (SocketAddress("0.0.0.0", port), SocketAddress("::", port))
        assert len(server.filenos()) == 2
        for _ in range(3):
            await answer_one(server, ("127.0.0.1", port))
            await answer_one(server, ("::1", port), socket.AF_INET6)


@needs_ipv6
async def test_a_scope_that_names_no_interface():
    before = open_sockets()
    with pytest.raises(OSError, match=r"cannot listen on \[fe80::1%gone0\]:0: no interface") as caught:
        AsyncTcpConnectionServer("[fe80::1%gone0]:0")
    assert caught.value.errno == errno.ENODEV
    assert open_sockets() == before


@needs_ipv6
async def test_both_families_are_served_in_turn():
    async with AsyncTcpConnectionServer(0) as server:
        port = server.address.port
        peers = [await RawPeer.connect(("127.0.0.1", port)) for _ in range(6)]
        late = await RawPeer.connect(("::1", port), socket.AF_INET6)
        hosts = []
        for _ in range(2):
            accepted = await server.accept()
            hosts.append(accepted.peer_address.host)
            accepted.abort()
        assert "::1" in hosts
        for peer in [*peers, late]:
            peer.close()


@needs_ipv6
async def test_waiting_on_both_families():
    async with AsyncTcpConnectionServer(0) as server:
        for family, host in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")):
            accepting = await begin(server.accept())
            with await RawPeer.connect((host, server.address.port), family):
                (await accepting).abort()


@needs_ipv6
async def test_an_ipv6_address_is_for_ipv6_only():
    async with AsyncTcpConnectionServer(("::", 0)) as server:
        with pytest.raises(ConnectionRefusedError):
            await RawPeer.connect(("127.0.0.1", server.address.port))


async def test_a_host_name():
    async with await AsyncTcpConnectionServer.listen(("localhost", 0)) as server:
        assert server.addresses
        for address in server.addresses:
            await answer_one(server, (address.host, address.port), address.family)


NOT_HERE = SocketAddress("240.0.0.1", 0)  # RFC 1112, 4: reserved, and of no host


def resolving_to(*addresses):
    async def resolver(host, port):
        return list(addresses)

    return resolver


@pytest.mark.parametrize("first", [True, False])
async def test_an_address_of_a_name_that_this_host_does_not_have_is_passed_over(first):
    here = SocketAddress("127.0.0.1", 0)
    found = (NOT_HERE, here) if first else (here, NOT_HERE)
    async with (
        NetworkToolkit(resolver=resolving_to(*found)),
        await AsyncTcpConnectionServer.listen("several.example:0") as server,
    ):
        assert [address.host for address in server.addresses] == ["127.0.0.1"]
        await answer_one(server, ("127.0.0.1", server.address.port))


async def test_a_name_of_which_this_host_has_no_address():
    async with NetworkToolkit(resolver=resolving_to(NOT_HERE, SocketAddress("240.0.0.2", 0))):
        with pytest.raises(OSError, match=r"cannot listen on 240\.0\.0\.2:0: ") as caught:
            await AsyncTcpConnectionServer.listen("elsewhere.example:0")
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_an_address_in_use_is_not_passed_over():
    async with AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        found = SocketAddress("127.0.0.2", server.address.port), server.address
        async with NetworkToolkit(resolver=resolving_to(*found)):
            with pytest.raises(OSError, match=f"cannot listen on {server.address}: "):
                await AsyncTcpConnectionServer.listen(("several.example", server.address.port))


async def test_without_a_descriptor_the_address_is_named():
    with no_descriptors(), pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:0: ") as caught:
        AsyncTcpConnectionServer(("127.0.0.1", 0))
    assert caught.value.errno == errno.EMFILE


async def test_listen_takes_numeric_addresses_too():
    async with await AsyncTcpConnectionServer.listen("127.0.0.1:0") as server:
        await answer_one(server, ("127.0.0.1", server.address.port))


async def test_the_constructor_refuses_a_host_name_and_says_what_to_do():
    with pytest.raises(ValueError, match="listen"):
        AsyncTcpConnectionServer(("localhost", 0))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"backlog": 0}, ValueError),
        ({"backlog": -1}, ValueError),
        ({"backlog": 1.5}, TypeError),
        ({"backlog": True}, TypeError),
        ({"backlog": "10"}, TypeError),
        ({"options": {}}, TypeError),
    ],
)
async def test_bad_arguments_are_refused_before_any_io(arguments, error):
    before = open_sockets()
    with pytest.raises(error):
        AsyncTcpConnectionServer(("127.0.0.1", 0), **arguments)
    assert open_sockets() == before


@pytest.mark.parametrize(
    "address", [UnixAddress("/tmp/x"), "unix:/tmp/x", -1, 65536, ("127.0.0.1", 1, 2), None]
)
async def test_bad_addresses_are_refused(address):
    with pytest.raises((TypeError, ValueError)):
        AsyncTcpConnectionServer(address)


async def test_a_backlog_bounds_the_queue():
    async with AsyncTcpConnectionServer(("127.0.0.1", 0), backlog=1) as server:
        sockets = [socket.socket() for _ in range(6)]
        for sock in sockets:
            sock.setblocking(False)
            sock.connect_ex(server.address.sockaddr())
        connected = [
            sock for sock in sockets if not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] - 1
        ]
        assert 1 <= len(connected) < 6
        for sock in sockets:
            sock.close()


async def test_an_address_in_use_is_named():
    before = open_sockets()
    async with AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        with pytest.raises(OSError, match=str(server.address)) as caught:
            AsyncTcpConnectionServer(server.address)
        assert caught.value.errno == errno.EADDRINUSE
    assert open_sockets() == before


@needs_ipv6
async def test_a_port_that_is_taken_on_one_family_leaves_nothing_on_the_other():
    before = open_sockets()
    async with AsyncTcpConnectionServer(("::", 0)) as server:
        with pytest.raises(OSError):
            AsyncTcpConnectionServer(server.address.port)
    assert open_sockets() == before


async def test_a_port_may_be_taken_again_at_once():
    async with AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        port = server.address.port
        with await RawPeer.connect(("127.0.0.1", port)) as peer:
            accepted = await server.accept()
            await accepted.aclose()  # the one that closes first keeps the port in TIME_WAIT
            assert await peer.receive_to_end() == b""
    async with AsyncTcpConnectionServer(("127.0.0.1", port)) as server:
        await answer_one(server, ("127.0.0.1", port))


async def test_several_servers_share_a_port():
    async with (
        AsyncTcpConnectionServer(("127.0.0.1", 0), reuse_port=True) as first,
        AsyncTcpConnectionServer(first.address, reuse_port=True) as second,
    ):
        peers = [await RawPeer.connect(("127.0.0.1", first.address.port)) for _ in range(40)]
        served = [0, 0]

        async def serve(number, server):
            async for accepted in server:
                served[number] += 1
                accepted.abort()

        serving = [await begin(serve(number, server)) for number, server in enumerate((first, second))]
        await until(lambda: sum(served) == 40)
        assert min(served) > 0
        for peer in peers:
            peer.close()
    await asyncio.gather(*serving)


async def test_without_reuse_port_a_port_is_not_shared():
    async with AsyncTcpConnectionServer(("127.0.0.1", 0), reuse_port=True) as first:
        with pytest.raises(OSError):
            AsyncTcpConnectionServer(first.address)


async def test_adopting_a_descriptor():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = os.dup(listening.fileno())
    async with AsyncTcpConnectionServer.from_fd(fd) as server:
        assert server.filenos() == [fd]
        await answer_one(server, ("127.0.0.1", server.address.port))
    with pytest.raises(OSError):
        os.fstat(fd)


async def test_what_cannot_be_adopted_stays_open(tmp_path):
    connected, other = socket.socketpair()
    unbound, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "socket"))
    unix.listen()
    with connected, other, unbound, datagram, unix:
        for sock in (connected, unbound, datagram, unix):
            with pytest.raises(ValueError):
                AsyncTcpConnectionServer.from_fd(sock.fileno())
            assert sock.getsockname() is not None
    with open(os.devnull) as file:
        with pytest.raises(OSError):
            AsyncTcpConnectionServer.from_fd(file.fileno())
        os.fstat(file.fileno())
    for wrong in (-1, True, "3", None):
        with pytest.raises((TypeError, ValueError)):
            AsyncTcpConnectionServer.from_fd(wrong)


async def test_what_cannot_be_adopted_with_these_options_stays_open():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with pytest.raises(OSError):
            AsyncTcpConnectionServer.from_fd(listening.fileno(), options=TcpOptions(device="none-such"))
        assert listening.getsockname()


OPTIONS = TcpOptions(
    nodelay=False,
    keepalive=KeepAlive(idle=17, interval=4, count=3),
    user_timeout=5,
    traffic_class=0x20,
    linger=0.5,
)


@pytest.mark.parametrize("family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=needs_ipv6)])
@pytest.mark.parametrize("options", [TcpOptions(), OPTIONS], ids=["default", "set"])
async def test_accepted_sockets_carry_the_options(family, options):
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    async with AsyncTcpConnectionServer((host, 0), options=options) as server:
        with await RawPeer.connect((host, server.address.port), family):
            accepted = await server.accept()
            with socket.socket(fileno=os.dup(accepted.fileno())) as view:
                assert bool(view.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is options.nodelay
                if options is OPTIONS:
                    assert view.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    assert view.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 17
                    assert view.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
                    if family == socket.AF_INET:
                        assert view.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0x20
                    else:
                        assert view.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 0x20
            assert not os.get_blocking(accepted.fileno())
            assert not os.get_inheritable(accepted.fileno())
            accepted.abort()


async def test_a_socket_passed_in_carries_its_own_linger():
    mine = AsyncTcpSocket(options=TcpOptions(linger=0))
    async with AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        with await RawPeer.connect(("127.0.0.1", server.address.port)) as peer:
            await server.accept(mine)
            await mine.aclose()
            with pytest.raises(ConnectionResetError):
                await peer.receive()


async def test_a_socket_passed_in_keeps_its_own_options():
    async with AsyncTcpConnectionServer("127.0.0.1:0", options=TcpOptions(nodelay=True)) as server:
        own = AsyncTcpSocket(options=TcpOptions(nodelay=False))
        with await RawPeer.connect(server.address.sockaddr()):
            async with await server.accept(own):
                assert own.raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
