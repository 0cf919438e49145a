"""What Python code raises that the compiled engine calls comes out as it is, wherever it was called."""

from __future__ import annotations

import contextlib
import signal

import pytest
from helpers import begin
from tls.scenes import connected

from aionet import AsyncTcpSocket
from aionet.receive_buffer import ReceiveBuffer
from aionet.wires.sending import OutgoingQueue

from .support import lines

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "own"])


class RingError(BaseException):
    """As raised by the handler of a signal: no `except Exception` catches it."""


@pytest.fixture(autouse=True)
def _ringing():
    def ring(number, frame):
        raise RingError

    before = signal.signal(signal.SIGUSR1, ring)
    yield
    signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def interrupted(owner, name):
    """A signal comes while that method runs."""
    method = getattr(owner, name)

    def with_signal(*arguments):
        signal.raise_signal(signal.SIGUSR1)
        return method(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, with_signal)
        yield


@contextlib.asynccontextmanager
async def pair(over):
    if over is None:
        async with lines(1) as (line,):
            yield line
    else:
        async with connected() as made:
            yield made


over_what = pytest.mark.parametrize("over", [None, "tls"])


async def wait_once_for_room(sock, peer):
    """After that the socket has a queue of writes, which is empty."""
    writing = await begin(sock.write(bytes(4_000_000)))
    assert await peer.receive_exactly(4_000_000) == bytes(4_000_000)
    await writing


async def test_a_write_that_asks_whether_others_wait(make_task):
    """Over TLS; without it the stream knows."""
    async with pair("tls") as (sock, peer):
        await wait_once_for_room(sock, peer)
        with interrupted(OutgoingQueue, "__len__"):
            with pytest.raises(RingError):
                await sock.write(b"x")
            outcome = make_task(caught(sock.write(b"x")))
            assert isinstance(await outcome, RingError)
        assert await sock.write(b"y") == 1
        assert await peer.receive(10) == b"y"


async def caught(operation):
    with pytest.raises(BaseException) as error:
        await operation
    return error.value


@over_what
async def test_a_read_that_asks_whether_bytes_wait_in_the_buffer(over):
    async with pair(over) as (sock, peer):
        await peer.send(b"hello")
        assert await sock.peek(5) == b"hello"
        with interrupted(ReceiveBuffer, "__len__"), pytest.raises(RingError):
            await sock.read()
        assert await sock.read() == b"hello"


@over_what
async def test_a_buffer_to_read_into_that_is_taken_back(over):
    """A view that is released while the read waits; nothing is received then."""
    async with pair(over) as (sock, peer):
        view = memoryview(bytearray(10))
        reading = await begin(sock.read_into(view))
        view.release()
        await peer.send(b"x")
        with pytest.raises((ValueError, TypeError)):
            await reading
        assert await sock.read() == b"x"


async def test_a_class_of_sockets_whose_read_cannot_be_looked_up():
    class Meta(type(AsyncTcpSocket)):
        def __getattribute__(cls, name):
            if name == "read" and cls.raising:
                signal.raise_signal(signal.SIGUSR1)
            return super().__getattribute__(name)

    class Strange(AsyncTcpSocket, metaclass=Meta):
        raising = False

    async with lines(1) as (line,):
        strange = Strange._connected(line.sock._options, line.sock._wire, None)
        Strange.raising = True
        with pytest.raises(RingError):
            strange.__anext__()
        Strange.raising = False
        await line.peer.send(b"x")
        assert await strange.__anext__() == b"x"
