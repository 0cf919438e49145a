"""Sockets and tasks that the program holds no reference to: what waits is kept, the rest is collected."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import socket
import struct
import tempfile

import pytest
from helpers import begin, open_sockets, until
from peers import RawPeer
from tls_peers import TlsOverSocket, contexts

import aionet

pytestmark = pytest.mark.asyncio

CONTENT = os.urandom(3 << 20)
SMALL = 64 * 1024


async def write(sock):
    await sock.write(CONTENT)


async def write_vectored(sock):
    await sock.write_vectored([CONTENT[i : i + 100_000] for i in range(0, len(CONTENT), 100_000)])


async def send_file(sock):
    with tempfile.TemporaryFile() as file:
        file.write(CONTENT)
        file.flush()
        await sock.send_file(file)


async def send_file_from_memory(sock):
    await sock.send_file(io.BytesIO(CONTENT))


WRITES = [write, write_vectored, send_file, send_file_from_memory]


@pytest.fixture(params=["tcp", "unix", "tls", "tls-unix"])
def kind(request):
    return request.param


@pytest.fixture
def eager_collector():
    """The collector runs at every allocation."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


@pytest.fixture
def scene(kind, tmp_path):
    """`await scene(handler)`: a peer whose connection runs `handler(sock)` in a task that nothing holds."""

    async def make(handler):
        if kind.endswith("unix"):
            server = aionet.AsyncUnixConnectionServer(
                tmp_path / "socket", options=aionet.UnixOptions(send_buffer=SMALL)
            )
            target, family = server.address.path, socket.AF_UNIX
        else:
            server = aionet.AsyncTcpConnectionServer(
                "127.0.0.1:0", options=aionet.TcpOptions(send_buffer=SMALL)
            )
            target, family = ("127.0.0.1", server.address.port), socket.AF_INET
        async with server:
            peer = await RawPeer.connect(target, family, receive_buffer=SMALL)
            sock = await server.accept()
        if kind.startswith("tls"):
            server_context, client_context = contexts()
            peer.sock = TlsOverSocket(peer.sock, client_context, server_side=False)
            await asyncio.gather(sock.start_tls(server_context, server_side=True), peer.sock.shake_hands())
            await peer_has_tickets(sock, peer)
        asyncio.create_task(handler(sock))  # noqa: RUF006 - that nothing refers to it is the point
        return peer

    return make


async def peer_has_tickets(sock, peer):
    """An exchange, after which nothing of the handshake is under way."""
    await sock.write(b"t")
    assert await peer.receive_exactly(1) == b"t"


async def handler_has_ended():
    """Return when no other task is left."""
    await until(lambda: len(asyncio.all_tasks()) == 1)


def collect():
    gc.collect()
    gc.collect()


@pytest.mark.parametrize("how", WRITES, ids=lambda how: how.__name__)
async def test_a_write_that_has_begun_arrives_whole(scene, how, eager_collector):
    blocked = asyncio.Event()

    async def handler(sock):
        async with sock:
            asyncio.get_running_loop().call_soon(blocked.set)
            await how(sock)

    with await scene(handler) as peer:
        await blocked.wait()
        collect()
        for _ in range(5):
            await asyncio.sleep(0)
            collect()
        assert await peer.receive_exactly(len(CONTENT)) == CONTENT
        assert await peer.receive() == b""
    await handler_has_ended()


async def test_a_write_goes_on_without_its_cancelled_task(scene):
    async def handler(sock):
        writing = await begin(sock.write(CONTENT))
        assert not writing.done()
        writing.cancel()
        ended.set_result(note(sock))

    ended = asyncio.get_running_loop().create_future()
    with await scene(handler) as peer:
        noted = await ended
        for _ in range(5):
            await asyncio.sleep(0)
            collect()
        with a_resource_warning():  # when all of it was sent, nothing holds the socket
            assert await peer.receive_exactly(len(CONTENT)) == CONTENT
            await until_collected(noted)


