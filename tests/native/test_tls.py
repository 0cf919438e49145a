"""TLS over a compiled stream: which way reads and writes go, and that both ways fit together."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from helpers import begin
from tls.scenes import TLS_VERSIONS, connected
from tls_peers import contexts

from aionet import AsyncTcpConnectionServer, ConnectionLostError, ConnectionSpawner, SocketBusyError
from aionet.wires.tls.wire import TlsWire

pytestmark = pytest.mark.asyncio

RECORD = 16384


@pytest.fixture
def slow_ways(monkeypatch):
    """The names of the slow ways that were taken, in their order."""
    taken = []

    def noting(name, way):
        def slowly(self, *arguments):
            taken.append(name)
            return way(self, *arguments)

        monkeypatch.setattr(TlsWire, name, slowly)

    for name in ("_receive_slowly", "_receive_into_slowly", "_send_slowly", "_finish_send"):
        noting(name, getattr(TlsWire, name))
    return taken


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_what_is_simple_takes_the_short_way(version, slow_ways, make_task):
    async def echo(sock, count):
        for _ in range(count):
            await sock.write(await sock.read())

    async with connected(version) as (sock, peer):
        echoing = make_task(echo(sock, 3))
        for message in (b"x", b"y" * 1000, b"z" * RECORD):
            await peer.send(message)
            assert await peer.receive_exactly(len(message)) == message
        await echoing
        into = bytearray(100)
        await peer.send(b"into")
        assert await sock.read_into(into) == 4
        assert into[:4] == b"into"
        assert await sock.write(memoryview(b"a" * (4 * RECORD))) == 4 * RECORD
        assert await peer.receive_exactly(4 * RECORD) == b"a" * (4 * RECORD)
        assert await sock.write(bytearray(b"b")) == 1
        assert await peer.receive_exactly(1) == b"b"
        assert (sock.bytes_read, sock.bytes_written) == (1005 + RECORD, 1002 + 5 * RECORD)
    assert slow_ways == []


@pytest.mark.parametrize("max_bytes", [1000, RECORD - 1, RECORD, RECORD + 1])
async def test_records_are_read_in_pieces_of_any_size(max_bytes):
    message = random.Random(max_bytes).randbytes(3 * RECORD + 5)
    async with connected() as (sock, peer):
        sending = asyncio.ensure_future(peer.send(message))
        read, buffer = bytearray(), bytearray(max_bytes)
        while len(read) < len(message):
            data = await sock.read(max_bytes)
            assert 0 < len(data) <= max_bytes
            read += data
            if len(read) < len(message):
                read += buffer[: await sock.read_into(buffer)]
        assert read == message
        await sending


async def test_plain_and_buffered_reads_take_turns():
    message = random.Random(1).randbytes(6 * RECORD)
    async with connected() as (sock, peer):
        sending = asyncio.ensure_future(peer.send(message))
        read = bytearray()
        while len(read) < len(message):
            ahead = await sock.peek(100)
            data = await sock.read(5000)
            assert data.startswith(ahead[: len(data)])
            read += data
            if len(message) - len(read) >= 3000:
                read += await sock.read_exactly(3000)
        assert read == message
        await sending


async def test_a_cancelled_read_takes_nothing(make_task):
    async with connected() as (sock, peer):
        reading = make_task(sock.read())
        await asyncio.sleep(0)
        with pytest.raises(SocketBusyError) as busy:
            await sock.read()
        assert busy.value.peer_address == sock.peer_address
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        await peer.send(b"kept")
        assert await sock.read() == b"kept"


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_write_that_finds_no_room_is_finished(cancelled, slow_ways, make_task):
    piece = random.Random(2).randbytes(4 * RECORD)
    written = 0

    async def write_until_blocked(sock):
        nonlocal written
        while True:
            written += 1
            await sock.write(piece)

    async with connected() as (sock, peer):
        writing = make_task(write_until_blocked(sock))
        while "_finish_send" not in slow_ways:
            await asyncio.sleep(0)
        if cancelled:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
        count = written
        for _ in range(count):  # what was begun is whole
            assert await peer.receive_exactly(len(piece)) == piece
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        for _ in range(written - count):
            assert await peer.receive_exactly(len(piece)) == piece
        await sock.write(b"the next")
        assert await peer.receive_exactly(8) == b"the next"


async def test_a_loss_names_the_connection_and_is_told_again():
    async with connected() as (sock, peer):
        reading = await begin(sock.read())
        peer.reset()
        with pytest.raises(ConnectionLostError) as lost:
            await reading
        assert lost.value._ends is sock._wire
        with pytest.raises(ConnectionLostError):
            await sock.read()
        with pytest.raises(ConnectionLostError):
            await sock.write(b"x")


@pytest.mark.requires_program("openssl")
async def test_keys_change_on_the_way():
    async def echo(sock):
        await sock.start_tls(contexts().server, server_side=True)
        async for data in sock:
            await sock.write(data)

    async def until(said, text):
        while text not in (line := await said.readline()):
            assert line

    async with AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        spawner = ConnectionSpawner(echo)
        serving = asyncio.ensure_future(spawner.serve(server))
        client = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", str(server.address)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(20):
            for text in (b"before", b"K", b"between", b"K", b"after"):
                client.stdin.write(text + b"\n")
                await client.stdin.drain()
                await until(client.stdout, b"KEYUPDATE" if text == b"K" else text)
            client.stdin.write(b"Q\n")
            await client.stdin.drain()
            await client.communicate()
        await spawner.drain(5)
        await serving


@pytest.mark.parametrize("name", ["_lower", "_tls", "_incoming", "_encrypted"])
async def test_what_an_open_connection_consists_of_cannot_be_deleted(name):
    async with connected() as (sock, peer):
        with pytest.raises(AttributeError):
            delattr(sock._wire, name)
        await sock.write(b"x")
        assert await peer.receive(10) == b"x"
