"""Conversations with a raw peer while system calls fail: a program for `test_conversations.py`.

Theory of operation
-------------------
It runs with `faults.c` preloaded. Its arguments are a loop, a transport and a list of cases in JSON, each a
kind of call, which one is the first to fail, how many do, and the errno (0: a short count). For each case two
ends converse: one is a socket of ours, the other a blocking socket in a thread. The conversation makes every
operation wait: reads for input, a write for room, an accept or a connect for the other side.

*The caller* tries an operation again when it raised `ResourceExhaustedError`, and gives up at any other
error. *Judging*: every error of ours names its operation, both ends, and the errno of the plan; what the peer
has received is what was written, or its beginning, and then the peer has seen a reset. A conversation that
takes too long, or more system calls than it can need, fails. So does what the loop complains of. After each
case there is a conversation in which nothing fails.

It prints the number of calls that there are of each kind, if it gets no cases, else a line for each case.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aionet

from .plans import KINDS, LOOPS, calls, failed, plan

PATIENCE = 10.0
MOST_CALLS = 2000
BIG = bytes(range(251)) * 2000


class Peer(threading.Thread):
    """The other end, which does its next step when it is allowed to."""

    def __init__(
        self, make_socket: Callable[[], socket.socket], *, tls: bool, tls_server: bool = False
    ) -> None:
        super().__init__(daemon=True)
        self._make_socket = make_socket
        self._tls = tls
        self._tls_server = tls_server
        self._steps = threading.Semaphore(0)
        self._given_up = False
        self.received = b""
        self.ended = ""

    def step(self) -> None:
        self._steps.release()

    def give_up(self) -> None:
        self._given_up = True
        self._steps.release(10)

    def run(self) -> None:
        try:
            with self._make_socket() as sock:
                sock.settimeout(PATIENCE)
                self._converse(sock)
        except (OSError, RuntimeError) as error:
            self.ended = "reset" if isinstance(error, ConnectionError) else repr(error)

    def _converse(self, sock: socket.socket) -> None:
        end: Any = sock
        if self._tls:
            context = CONTEXTS.server if self._tls_server else CONTEXTS.client
            end = tls_peers.TlsOverSocket(sock, context, server_side=self._tls_server)
            end.shake_hands_now()
        with contextlib.suppress(OSError):  # reset: it is to read what there is all the same
            self._next()
            end.sendall(b"hello")
            self._next()
            end.sendall(b"again")
            self._next()
            end.shutdown(socket.SHUT_WR)
        while data := end.recv(1 << 16):
            self.received += data
        self.ended = "clean"

    def _next(self) -> None:
        if not self._given_up and not self._steps.acquire(timeout=PATIENCE):
            raise RuntimeError("the next step was never allowed")


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


class Caller:
    """Does operations, and remembers how they ended."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self._number = number
        self.errors: list[aionet.AionetError] = []
        self.written = b""
        self.unfinished = b""

    async def do(self, operation: Callable[[], Awaitable[Any]]) -> Any:
        for _ in range(100):
            try:
                return await operation()
            except aionet.ResourceExhaustedError as error:
                self.note(error)
                await asyncio.sleep(0)
        raise AssertionError(f"{self.name}: it never succeeds")

    async def write(self, data: bytes, start: Callable[[], Awaitable[Any]]) -> None:
        self.unfinished = data
        assert await self.do(start) == len(data)
        self.written += data
        self.unfinished = b""

    def note(self, error: aionet.AionetError, *, connecting: bool = False) -> None:
        where = (error.operation, error.peer_address, connecting or error.local_address)
        assert all(where), f"{self.name}: {error!r} says {where}"
        if not self.errors:
            numbers = [getattr(cause, "errno", None) for cause in causes_of(error)]
            assert self._number in numbers, f"{self.name}: {error!r} has errno {numbers}"
        self.errors.append(error)


async def converse(sock: Any, caller: Caller, peer: Peer, *, tls: bool) -> None:
    if tls and sock.tls is None:
        await sock.start_tls(CONTEXTS.server, server_side=True)
    reading = asyncio.ensure_future(caller.do(lambda: sock.read_exactly(5)))
    await turns()
    peer.step()
    assert await reading == b"hello"
    await caller.write(b"small", lambda: sock.write(b"small"))
    reading = asyncio.ensure_future(caller.do(lambda: sock.read()))
    await turns()
    peer.step()
    assert await reading == b"again"
    writing = asyncio.ensure_future(caller.write(BIG, lambda: sock.write(BIG)))
    await turns()
    peer.step()
    await writing
    pieces = [b"pieces", b" ", b"of", b" a write"]
    await caller.write(b"".join(pieces), lambda: sock.write_vectored(pieces))
    if hasattr(sock, "wait_acknowledged"):
        await caller.do(sock.wait_acknowledged)
    assert await caller.do(lambda: sock.read()) == b""


async def turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