@pytest.mark.parametrize("name", ["read", "read_exactly", "read_into", "peek", "__anext__"])
async def test_a_task_that_reads_goes_on(scene, name):
    arguments = {"read_exactly": (1,), "read_into": (bytearray(1),)}.get(name, ())

    async def handler(sock):
        async with sock:
            await getattr(sock, name)(*arguments)
            await sock.write(b"reply")

    with await scene(handler) as peer:
        for _ in range(5):
            await asyncio.sleep(0)
            collect()
        peer.send_now(b"x")
        assert await peer.receive_exactly(5) == b"reply"
        assert await peer.receive() == b""
    await handler_has_ended()


@contextlib.contextmanager
def a_resource_warning():
    with pytest.warns(ResourceWarning) as warned:
        yield warned


def note(sock):
    """Return what `open_sockets` has of `sock`."""
    return sock.fileno(), open_sockets()[sock.fileno()]


async def until_collected(noted):
    """Return when the collector has closed what was noted."""
    await until(lambda: collect() or noted not in open_sockets().items())


@pytest.mark.parametrize(
    "before", ["nothing", "a wait to read", "a wait to write", "a look at its raw socket"]
)
async def test_a_socket_that_waits_for_nothing_is_collected_and_warns(scene, kind, before):
    async def handler(sock):
        if before == "a wait to read":
            assert await sock.read() == b"go"
        elif before == "a wait to write":
            await sock.write(CONTENT)
        elif before == "a look at its raw socket":
            assert sock.raw_socket.fileno() == sock.fileno()
        noted.set_result(note(sock))
        await sock.write(b"last")

    noted = asyncio.get_running_loop().create_future()
    with a_resource_warning(), await scene(handler) as peer:
        if before == "a wait to read":
            peer.send_now(b"go")
        if before == "a wait to write":
            assert await peer.receive_exactly(len(CONTENT)) == CONTENT
        assert await peer.receive_exactly(4) == b"last"
        await until_collected(await noted)
        if not kind.startswith("tls"):  # all was read and sent: an end and no reset
            assert await peer.receive() == b""


async def test_a_finished_task_does_not_keep_its_socket(scene):
    async def handler(sock):
        noted.append(note(sock))
        tasks.append(asyncio.create_task(sock.read()))
        tasks.append(asyncio.create_task(sock.write(b"x")))

    tasks, noted = [], []
    with a_resource_warning(), await scene(handler) as peer:
        assert await peer.receive_exactly(1) == b"x"
        peer.send_now(b"y")
        await until(lambda: len(tasks) == 2 and all(task.done() for task in tasks))
        await until_collected(noted[0])
    assert await tasks[0] == b"y"


async def test_many_dropped_clients_leave_nothing(loop_complaints):
    async with aionet.AsyncTcpConnectionServer("127.0.0.1:0") as server:
        with a_resource_warning() as warned:
            noted = []
            for _ in range(50):
                client = await aionet.AsyncTcpSocket().connect_to(server.address)
                async with await server.accept() as accepted:
                    reading = asyncio.create_task(client.read())
                    await asyncio.sleep(0)
                    await accepted.write(b"x")
                    assert await reading == b"x"
                noted.append(note(client))
                del client, reading
            await until(lambda: collect() or not set(noted) & set(open_sockets().items()))
    assert len(warned) >= 50


def linger_of(sock):
    return sock.raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)


async def test_what_a_close_does_is_as_before_after_a_write_that_waited():
    """SO_LINGER is set while bytes are unsent, and is then what the program had set."""
    options = aionet.TcpOptions(send_buffer=SMALL)
    async with aionet.AsyncTcpConnectionServer("127.0.0.1:0", options=options) as server:
        peer = await RawPeer.connect(("127.0.0.1", server.address.port), receive_buffer=SMALL)
        async with await server.accept() as sock:
            mine = struct.pack("ii", 1, 7)
            sock.raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, mine)
            with peer:
                for _ in range(2):
                    writing = await begin(sock.write(CONTENT))
                    assert linger_of(sock) == struct.pack("ii", 1, 0)
                    assert await peer.receive_exactly(len(CONTENT)) == CONTENT
                    await writing
                    assert linger_of(sock) == mine
            sock.raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
