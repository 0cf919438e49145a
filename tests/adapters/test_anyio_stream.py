"""`AionetByteStream`: what anyio promises of a byte stream, and what our sockets add."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream, BufferedByteStream
from anyio.streams.stapled import StapledByteStream
from anyio.streams.text import TextReceiveStream, TextStream
from anyio_pairs import stream_and_peer, two_streams, unix_stream_and_peer
from helpers import begin, give_turns, needs_ipv6, until

from aionet import AsyncTcpSocket, ConnectionLostError, SocketClosedError
from aionet.adapters.anyio import AionetAttribute, AionetByteStream

pytestmark = pytest.mark.asyncio

MORE_THAN_FITS = b"x" * (4 << 20)


async def receive_all(stream: anyio.abc.ByteReceiveStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


# Bytes both ways --------------------------------------------------------------------------------------


async def test_bytes_go_both_ways_until_each_side_ends() -> None:
    async with stream_and_peer() as (stream, peer):
        assert isinstance(stream, ByteStream)
        await stream.send(b"from us")
        await stream.send_eof()
        await stream.send_eof()  # idle
        assert await peer.receive_to_end() == b"from us"
        peer.send_now(b"from the peer")
        peer.half_close()
        assert await receive_all(stream) == b"from the peer"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_receive_returns_no_more_than_was_asked_for() -> None:
    async with stream_and_peer() as (stream, peer):
        peer.send_now(b"abcde")
        assert await stream.receive(2) == b"ab"
        assert await stream.receive(1) == b"c"
        with pytest.raises(ValueError):
            await stream.receive(0)
        assert await stream.receive() == b"de"


async def test_receive_finds_what_the_sockets_own_reads_left() -> None:
    async with stream_and_peer() as (stream, peer):
        peer.send_now(b"line\nrest")
        assert await stream.extra(AionetAttribute.socket).read_line() == b"line\n"
        assert await stream.receive() == b"rest"


async def test_a_large_message_arrives_whole() -> None:
    async with two_streams() as (ours, theirs), anyio.create_task_group() as tasks:

        async def send() -> None:
            await ours.send(MORE_THAN_FITS)
            await ours.send_eof()

        tasks.start_soon(send)
        assert await receive_all(theirs) == MORE_THAN_FITS


# What anyio makes of streams --------------------------------------------------------------------------


async def test_buffered_stream_receives_exactly_and_until() -> None:
    async with stream_and_peer() as (stream, peer):
        buffered = BufferedByteReceiveStream(stream)
        peer.send_now(b"12345head: value\r\n")
        assert await buffered.receive_exactly(5) == b"12345"
        assert await buffered.receive_until(b"\r\n", 100) == b"head: value"
        peer.send_now(b"far too long")
        with pytest.raises(anyio.DelimiterNotFound):
            await buffered.receive_until(b"\r\n", 5)
        peer.half_close()
        with pytest.raises(anyio.IncompleteRead):
            await buffered.receive_exactly(100)
        assert buffered.extra(AionetAttribute.socket) is stream.extra(AionetAttribute.socket)


async def test_buffered_reads_put_together_what_comes_in_pieces() -> None:
    async with stream_and_peer() as (stream, peer):
        buffered = BufferedByteReceiveStream(stream)
        async with anyio.create_task_group() as tasks:

            async def send_piecemeal() -> None:
                for byte in b"exactly":
                    await peer.send(bytes([byte]))
                for byte in b"until\r\n":
                    await peer.send(bytes([byte]))

            tasks.start_soon(send_piecemeal)
            assert await buffered.receive_exactly(7) == b"exactly"
            assert await buffered.receive_until(b"\r\n", 100) == b"until"


async def test_a_buffered_stream_sends_too() -> None:
    async with stream_and_peer() as (stream, peer):
        buffered = BufferedByteStream(stream)
        await buffered.send(b"hello")
        await buffered.send_eof()
        assert await peer.receive_to_end() == b"hello"


async def test_text_streams_decode_characters_that_come_in_two_halves() -> None:
    async with stream_and_peer() as (stream, peer):
        text = TextStream(stream)
        await text.send("grüße")
        assert await peer.receive_exactly(7) == "grüße".encode()
        peer.send_now("ü".encode()[:1])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.send, "ü".encode()[1:])
            assert await text.receive() == "ü"
        peer.half_close()
        assert [part async for part in TextReceiveStream(stream)] == []


async def test_two_streams_stapled_are_one() -> None:
    async with stream_and_peer() as (incoming, source), stream_and_peer() as (outgoing, sink):
        stapled = StapledByteStream(outgoing, incoming)
        source.send_now(b"in")
        assert await stapled.receive() == b"in"
        await stapled.send(b"out")
        await stapled.send_eof()
        assert await sink.receive_to_end() == b"out"
        await stapled.aclose()
        for stream in (incoming, outgoing):
            with pytest.raises(anyio.ClosedResourceError):
                await stream.receive()


# Attributes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_attributes_are_those_of_the_raw_socket(host: str) -> None:
    async with stream_and_peer(host) as (stream, peer):
        ours, theirs = (host, peer.sock.getpeername()[1]), (host, peer.sock.getsockname()[1])
        assert stream.extra(SocketAttribute.local_address) == ours
        assert stream.extra(SocketAttribute.local_port) == ours[1]
        assert stream.extra(SocketAttribute.remote_address) == theirs
        assert stream.extra(SocketAttribute.remote_port) == theirs[1]
        assert stream.extra(SocketAttribute.family) == peer.sock.family
        raw_socket = stream.extra(SocketAttribute.raw_socket)
        assert raw_socket.getsockname()[:2] == ours
        assert raw_socket.getpeername()[:2] == theirs
        assert stream.extra(AionetAttribute.socket).peer_address.port == theirs[1]


@needs_ipv6
async def test_attributes_are_what_anyio_itself_would_say() -> None:
    async with stream_and_peer("::1") as (stream, _):
        raw_socket = stream.extra(SocketAttribute.raw_socket)
        async with await anyio.abc.SocketStream.from_socket(raw_socket.dup()) as anyios:
            expected = {key: get() for key, get in anyios.extra_attributes.items()}
        expected[SocketAttribute.raw_socket] = raw_socket
        found = {key: get() for key, get in stream.extra_attributes.items()}
        assert found == expected | {AionetAttribute.socket: stream.extra(AionetAttribute.socket)}


async def test_a_unix_stream_has_paths_and_no_ports() -> None:
    async with unix_stream_and_peer() as (stream, peer):
        assert stream.extra(SocketAttribute.local_address) == peer.sock.getpeername()
        assert stream.extra(SocketAttribute.remote_address) == peer.sock.getsockname() == ""
        assert stream.extra(SocketAttribute.family) == socket.AF_UNIX
        assert stream.extra(SocketAttribute.local_port, None) is None
        assert stream.extra(SocketAttribute.remote_port, None) is None
        await stream.send(b"hello")
        assert await peer.receive() == b"hello"


async def test_addresses_outlive_closing_and_the_raw_socket_does_not() -> None:
    async with stream_and_peer() as (stream, peer):
        await stream.aclose()
        assert stream.extra(SocketAttribute.remote_address) == peer.sock.getsockname()
        with pytest.raises(anyio.TypedAttributeLookupError):
            stream.extra(SocketAttribute.raw_socket)


async def test_repr_tells_the_socket() -> None:
    async with stream_and_peer() as (stream, _):
        assert repr(stream.extra(AionetAttribute.socket)) in repr(stream)


# Errors -----------------------------------------------------------------------------------------------

EVERY_OPERATION: list[Callable[[AionetByteStream], Awaitable[object]]] = [
    lambda stream: stream.receive(),
    lambda stream: stream.send(b"x"),
    lambda stream: stream.send_eof(),
]
NAMES = ["receive", "send", "send_eof"]


@pytest.mark.parametrize("operation", EVERY_OPERATION, ids=NAMES)
async def test_after_closing_everything_says_so(
    operation: Callable[[AionetByteStream], Awaitable[object]],
) -> None:
    async with stream_and_peer() as (stream, _):
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError) as caught:
            await operation(stream)
        assert isinstance(caught.value.__cause__, SocketClosedError)


@pytest.mark.parametrize("operation", EVERY_OPERATION[:2], ids=NAMES[:2])
async def test_after_a_reset_everything_says_so(
    operation: Callable[[AionetByteStream], Awaitable[object]],
) -> None:
    async with stream_and_peer() as (stream, peer):
        waiting = await begin(stream.receive())
        peer.reset()
        with pytest.raises(anyio.BrokenResourceError):
            await waiting
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await operation(stream)
        cause = caught.value.__cause__
        assert isinstance(cause, ConnectionLostError)
        assert cause.errno in (errno.ECONNRESET, errno.EPIPE)
        assert str(cause) == str(caught.value)


async def test_sending_after_send_eof_is_refused() -> None:
    async with stream_and_peer() as (stream, _):
        await stream.send_eof()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"too late")


async def test_an_unconnected_socket_is_refused_by_every_operation() -> None:
    async with AionetByteStream(AsyncTcpSocket()) as stream:
        with pytest.raises(anyio.ClosedResourceError, match="not connected"):
            await stream.receive()
        assert stream.extra(SocketAttribute.remote_address, None) is None


async def test_closing_wakes_a_receiver_and_a_sender() -> None:
    async with stream_and_peer() as (stream, _):
        receiver = await begin(stream.receive())
        sender = await begin(stream.send(MORE_THAN_FITS))
        await anyio.aclose_forcefully(stream)
        for waiting in (receiver, sender):
            with pytest.raises(anyio.ClosedResourceError):
                await waiting


@pytest.mark.parametrize("operation", EVERY_OPERATION[:2], ids=NAMES[:2])
async def test_a_second_task_is_told_that_the_stream_is_busy(
    operation: Callable[[AionetByteStream], Awaitable[object]],
) -> None:
    async with stream_and_peer() as (stream, peer):
        receiver = asyncio.ensure_future(stream.receive())
        sender = asyncio.ensure_future(stream.send(MORE_THAN_FITS))
        await asyncio.sleep(0)
        with pytest.raises(anyio.BusyResourceError):  # even before the first has come to wait
            await operation(stream)
        await give_turns()
        with pytest.raises(anyio.BusyResourceError):
            await operation(stream)
        peer.send_now(b"x")
        assert await receiver == b"x"
        assert await peer.receive_exactly(len(MORE_THAN_FITS)) == MORE_THAN_FITS
        await sender


async def test_a_second_receiver_is_told_even_if_there_is_enough_for_both() -> None:
    async with stream_and_peer() as (stream, peer):
        peer.send_now(b"ab")
        await until(lambda: _readable(stream))
        first, second = await asyncio.gather(stream.receive(1), stream.receive(1), return_exceptions=True)
        assert first == b"a"
        assert isinstance(second, anyio.BusyResourceError)
        assert await stream.receive(1) == b"b"


async def test_a_reader_of_the_socket_itself_makes_the_stream_busy() -> None:
    async with stream_and_peer() as (stream, peer):
        reader = await begin(stream.extra(AionetAttribute.socket).read())
        with pytest.raises(anyio.BusyResourceError, match="reading from"):
            await stream.receive()
        peer.send_now(b"x")
        assert await reader == b"x"


async def test_a_cancelled_send_that_cannot_be_finished_is_told_by_closing() -> None:
    async with stream_and_peer() as (stream, _):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, MORE_THAN_FITS)
                await give_turns()
                scope.cancel()
        with pytest.raises(anyio.BrokenResourceError, match="not acknowledged"):
            await stream.aclose()


# Cancelling and checkpoints ---------------------------------------------------------------------------


async def test_a_receive_that_is_cancelled_when_the_data_comes_loses_nothing() -> None:
    async with stream_and_peer() as (stream, peer):
        received = bytearray()
        for number in range(200):
            scope = anyio.CancelScope()

            async def receive(scope: anyio.CancelScope = scope) -> None:
                with scope:
                    received.extend(await stream.receive())

            task = asyncio.ensure_future(receive())
            for _ in range(number % 7):  # the two meet in every order
                await asyncio.sleep(0)
            peer.send_now(bytes([number]))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            scope.cancel()
            await task
        peer.half_close()
        received += await receive_all(stream)
        assert received == bytes(range(200))


async def test_a_deadline_ends_a_receive_and_the_next_one_gets_the_data() -> None:
    async with stream_and_peer() as (stream, peer):
        with anyio.move_on_after(0.01) as scope:
            await stream.receive()
        assert scope.cancelled_caught
        peer.send_now(b"later")
        assert await stream.receive() == b"later"


@pytest.mark.parametrize("operation", EVERY_OPERATION, ids=NAMES)
async def test_every_operation_lets_a_cancellation_through_and_has_no_effect_then(
    operation: Callable[[AionetByteStream], Awaitable[object]],
) -> None:
    async with stream_and_peer() as (stream, peer):
        peer.send_now(b"still there")
        await until(lambda: _readable(stream))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await operation(stream)
        assert scope.cancelled_caught
        assert await stream.receive() == b"still there"
        await stream.send(b"only this")
        await stream.send_eof()
        assert await peer.receive_to_end() == b"only this"


@pytest.mark.parametrize("operation", EVERY_OPERATION, ids=NAMES)
async def test_every_operation_lets_others_run(
    operation: Callable[[AionetByteStream], Awaitable[object]],
) -> None:
    async with stream_and_peer() as (stream, peer):
        peer.send_now(b"ready")
        await until(lambda: _readable(stream))
        await asyncio.sleep(0)
        others = []
        asyncio.get_running_loop().call_soon(others.append, "ran")
        await operation(stream)
        assert others


async def test_closing_forcefully_closes_at_once_and_resets_what_was_not_sent() -> None:
    async with stream_and_peer() as (stream, peer):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, MORE_THAN_FITS)
                await give_turns()
                scope.cancel()
        await anyio.aclose_forcefully(stream)
        assert stream.extra(AionetAttribute.socket).fileno() == -1
        with pytest.raises(ConnectionResetError):
            await peer.receive_to_end()


async def test_closing_is_a_checkpoint_and_closes_before_it() -> None:
    async with stream_and_peer() as (stream, _):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.aclose()
        assert scope.cancelled_caught
        assert stream.extra(AionetAttribute.socket).fileno() == -1


async def test_closing_delivers_what_was_sent() -> None:
    async with stream_and_peer() as (stream, peer):
        peer.send_now(b"never read by us")
        await stream.send(b"last reply")
        await stream.aclose()
        assert await peer.receive_to_end() == b"last reply"


def _readable(stream: AionetByteStream) -> bool:
    raw_socket = stream.extra(SocketAttribute.raw_socket)
    try:
        return bool(raw_socket.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
