"""Every exception that a docstring of a socket or server lists under "Raises" is really raised.

The table has one small provocation for each; a new line under "Raises" without an entry here fails, and so
does an entry whose line is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import io
import re
import select
import socket
from unittest import mock

import pytest
from helpers import begin, no_descriptors, until
from peers import RawPeer
from tls_peers import TlsOverSocket, contexts

import aionet
from aionet import (
    AsyncTcpConnectionServer,
    AsyncTcpSocket,
    AsyncUnixConnectionServer,
    AsyncUnixSocket,
    TcpOptions,
    UnixOptions,
    accepting,
)
from aionet.scope import Scope, set_scope

BIG = bytes(16 << 20)

CANNOT_BE_PROVOKED = {
    # on the systems that these tests run on
    ("connect_to", "ResourceExhaustedError"),  # but where system calls fail: tests/faults
    ("send_eof", "ResourceExhaustedError"),
    ("tcp_info", "NotImplementedError"),
    ("unacknowledged", "NotImplementedError"),
    ("wait_acknowledged", "NotImplementedError"),
}


def fill(sock):
    """Leave no room for a write."""
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(BIG)


class Stage:
    """A pair of connected ends, the server they met at, and ways to spoil it all."""

    def __init__(self, kind, directory, clean_up):
        self.kind, self.directory, self.clean_up = kind, directory, clean_up
        self.tcp = kind == "tcp"
        self.socket_class = AsyncTcpSocket if self.tcp else AsyncUnixSocket
        self.server_class = AsyncTcpConnectionServer if self.tcp else AsyncUnixConnectionServer
        self.options = TcpOptions(linger=0.05) if self.tcp else UnixOptions(linger=0.05)

    def new_server(self):
        server = self.server_class(
            ("127.0.0.1", 0) if self.tcp else f"{self.directory}/s", options=self.options
        )
        self.clean_up.callback(server.close)
        return server

    async def connect(self):
        if self.tcp:
            return await RawPeer.connect(self.server.address.sockaddr())
        return await RawPeer.connect(self.server.address.path, socket.AF_UNIX)

    async def set_up(self):
        self.server = self.new_server()
        self.peer = self.clean_up.enter_context(await self.connect())
        self.sock = await self.server.accept()
        self.clean_up.callback(self.sock.abort)

    async def lose(self):
        await self.sock.write(b"unread")
        self.peer.reset()
        await until(lambda: self._poll())

    def _poll(self):

        poll = select.poll()
        poll.register(self.sock.fileno(), 0)
        return poll.poll(0)  # POLLHUP or POLLERR: the loss has arrived


class Unreadable(io.RawIOBase):
    def read(self, count=-1):
        raise OSError(errno.EIO, "the disk is gone")


READERS = {
    "read": lambda sock: sock.read(),
    "read_exactly": lambda sock: sock.read_exactly(1),
    "read_until": lambda sock: sock.read_until(b"\n"),
    "read_line": lambda sock: sock.read_line(),
    "read_into": lambda sock: sock.read_into(bytearray(1)),
    "peek": lambda sock: sock.peek(),
}
WRITERS = {
    "write": lambda sock: sock.write(b"x"),
    "send_file": lambda sock: sock.send_file(io.BytesIO(b"x")),
    "send_eof": lambda sock: sock.send_eof(),
}
TLS = {"start_tls": lambda sock: sock.start_tls(True, server_hostname="server.example")}
OTHERS = {
    "wait_acknowledged": lambda sock: sock.wait_acknowledged(),
    "tcp_info": lambda sock: asyncio.to_thread(sock.tcp_info),
    "raw_socket": lambda sock: asyncio.to_thread(lambda: sock.raw_socket),
    "unacknowledged": lambda sock: asyncio.to_thread(lambda: sock.unacknowledged),
}
TABLE = {}


def provokes(method, error):
    def enter(function):
        TABLE[method, error] = function
        return function

    return enter


def _enter_common():
    def after_loss(call):
        async def provoke(stage):
            await stage.lose()
            await call(stage.sock)

        return provoke

    def after_closing(call):
        async def provoke(stage):
            stage.sock.abort()
            await call(stage.sock)

        return provoke

    def while_busy(call):
        async def provoke(stage):
            reading = await begin(stage.sock.read())
            try:
                await call(stage.sock)
            finally:
                reading.cancel()
                await asyncio.wait([reading])

        return provoke

    def without_descriptors(call):
        async def provoke(stage):
            stage.server.close()  # the reactor has no other socket, and has closed its epoll instance
            fill(stage.sock.raw_socket)
            with no_descriptors():
                await call(stage.sock)

        return provoke

    for name, call in {**READERS, **WRITERS, **TLS}.items():
        if (name, "ResourceExhaustedError") not in CANNOT_BE_PROVOKED:
            TABLE[name, "ResourceExhaustedError"] = without_descriptors(call)
    for name, call in {**READERS, **WRITERS}.items():
        TABLE[name, "ConnectionLostError"] = after_loss(call)
    for name, call in {**READERS, **WRITERS, **OTHERS}.items():
        TABLE[name, "SocketClosedError"] = after_closing(call)
    for name, call in READERS.items():
        TABLE[name, "SocketBusyError"] = while_busy(call)

    def simply(call):
        return lambda stage: call(stage.sock)

    for name, error, call in [
        ("read", "ValueError", lambda sock: sock.read(0)),
        ("read_exactly", "ValueError", lambda sock: sock.read_exactly(-1)),
        ("read_until", "ValueError", lambda sock: sock.read_until(b"")),
        ("read_until", "TypeError", lambda sock: sock.read_until()),
        ("read_into", "ValueError", lambda sock: sock.read_into(bytearray())),
        ("read_into", "TypeError", lambda sock: sock.read_into(b"constant")),
        ("peek", "ValueError", lambda sock: sock.peek(1, at_least=2)),
        ("peek", "TypeError", lambda sock: sock.peek(1.5)),
        ("write", "TypeError", lambda sock: sock.write("text")),
        ("write", "BufferError", lambda sock: sock.write(memoryview(b"text")[::2])),
        ("send_file", "ValueError", lambda sock: sock.send_file(io.BytesIO(), -1)),
        ("send_file", "TypeError", lambda sock: sock.send_file(io.StringIO())),
        ("send_file", "OSError", lambda sock: sock.send_file(Unreadable())),
    ]:
        TABLE[name, error] = simply(call)

    def with_input(data, call):
        async def provoke(stage):
            stage.peer.send_now(data)
            stage.peer.half_close()
            await call(stage.sock)

        return provoke

    for name, error, data, call in [
        ("read_exactly", "IncompleteReadError", b"x", lambda sock: sock.read_exactly(2)),
        ("read_until", "IncompleteReadError", b"x", lambda sock: sock.read_until(b"\n")),
        ("read_until", "LimitExceededError", b"xxx", lambda sock: sock.read_until(b"\n", max_bytes=2)),
        ("read_line", "IncompleteReadError", b"x", lambda sock: sock.read_line()),
        ("read_line", "LimitExceededError", b"xxx", lambda sock: sock.read_line(max_bytes=2)),
    ]:
        TABLE[name, error] = with_input(data, call)


_enter_common()


@provokes("aclose", "DeliveryError")
async def _(stage):
    writing = await begin(stage.sock.write(BIG))
    writing.cancel()
    await asyncio.wait([writing])
    await stage.sock.aclose()


@provokes("send_eof", "ConnectionLostError")
async def _(stage):
    writing = await begin(stage.sock.write(BIG))
    ending = await begin(stage.sock.send_eof())
    stage.peer.reset()
    await asyncio.wait([writing])
    writing.exception()
    await ending


@provokes("wait_acknowledged", "DeliveryError")
async def _(stage):
    writing = await begin(stage.sock.write(BIG))
    waiting = await begin(stage.sock.wait_acknowledged())
    stage.peer.reset()
    await asyncio.wait([writing])
    writing.exception()
    await waiting


@provokes("connect_to", "ConnectError")
async def _(stage):
    target = stage.server.address
    stage.server.close()
    await stage.socket_class().connect_to(target)


@provokes("connect_to", "SocketBusyError")
async def _(stage):
    await stage.sock.connect_to(stage.server.address)


@provokes("connect_to", "SocketClosedError")
async def _(stage):
    stage.sock.abort()
    await stage.sock.connect_to(stage.server.address)


@provokes("connect_to", "TypeError")
async def _(stage):
    await stage.socket_class().connect_to(None)


@provokes("connect_to", "ValueError")
async def _(stage):
    await stage.socket_class().connect_to(":" if stage.tcp else "")


async def _lay_tls(stage):
    stage.peer.sock = TlsOverSocket(stage.peer.sock, contexts().client, server_side=False)
    shaking = asyncio.ensure_future(stage.peer.sock.shake_hands())
    await stage.sock.start_tls(contexts().server, server_side=True)
    await shaking


@provokes("read", "TlsTruncatedError")
async def _(stage):
    await _lay_tls(stage)
    stage.peer.sock.sock.shutdown(socket.SHUT_WR)
    await stage.sock.read()


@provokes("read", "TlsError")
async def _(stage):
    await _lay_tls(stage)
    stage.peer.sock.sock.sendall(b"tampered with")
    await stage.sock.read()


@provokes("write", "TlsError")
async def _(stage):
    with contextlib.suppress(aionet.TlsError):
        await TABLE["read", "TlsError"](stage)
    await stage.sock.write(b"x")


@provokes("connect_to", "TlsError")
async def _(stage):
    connecting = await begin(
        stage.socket_class().connect_to(stage.server.address, tls=True, server_hostname="server.example")
    )
    async with await stage.server.accept() as accepted:
        await accepted.write(b"hello in plain text")
        await connecting


async def _start_tls(stage):
    await TLS["start_tls"](stage.sock)


@provokes("start_tls", "TlsError")
async def _(stage):
    stage.peer.send_now(b"hello in plain text")
    await _start_tls(stage)


@provokes("start_tls", "SocketBusyError")
async def _(stage):
    reading = await begin(stage.sock.read())
    try:
        await _start_tls(stage)
    finally:
        reading.cancel()
        await asyncio.wait([reading])


@provokes("start_tls", "ConnectionLostError")
async def _(stage):
    await stage.lose()
    await _start_tls(stage)


@provokes("start_tls", "SocketClosedError")
async def _(stage):
    stage.sock.abort()
    await _start_tls(stage)


@provokes("start_tls", "TypeError")
async def _(stage):
    await stage.sock.start_tls(None)


@provokes("start_tls", "ValueError")
async def _(stage):
    await stage.sock.start_tls(True, server_hostname="")


async def _resolve_nothing(host, port):
    return []


@provokes("connect_to", "ResolveError")
async def _(stage):
    set_scope(asyncio.get_running_loop(), Scope(resolver=_resolve_nothing))
    await AsyncTcpSocket().connect_to(("name.example", 1))


@provokes("listen", "ResolveError")
async def _(stage):
    set_scope(asyncio.get_running_loop(), Scope(resolver=_resolve_nothing))
    await AsyncTcpConnectionServer.listen(("name.example", 1))


@provokes("accept", "SocketClosedError")
async def _(stage):
    stage.server.close()
    await stage.server.accept()


@provokes("accept", "SocketBusyError")
async def _(stage):
    await stage.server.accept(stage.sock)


@provokes("accept", "TypeError")
async def _(stage):
    await stage.server.accept("socket")


@provokes("accept", "OSError")
async def _(stage):
    with mock.patch.object(accepting, "accept", side_effect=OSError(errno.EINVAL, "unusable")):
        try:
            await asyncio.wait_for(stage.server.accept(), 30)
        except TimeoutError:  # an OSError too, but not this one
            pytest.fail("it waits")


@provokes("from_fd", "ValueError")
async def _(stage):
    stage.server_class.from_fd(stage.peer.sock.fileno())


@provokes("from_fd", "TypeError")
async def _(stage):
    stage.server_class.from_fd(stage.server.raw_sockets[0].fileno(), tls="cert.pem")


@provokes("from_fd", "OSError")
async def _(stage):
    stage.server_class.from_fd(1 << 20)


@provokes("()", "TypeError")
async def _(stage):
    stage.server_class(stage.server.address, backlog="many")


@provokes("()", "ValueError")
async def _(stage):
    stage.server_class(stage.server.address, backlog=0)


@provokes("()", "OSError")
async def _(stage):
    stage.server_class(stage.server.address)


CLASSES = {
    "tcp": (AsyncTcpSocket, AsyncTcpConnectionServer),
    "unix": (AsyncUnixSocket, AsyncUnixConnectionServer),
}


def documented(owner):
    """`(method, name of the exception)` for all that `owner`'s docstrings list; "()" is the constructor."""
    found = set()
    for name in ["()", *(name for name in dir(owner) if not name.startswith("_"))]:
        member = owner if name == "()" else inspect.getattr_static(owner, name)
        text = inspect.getdoc(getattr(member, "__func__", member)) or ""
        for raises in re.findall(r"Raises.*?(?=\n\n|\Z)", text, re.DOTALL):
            found |= {(name, error) for error in re.findall(r"\b[A-Z]\w*Error\b", raises)}
    return found


ALL = [
    (kind, *entry)
    for kind, owners in CLASSES.items()
    for owner in owners
    for entry in sorted(documented(owner))
]


def test_the_table_is_complete_and_has_nothing_else():
    listed = {(method, error) for _, method, error in ALL}
    assert listed - set(TABLE) - CANNOT_BE_PROVOKED == set(), "documented, but not provoked"
    assert set(TABLE) - listed == set(), "provoked, but not documented"


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize(
    ("kind", "method", "error"), [entry for entry in ALL if entry[1:] in TABLE], ids=lambda part: part
)
async def test_it_is_raised(kind, method, error, tmp_path):
    expected = getattr(aionet, error, None) or getattr(__import__("builtins"), error)
    with contextlib.ExitStack() as clean_up:
        stage = Stage(kind, tmp_path, clean_up)
        await stage.set_up()
        with pytest.raises(expected):
            await TABLE[method, error](stage)
        set_scope(asyncio.get_running_loop(), None)