class Stage:
    """Where a transport's conversations take place."""

    def __init__(self, transport: str, directory: str) -> None:
        self.tls = transport.endswith("tls")
        self.dials = transport.startswith("dialed")
        self.unix = transport == "unix"
        self._path = os.path.join(directory, "s")

    async def converse(self, caller: Caller) -> Peer:
        if self.dials:
            return await self._dial(caller)
        server: Any
        if self.unix:
            options: Any = aionet.UnixOptions(send_buffer=1 << 16)
            server = aionet.AsyncUnixConnectionServer(self._path, options=options)
        else:
            options = aionet.TcpOptions(send_buffer=1 << 16, close_notify_wait=0.2)
            server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), options=options)
        async with server:
            accepting = asyncio.ensure_future(server.accept())
            await turns()
            peer = Peer(lambda: self._connected(server.address), tls=self.tls)
            peer.start()
            await self._to_the_end(await accepting, caller, peer)
        return peer

    def _connected(self, address: Any) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX if self.unix else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        sock.connect(address.path if self.unix else address.sockaddr())
        return sock

    async def _dial(self, caller: Caller) -> Peer:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(PATIENCE)
            peer = Peer(lambda: listener.accept()[0], tls=self.tls, tls_server=True)
            peer.start()
            options = aionet.TcpOptions(send_buffer=1 << 16, close_notify_wait=0.2)
            sock = aionet.AsyncTcpSocket(options=options)
            tls: dict[str, Any] = (
                {"tls": CONTEXTS.client, "server_hostname": tls_peers.HOST} if self.tls else {}
            )
            try:
                await sock.connect_to(listener.getsockname()[:2], **tls)
            except aionet.AionetError as error:
                caller.note(error, connecting=isinstance(error, aionet.ConnectError))
                peer.give_up()
                with contextlib.suppress(OSError):  # the attempt that failed may never have reached it
                    socket.create_connection(listener.getsockname()[:2]).close()
            else:
                await self._to_the_end(sock, caller, peer)
            peer.join(PATIENCE)
        return peer

    async def _to_the_end(self, sock: Any, caller: Caller, peer: Peer) -> None:
        try:
            await converse(sock, caller, peer, tls=self.tls)
        except aionet.AionetError as error:
            caller.note(error)
        finally:
            peer.give_up()
            with contextlib.suppress(aionet.DeliveryError):
                await sock.aclose()
            assert sock.closed


def judge(stage: Stage, caller: Caller, peer: Peer) -> None:
    peer.join(PATIENCE)
    assert not peer.is_alive(), f"{caller.name}: the peer still waits"
    lost = [error for error in caller.errors if not isinstance(error, aionet.ResourceExhaustedError)]
    if not lost and peer.ended != "reset":
        assert peer.received == caller.written, (
            f"{caller.name}: lost {len(caller.written) - len(peer.received)} bytes"
        )
    assert peer.ended in ("clean", "reset"), f"{caller.name}: the peer met {peer.ended}"
    assert (caller.written + caller.unfinished).startswith(peer.received), f"{caller.name}: changed bytes"
    if peer.ended == "clean" and not stage.unix:  # which knows no reset
        torn = len(peer.received) - len(caller.written)
        assert torn == 0, f"{caller.name}: a clean end {torn} bytes off, after {caller.errors}"
    if peer.ended == "reset":  # as where close_notify could not be sent after everything else was
        whole = stage.tls and peer.received == caller.written
        assert caller.errors or whole, f"{caller.name}: a reset for no reason"


async def run_case(stage: Stage, kind: str, first: int, count: int, number: int) -> str:
    name = f"{kind} {first}+{count} {errno.errorcode.get(number, 'short')}"
    caller = Caller(name, number)
    plan(kind, first, count, number)
    try:
        async with asyncio.timeout(PATIENCE):
            peer = await stage.converse(caller)
    finally:
        made, seen = failed(kind), calls(kind)
        plan(kind, 1, 0, 0)
    judge(stage, caller, peer)
    assert seen < MOST_CALLS, f"{name}: {seen} calls"
    after = Caller(f"after {name}", 0)
    async with asyncio.timeout(PATIENCE):
        judge(stage, after, await stage.converse(after))
    assert not after.errors, f"{after.name}: {after.errors}"
    errors = ", ".join(sorted({type(error).__name__ for error in caller.errors}))
    return f"{name}: failed {made}, {errors or 'no error'}"


async def main(transport: str, cases: list[Any]) -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(repr(context)))
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(transport, directory)
        if not cases:
            for kind in KINDS:
                plan(kind, 1, 0, 0)
            caller = Caller("in peace", 0)
            judge(stage, caller, await stage.converse(caller))
            print(json.dumps({kind: calls(kind) for kind in KINDS}))
        for case in cases:
            started, lines = time.monotonic(), len(LINES)
            print(await run_case(stage, *case), flush=True)
            seconds = time.monotonic() - started
            assert len(LINES) - lines <= 1 + seconds, f"{case}: {LINES[lines:]}"
            assert not complaints, f"{case}: the loop complained: {complaints}"


LINES: list[str] = []


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        assert record.exc_info is None, record
        LINES.append(record.getMessage())


if __name__ == "__main__":
    loop, transport, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    logging.getLogger("aionet").addHandler(_Lines())
    if transport.endswith("tls"):
        import tls_peers  # which takes a while

        CONTEXTS = tls_peers.contexts()
    with asyncio.Runner(loop_factory=LOOPS[loop]()) as runner:
        runner.run(main(transport, cases))
