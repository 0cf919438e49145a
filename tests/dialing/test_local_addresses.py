"""Connecting from an address or a port that the caller names."""

from __future__ import annotations

import errno
import socket

import pytest
from helpers import needs_ipv6, unused_port
from peers import RawListener

from aionet import AsyncTcpSocket, ConnectError, SocketAddress

from .namespaces import in_namespace, needs_namespaces
from .support import resolving, talk

BIND_ADDRESS_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT of linux/in.h."""


@needs_namespaces
def test_ports_are_shared_by_connections_from_an_address_to_several_peers():
    """In a network namespace with 16 ephemeral ports: 60 connections, 12 to each of 5 peers."""
    done = in_namespace("127.0.0.9:0", "[::1]:0")
    assert done.stdout.split() == ["60", "60"], done.stderr


@pytest.mark.asyncio
async def test_from_a_local_address(listener):
    sock = await AsyncTcpSocket().connect_to(listener.address, local_address=("127.0.0.9", 0))
    assert sock.local_address.host == "127.0.0.9"
    await talk(sock, listener)


@pytest.mark.asyncio
async def test_from_a_local_port(listener, refused):
    port = unused_port()
    sock = await AsyncTcpSocket().connect_to(listener.address, local_address=port)
    assert sock.local_address.port == port
    await talk(sock, listener)


@pytest.mark.asyncio
async def test_from_an_address_that_is_not_here(listener):
    with pytest.raises(ConnectError) as caught:
        await AsyncTcpSocket().connect_to(listener.address, local_address=("192.0.2.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert len(caught.value.attempts) == 1


@pytest.mark.asyncio
@needs_ipv6
async def test_from_an_address_of_one_family_to_a_name_of_both(listener):
    with resolving(("::1", listener.port), listener.address):
        sock = await AsyncTcpSocket().connect_to(("name.example", 1), local_address=("127.0.0.1", 0))
        await talk(sock, listener)


@pytest.mark.asyncio
async def test_a_connection_to_itself_is_a_refusal():
    port = unused_port()
    with pytest.raises(ConnectError) as caught:
        await AsyncTcpSocket().connect_to(("127.0.0.1", port), local_address=("127.0.0.1", port))
    assert caught.value.errno == errno.ECONNREFUSED


@pytest.mark.asyncio
async def test_from_a_free_port_of_an_address_the_port_is_chosen_by_connecting(listener):
    """And so it may be that of another connection to somewhere else: see ip(7), IP_BIND_ADDRESS_NO_PORT."""
    sock = await AsyncTcpSocket().connect_to(listener.address, local_address="127.0.0.9:0")
    assert sock.raw_socket.getsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT) == 1
    await talk(sock, listener)


@pytest.mark.asyncio
async def test_from_a_local_port_to_two_peers_at_a_time_and_once_more_after_closing(listener):
    local = ("127.0.0.1", unused_port())
    with RawListener(("127.0.0.2", 0)) as other, RawListener(("127.0.0.3", 0)) as third:
        first = await AsyncTcpSocket().connect_to(listener.address, local_address=local)
        second = await AsyncTcpSocket().connect_to(other.address, local_address=local)
        for sock, peer in ((first, listener), (second, other)):
            with await peer.accept() as accepted:
                assert accepted.sock.getpeername() == local
                await sock.aclose()  # this side first, which leaves the port in TIME_WAIT
        await talk(await AsyncTcpSocket().connect_to(third.address, local_address=local), third)


@pytest.mark.asyncio
async def test_a_local_port_that_a_server_has_is_named(listener):
    with RawListener() as other, pytest.raises(ConnectError) as caught:
        await AsyncTcpSocket().connect_to(other.address, local_address=listener.address)
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.local_address == SocketAddress(*listener.address)
    ((_, _, why),) = caught.value.attempts
    assert f"127.0.0.1:{listener.port}" in str(why)


@pytest.mark.asyncio
async def test_a_pair_of_addresses_that_is_connected_already_is_named(listener):
    port = unused_port()
    sock = await AsyncTcpSocket().connect_to(listener.address, local_address=("127.0.0.1", port))
    with pytest.raises(ConnectError, match=f"127.0.0.1:{port}->127.0.0.1:{listener.port}") as caught:
        await AsyncTcpSocket().connect_to(listener.address, local_address=("127.0.0.1", port))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    await talk(sock, listener)


@pytest.mark.asyncio
@needs_ipv6
async def test_a_local_address_whose_scope_has_no_interface():
    with RawListener(("::1", 0), socket.AF_INET6) as listener, pytest.raises(ConnectError) as caught:
        await AsyncTcpSocket().connect_to(f"[::1]:{listener.port}", local_address="[fe80::1%gone0]:0")
    assert caught.value.errno == errno.ENODEV
    assert "gone0" in str(caught.value)
