"""Listening sockets that are held for others: shares, successors, files."""

from __future__ import annotations

import os
import socket

import pytest
from helpers import needs_ipv6, open_sockets, unused_port

from aionet import NetworkToolkit, SocketAddress, UnixAddress
from aionet.held_listeners import HeldListener, HeldListeners, InheritedListeners, server_on

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

LOCAL = SocketAddress("127.0.0.1", 0)


@pytest.mark.parametrize("workers", range(1, 6))
@pytest.mark.parametrize("shares", range(1, 6))
async def test_every_worker_has_a_share_and_every_share_a_worker(shares, workers):
    sockets = [socket.socket() for _ in range(shares)]
    held = HeldListener("x", [[sock] for sock in sockets])
    given = [held.for_worker(worker, workers) for worker in range(workers)]
    assert all(given)
    assert {sock for one in given for sock in one} == set(sockets)
    assert max(map(len, given)) <= -(-shares // workers)
    held.close()


async def test_port_0_is_the_same_port_in_every_share():
    with await HeldListeners.open([LOCAL], shares=3) as held:
        ports = {sock.getsockname()[1] for worker in range(3) for sock in held.for_worker(worker, 3)}
        assert ports == {held.addresses[0].port}
        assert len(held.for_worker(0, 3)) == 1


@needs_ipv6
async def test_a_port_alone_is_both_families_in_every_share():
    with await HeldListeners.open([SocketAddress(0)], shares=2) as held:
        families = [sock.family for sock in held.for_worker(1, 2)]
        assert families == [socket.AF_INET, socket.AF_INET6]
        assert len({address.port for address in held.addresses}) == 1


async def test_a_port_that_somebody_shares_is_taken():
    with await HeldListeners.open([LOCAL], shares=2) as held, pytest.raises(OSError) as caught:
        await HeldListeners.open(held.addresses, shares=2)
    assert "Address already in use" in str(caught.value)
    assert "cannot listen on 127.0.0.1:" in str(caught.value)


@pytest.mark.parametrize("shares", [1, 2])
async def test_an_address_of_a_name_that_this_host_does_not_have_is_passed_over(shares):
    async def resolver(host, port):
        return [SocketAddress("240.0.0.1", port), SocketAddress("127.0.0.1", port)]

    async with NetworkToolkit(resolver=resolver):
        with await HeldListeners.open([SocketAddress("several.example", 0)], shares=shares) as held:
            assert [address.host for address in held.addresses] == ["127.0.0.1"]
            assert len(held.for_worker()) == shares


@needs_ipv6
@pytest.mark.parametrize("shares", [1, 2])
async def test_a_scope_that_names_no_interface(shares):
    with pytest.raises(OSError, match=r"cannot listen on \[fe80::1%gone0\]:0: no interface"):
        await HeldListeners.open([SocketAddress("fe80::1%gone0", 0)], shares=shares)


async def test_what_is_taken_over_is_found_by_its_name_and_grows():
    first = await HeldListener.open(LOCAL, shares=2)
    address = first.addresses[0]
    with await HeldListeners.open([LOCAL], shares=3, taken=[first]) as held:
        assert held.addresses == [address]
        assert len({sock.fileno() for worker in range(3) for sock in held.for_worker(worker, 3)}) == 3


async def test_a_socket_that_was_not_made_to_be_shared_does_not_grow():
    first = await HeldListener.open(LOCAL)
    with await HeldListeners.open([LOCAL], shares=3, taken=[first]) as held:
        assert len({sock for worker in range(3) for sock in held.for_worker(worker, 3)}) == 1


async def test_what_nobody_wants_is_closed_when_the_rest_is_owned():
    first = await HeldListener.open(LOCAL)
    address = first.addresses[0]
    with await HeldListeners.open([], taken=[first]) as held:
        socket.create_connection((address.host, address.port)).close()
        held.own_files(True)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.host, address.port))


async def test_a_failure_leaves_nothing_open():
    before = open_sockets()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = [await HeldListener.open(LOCAL), await HeldListener.open(SocketAddress("127.0.0.2", 0))]
        with pytest.raises(OSError, match="already in use"):
            await HeldListeners.open([LOCAL, SocketAddress(*other.getsockname())], taken=taken)
    assert open_sockets() == before


async def test_a_socket_file_goes_with_its_owner(tmp_path):
    path = tmp_path / "sock"
    address = UnixAddress(path)
    with await HeldListeners.open([address]) as old:
        (listener,) = old
        (share,) = listener.shares
        taken = HeldListener(
            listener.name,
            [[socket.socket(fileno=os.dup(sock.fileno())) for sock in share]],
            listener.file,
        )
        taken.removes_file = False
        with await HeldListeners.open([address], taken=[taken]) as new:
            new.close()
            assert path.exists()  # it is not the successor's yet
        old.own_files(False)
    assert path.exists()  # nor the predecessor's any more
    path.unlink()


async def test_a_socket_file_is_removed_after_the_directory_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with await HeldListeners.open([UnixAddress("sock")]):
        monkeypatch.chdir("/")
        assert (tmp_path / "sock").exists()
    assert not (tmp_path / "sock").exists()


async def test_a_server_accepts_from_a_copy():
    with await HeldListeners.open([LOCAL]) as held:
        (sock,) = held.for_worker()
        async with server_on(sock) as server:
            with socket.create_connection(sock.getsockname()) as peer:
                async with await server.accept() as accepted:
                    assert accepted.peer_address.port == peer.getsockname()[1]
        socket.create_connection(sock.getsockname()).close()  # still listening


async def test_inherited_sockets_must_listen():
    with socket.socket() as sock, pytest.raises(ValueError, match="is not a listening stream socket"):
        await HeldListeners.open([InheritedListeners("systemd:web", (sock,))])
    with pytest.raises(OSError, match="no socket was passed to this process for systemd:web"):
        await HeldListeners.open([InheritedListeners("systemd:web", ())])


@pytest.mark.parametrize("shares", [1, 2])
@pytest.mark.parametrize("kind", ["any port", "a port", "both families", "path", "abstract name"])
async def test_a_socket_that_was_shut_down_listens_again(tmp_path, kind, shares):
    addresses = {
        "any port": LOCAL,
        "a port": SocketAddress("127.0.0.1", unused_port()),
        "both families": SocketAddress(0),
        "path": UnixAddress(tmp_path / "sock"),
        "abstract name": UnixAddress(f"@aionet-{os.getpid()}-{shares}"),
    }
    with await HeldListeners.open([addresses[kind]], shares=shares) as held:
        names = [sock.getsockname() for sock in held.sockets]
        if kind == "path":
            os.chmod(tmp_path / "sock", 0o640)
        held.listen_again()
        for sock in held.sockets:
            sock.shutdown(socket.SHUT_RDWR)
        held.listen_again()
        assert [sock.getsockname() for sock in held.sockets] == names
        for sock, name in zip(held.sockets, names, strict=True):
            with socket.socket(sock.family) as client:
                client.connect(name)
        held.listen_again()
        if kind == "path":
            assert (tmp_path / "sock").stat().st_mode & 0o777 == 0o640
    assert not (tmp_path / "sock").exists()
