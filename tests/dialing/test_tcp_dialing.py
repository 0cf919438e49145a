"""Connecting over TCP: numeric addresses, names, several addresses, failures that tell what was tried."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct

import pytest
from helpers import begin, needs_ipv6, open_sockets
from peers import RawListener

from aionet import (
    AsyncTcpSocket,
    ConnectError,
    ConnectionLostError,
    ResolveError,
    SocketAddress,
    SocketClosedError,
    TcpOptions,
)
from aionet.scope import Scope, set_scope

from .support import resolving, talk

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    "form",
    [
        lambda host, port: (host, port),
        lambda host, port: f"{host}:{port}",
        lambda host, port: SocketAddress(host, port),
    ],
    ids=["tuple", "text", "address"],
)
async def test_a_numeric_address_is_not_looked_up(listener, form):
    with resolving(error=OSError("asked for a number")) as asked:
        sock = await AsyncTcpSocket().connect_to(form(*listener.address))
        await talk(sock, listener)
    assert asked == []


async def test_a_numeric_address_takes_no_thread(listener, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked for a number"))
    await talk(await AsyncTcpSocket().connect_to(listener.address), listener)


@needs_ipv6
async def test_ipv6():
    with RawListener(("::1", 0), socket.AF_INET6) as listener:
        await talk(await AsyncTcpSocket().connect_to(f"[::1]:{listener.port}"), listener)


async def test_a_port_alone_is_this_host(listener):
    await talk(await AsyncTcpSocket().connect_to(listener.port), listener)


async def test_a_name_is_asked_of_the_resolver(listener):
    with resolving(listener.address) as asked:
        sock = await AsyncTcpSocket().connect_to(("service.example", 80))
        await talk(sock, listener)
    assert asked == [("service.example", 80)]


async def test_a_name_of_the_system(listener):
    await talk(await AsyncTcpSocket().connect_to(("localhost", listener.port)), listener)


# Several addresses ------------------------------------------------------------------------------------------


async def test_the_second_address_is_tried_when_the_first_refuses(listener, refused):
    with resolving(refused, listener.address):
        started = asyncio.get_running_loop().time()
        sock = await AsyncTcpSocket().connect_to(("name.example", 1), happy_eyeballs_delay=10)
        assert asyncio.get_running_loop().time() - started < 1, "a refusal starts the next one at once"
        await talk(sock, listener)


async def test_the_second_address_is_tried_while_the_first_is_silent(listener, deaf):
    before = open_sockets()
    with resolving(deaf, listener.address):
        sock = await AsyncTcpSocket().connect_to(("name.example", 1), happy_eyeballs_delay=0.02)
        assert len(open_sockets()) == len(before) + 1, "the loser is closed"
        await talk(sock, listener)


@pytest.mark.parametrize("delay", [0, 0.0])
async def test_without_a_delay_all_start_at_once(listener, deaf, delay):
    with resolving(deaf, deaf, listener.address):
        async with asyncio.timeout(30):
            sock = await AsyncTcpSocket().connect_to(("name.example", 1), happy_eyeballs_delay=delay)
        await talk(sock, listener)


async def test_with_none_an_address_is_waited_for(listener, deaf):
    before = open_sockets()
    with resolving(deaf, listener.address):
        sock = AsyncTcpSocket()
        connecting = await begin(sock.connect_to(("name.example", 1), happy_eyeballs_delay=None))
        assert len(open_sockets()) == len(before) + 1
        sock.abort()
        with pytest.raises(SocketClosedError):
            await connecting


async def test_any_failure_starts_the_next_attempt(listener, deaf, refused):
    """Not only that of the latest attempt."""
    with resolving(deaf, refused, refused, listener.address):
        async with asyncio.timeout(30):
            sock = await AsyncTcpSocket().connect_to(("name.example", 1), happy_eyeballs_delay=0.02)
        await talk(sock, listener)


@needs_ipv6
async def test_the_families_take_turns(refused):
    port = refused[1]
    hosts = ["127.0.0.3", "127.0.0.4", "127.0.0.5", "::1"]
    with resolving(*((host, port) for host in hosts)), pytest.raises(ConnectError) as caught:
        await AsyncTcpSocket().connect_to(("name.example", 1))
    assert [address.host for address, *_ in caught.value.attempts] == [
        "127.0.0.3",
        "::1",
        "127.0.0.4",
        "127.0.0.5",
    ]


async def test_one_after_the_other(listener, refused):
    with resolving(refused, listener.address):
        sock = await AsyncTcpSocket().connect_to(("name.example", 1), happy_eyeballs_delay=None)
        await talk(sock, listener)


async def test_the_first_address_is_preferred(listener):
    with RawListener(("127.0.0.1", 0)) as other, resolving(listener.address, other.address):
        await talk(await AsyncTcpSocket().connect_to(("name.example", 1)), listener)


@pytest.mark.parametrize("delay", [0.01, 0, None])
async def test_when_none_answers_every_attempt_is_listed(refused, delay):
    before = open_sockets()
    others = [("127.0.0.3", refused[1]), ("127.0.0.4", refused[1])]
    with resolving(refused, *others), pytest.raises(ConnectError) as caught:
        await AsyncTcpSocket().connect_to(("name.example", 7), happy_eyeballs_delay=delay)
    error = caught.value
    assert [address for address, _, _ in error.attempts] == [SocketAddress(*a) for a in (refused, *others)]
    for address, seconds, why in error.attempts:
        assert 0 <= seconds < 5
        assert isinstance(why, OSError)
        assert why.errno == errno.ECONNREFUSED
        assert str(address) in str(error)
    assert error.errno == errno.ECONNREFUSED
    assert error.operation == "connect"
    assert error.peer_address == SocketAddress("name.example", 7)
    assert error.__cause__ is not None
    assert open_sockets() == before


async def test_a_refusal(refused):
    sock = AsyncTcpSocket()
    with pytest.raises(ConnectError) as caught:
        await sock.connect_to(refused)
    assert caught.value.errno == errno.ECONNREFUSED
    ((address, _, why),) = caught.value.attempts
    assert address == caught.value.peer_address == SocketAddress(*refused)
    assert why.errno == errno.ECONNREFUSED
    assert sock.fileno() == -1
    assert not sock.closed


# Scopes -----------------------------------------------------------------------------------------------------


@needs_ipv6
@pytest.mark.parametrize("scope", ["gone0", "2147483647"])
async def test_a_scope_without_an_interface_is_an_error_of_the_attempt(scope):
    before = open_sockets()
    with pytest.raises(ConnectError) as caught:
        await AsyncTcpSocket().connect_to(f"[fe80::1%{scope}]:80")
    ((address, _, why),) = caught.value.attempts
    assert address.scope_id == scope
    assert why.errno is not None
    assert caught.value.errno == why.errno
    assert scope in str(caught.value)
    assert open_sockets() == before


@needs_ipv6
@pytest.mark.parametrize("delay", [0.25, 0, None])
async def test_a_scope_without_an_interface_does_not_end_a_race(listener, delay):
    with resolving(("fe80::1%gone0", 80), listener.address):
        sock = await AsyncTcpSocket().connect_to(("name.example", 1), happy_eyeballs_delay=delay)
        await talk(sock, listener)


async def test_a_family_that_cannot_be_used_does_not_end_a_race(listener, monkeypatch):
    def without_ipv6(family, *arguments):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(family, *arguments)

    create = socket.socket
    with resolving(("::1", listener.port), listener.address):
        monkeypatch.setattr("aionet.dialing.socket.socket", without_ipv6)
        sock = await AsyncTcpSocket().connect_to(("name.example", 1))
        monkeypatch.undo()
        await talk(sock, listener)


# Arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"address": ("127.0.0.1", 0)},
        {"address": "127.0.0.1:80", "local_address": ("name.example", 0)},
        {"address": "127.0.0.1:80", "happy_eyeballs_delay": -1},
        {"address": "127.0.0.1:80", "happy_eyeballs_delay": float("nan")},
        {"address": "127.0.0.1:80", "happy_eyeballs_delay": float("inf")},
        {"address": "127.0.0.1:80", "happy_eyeballs_delay": "0.1"},
        {"address": "unix:/tmp/x"},
        {"address": ("127.0.0.1", 65536)},
        {"address": None},
    ],
)
async def test_bad_arguments_are_refused_before_any_io(arguments):
    before = open_sockets()
    with pytest.raises((TypeError, ValueError)):
        await AsyncTcpSocket().connect_to(**arguments)
    assert open_sockets() == before


# Names that do not resolve ----------------------------------------------------------------------------------


async def test_a_name_without_an_address():
    with resolving(), pytest.raises(ResolveError, match=r"name\.example"):
        await AsyncTcpSocket().connect_to(("name.example", 1))


async def test_a_resolver_that_fails():
    cause = socket.gaierror(socket.EAI_NONAME, "no such name")
    with resolving(error=cause), pytest.raises(ResolveError) as caught:
        await AsyncTcpSocket().connect_to(("name.example", 1))
    assert caught.value.__cause__ is cause
    assert caught.value.errno == socket.EAI_NONAME
    assert caught.value.operation == "resolve"


async def test_a_resolver_whose_error_has_no_errno():
    with resolving(error=OSError("the registry is away")), pytest.raises(ResolveError) as caught:
        await AsyncTcpSocket().connect_to(("name.example", 1))
    assert str(caught.value) == "resolve: cannot resolve 'name.example': the registry is away"


async def test_a_name_that_the_system_does_not_know():
    with pytest.raises(ResolveError):
        await AsyncTcpSocket().connect_to(("does-not-exist.invalid", 1))


async def test_a_resolver_that_answers_with_a_name():
    with resolving(("another.example", 1)), pytest.raises(TypeError, match="numeric"):
        await AsyncTcpSocket().connect_to(("name.example", 1))


# Cancelling -------------------------------------------------------------------------------------------------


async def test_a_cancelled_connect_leaves_no_descriptor(deaf):
    before = open_sockets()
    connecting = await begin(AsyncTcpSocket().connect_to(deaf))
    assert not connecting.done()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert open_sockets() == before


async def test_a_cancelled_race_leaves_no_descriptor(deaf):
    before = open_sockets()
    with resolving(deaf, deaf, deaf), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await AsyncTcpSocket().connect_to(("name.example", 1), happy_eyeballs_delay=0.01)
    assert open_sockets() == before


@pytest.mark.parametrize("turns", range(6))
async def test_a_connect_cancelled_after_some_turns_leaves_no_descriptor(listener, turns):
    before = open_sockets()
    sock = AsyncTcpSocket()
    connecting = asyncio.create_task(sock.connect_to(listener.address))
    for _ in range(turns):
        await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait([connecting])
    if not connecting.cancelled():
        sock.abort()
    assert open_sockets() == before


async def test_a_connect_cancelled_while_a_name_is_looked_up():
    asked = asyncio.Event()

    async def resolver(host, port):
        asked.set()
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    set_scope(loop, Scope(resolver=resolver))
    connecting = asyncio.create_task(AsyncTcpSocket().connect_to(("name.example", 1)))
    await asked.wait()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    set_scope(loop, None)


# Options ----------------------------------------------------------------------------------------------------


async def test_a_dialed_socket_carries_the_options(listener):
    sock = await AsyncTcpSocket(options=TcpOptions(nodelay=False, keepalive=True)).connect_to(
        listener.address
    )
    with await listener.accept():
        with socket.socket(fileno=sock.fileno()) as view:
            assert view.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert not view.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            view.detach()
        sock.abort()


async def test_an_option_that_cannot_be_set_is_told(listener):
    before = open_sockets()
    with pytest.raises(OSError, match="none-such"):
        await AsyncTcpSocket(options=TcpOptions(device="none-such")).connect_to(listener.address)
    assert open_sockets() == before


async def test_a_peer_that_resets_right_after_accepting_is_read_to_its_last_byte(listener):
    """The reset may come before this side has looked at its connect: it is no refusal, and no clean end."""
    reset_on_close = struct.pack("ii", 1, 0)

    def say_last_words(tries):
        for _ in range(tries):
            sock, _ = listener.sock.accept()
            sock.sendall(b"last words")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
            sock.close()

    listener.sock.settimeout(10)
    saying = asyncio.create_task(asyncio.to_thread(say_last_words, 100))
    for _ in range(100):
        async with await AsyncTcpSocket().connect_to(listener.address) as sock:
            assert await sock.read_exactly(10) == b"last words"
            with pytest.raises(ConnectionLostError):
                await sock.read()
    await saying
