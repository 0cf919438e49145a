"""A socket's methods look and behave like the functions that they take a short cut around."""

from __future__ import annotations

import collections.abc
import functools
import gc
import inspect
import pickle
import weakref

import pytest

import aionet
from aionet import AsyncTcpSocket

from .support import lines

NAMES = ["read", "read_into", "write", "write_vectored", "__anext__"]


@pytest.mark.parametrize("name", NAMES)
def test_methods_look_like_functions(name):
    method = getattr(AsyncTcpSocket, name)
    function = method.__wrapped__
    assert inspect.unwrap(method) is function
    assert inspect.iscoroutinefunction(function)
    assert method.__name__ == name
    assert method.__qualname__ == f"AsyncStreamSocket.{name}"
    assert method.__module__ == "aionet.stream_socket"
    assert method.__doc__ == function.__doc__
    assert inspect.signature(method) == inspect.signature(function)
    assert callable(method)
    assert inspect.getsource(method).lstrip().startswith("@short_cut")


@pytest.mark.parametrize("name", NAMES)
def test_bound_methods_look_like_methods(name):
    sock = AsyncTcpSocket()
    bound = getattr(sock, name)
    assert inspect.ismethod(bound)
    assert bound.__self__ is sock
    assert bound.__func__ is getattr(AsyncTcpSocket, name)
    assert bound.__name__ == name
    assert bound.__doc__ == getattr(AsyncTcpSocket, name).__doc__
    assert bound == getattr(sock, name)
    assert hash(bound) == hash(getattr(sock, name))
    assert bound != getattr(AsyncTcpSocket(), name)
    unbound = list(inspect.signature(getattr(AsyncTcpSocket, name)).parameters)
    assert list(inspect.signature(bound).parameters) == unbound[1:]
    assert name in repr(bound)


def test_read_in_detail():
    assert str(inspect.signature(AsyncTcpSocket.read)) == "(self, max_bytes: 'int' = 65536) -> 'bytes'"
    assert AsyncTcpSocket.read.__doc__.startswith("Read 1 to `max_bytes` bytes")
    assert AsyncTcpSocket.read.__defaults__ == (65536,)
    assert inspect.iscoroutinefunction(AsyncTcpSocket.read)


def test_wrapping():
    @functools.wraps(AsyncTcpSocket.read)
    def wrapper():
        raise AssertionError("unreachable")

    assert wrapper.__name__ == "read"
    assert wrapper.__doc__ == AsyncTcpSocket.read.__doc__
    assert inspect.signature(wrapper) == inspect.signature(AsyncTcpSocket.read)


def test_attributes_that_there_are_not():
    with pytest.raises(AttributeError):
        AsyncTcpSocket.read.nonsense  # noqa: B018
    with pytest.raises(TypeError):
        AsyncTcpSocket.read()
    with pytest.raises(TypeError):
        AsyncTcpSocket().read(1, 2, 3)
    with pytest.raises(TypeError):
        AsyncTcpSocket().read(nonsense=1)
    with pytest.raises(TypeError):
        AsyncTcpSocket().write()


@pytest.mark.asyncio
async def test_unbound_calls_and_keywords():
    async with lines(1) as ((sock, peer),):
        peer.send_now(b"abcdefgh")
        assert await AsyncTcpSocket.read(sock, 1) == b"a"
        assert await sock.read(max_bytes=2) == b"bc"
        assert await AsyncTcpSocket.read(sock, max_bytes=1) == b"d"
        buffer = bytearray(2)
        assert await AsyncTcpSocket.read_into(sock, buffer=buffer) == 2
        assert buffer == b"ef"
        assert await functools.partial(sock.read, 1)() == b"g"
        assert await anext(sock) == b"h"
        assert await sock.write(data=b"x") == 1
        assert await AsyncTcpSocket.write_vectored(sock, buffers=[b"y"]) == 1


@pytest.mark.asyncio
async def test_unbound_calls_with_what_is_no_socket():
    for wrong in (None, 1, "text", object()):
        with pytest.raises(AttributeError):
            await AsyncTcpSocket.read(wrong)


@pytest.mark.asyncio
async def test_subclasses_that_override():
    class Counting(AsyncTcpSocket):
        """One with attributes of its own."""

        def __init__(self):
            super().__init__()
            self.count = 0

        async def read(self, max_bytes=1):
            data = await super().read(max_bytes)
            self.count += len(data)
            return data

    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    sock = await Counting().connect_to(server.address)
    async with server, await server.accept() as other, sock:
        await other.write(b"abc")
        assert await sock.read() == b"a"
        assert await anext(sock) == b"b"
        assert await sock.read_exactly(1) == b"c"
        assert sock.count == 2


@pytest.mark.asyncio
async def test_sockets_as_objects():
    async with lines(2) as ((one, _), (other, _)):
        assert len({one, other, one}) == 2
        assert one != other
        reference = weakref.ref(one)
        assert reference() is one
        assert set(weakref.WeakSet([one])) == {one}
        assert one in weakref.WeakKeyDictionary({one: 1})
        assert gc.is_tracked(one)
        assert one._wire in gc.get_referents(one)
        assert one._options in gc.get_referents(one)
        assert type(one) in gc.get_referents(one)
        with pytest.raises((TypeError, pickle.PicklingError)):
            pickle.dumps(one)
        with pytest.raises(AttributeError):
            one.nonsense = 1
        assert isinstance(one, collections.abc.AsyncIterator)
