"""Counts references: each scenario, done over and over, has to leave as many as there were.

    python reference_leaks.py [--runs 50] [--batches 4] [--loop asyncio|uvloop|aionet] [SCENARIO ...]

Theory of operation
-------------------
A *scenario* is a small life of a few sockets, in good order or not. It is done a few times as a warm-up, so
that caches are filled and lists have grown, and then in batches of `runs`. Around each batch the collector
runs, and what is alive is counted: references (`sys.gettotalrefcount`) on a debug build of the interpreter,
allocated blocks (`sys.getallocatedblocks`) on any other. A leak makes every batch grow; a cache that fills or
a table that doubles shows in some batches only. So the batch that grew least is what counts, and a scenario
leaks if even that one grew by `tolerance` or more per run, and does so again when it is measured for longer.

The script needs nothing but aionet, because a debug interpreter has nothing else (`debug_interpreter.py`
gives it that). Peers are blocking sockets in the same thread: the loopback interface takes a connection, and
what fits into its buffers, without anybody accepting or reading.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import contextvars
import gc
import inspect
import io
import logging
import socket
import struct
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aionet

SCENARIOS: dict[str, Callable[..., Any]] = {}
BIG = bytes(1 << 20)  # more than the kernel takes at once
SMALL_BUFFERS = aionet.TcpOptions(send_buffer=32 * 1024, linger=0.01)
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
PATIENCE = 10.0

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Operation = Coroutine[Any, Any, Any]


def scenario(function: Callable[..., Any]) -> Callable[..., Any]:
    """Enter `function`: a coroutine function, or a plain one that is given the loop factory."""
    SCENARIOS[function.__name__] = function
    return function


# Ends -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tcp_server(options: aionet.TcpOptions | None = None) -> Iterator[aionet.AsyncTcpConnectionServer]:
    """A server."""
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), options=options)
    try:
        yield server
    finally:
        server.close()


@contextlib.asynccontextmanager
async def accepted(
    options: aionet.TcpOptions | None = None,
) -> AsyncIterator[tuple[aionet.AsyncTcpSocket, socket.socket]]:
    """A socket that was accepted, and its peer, a blocking one."""
    with tcp_server(options) as server, raw_client(server) as peer:
        sock = await server.accept()
        try:
            yield sock, peer
        finally:
            sock.abort()


@contextlib.contextmanager
def raw_client(server: aionet.AsyncTcpConnectionServer) -> Iterator[socket.socket]:
    """A blocking socket that is connected to `server`."""
    with socket.socket() as peer:
        peer.settimeout(PATIENCE)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # else the kernel may take all of BIG
        peer.connect(server.address.sockaddr())
        yield peer


async def turns(count: int = 4) -> None:
    """Let every task run until it waits."""
    for _ in range(count):
        await asyncio.sleep(0)


async def begun(operation: Operation) -> asyncio.Task[Any]:
    """Return a task that has run until it waits."""
    task = asyncio.create_task(operation)
    await turns()
    return task


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and see it end."""
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def reset(peer: socket.socket) -> None:
    """Close with RST."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    peer.close()


async def expect(error: type[Exception], operation: Operation) -> None:
    """Await what has to raise `error`."""
    try:
        await operation
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


# Reading ----------------------------------------------------------------------------------------------------


@scenario
async def echo() -> None:
    async with accepted() as (sock, peer):
        for _ in range(3):
            peer.send(b"hello")
            await sock.write(await sock.read())
            assert peer.recv(10) == b"hello"


@scenario
async def buffered_reads() -> None:
    async with accepted() as (sock, peer):
        peer.send(b"a line\nand;some\0more and a rest\n")
        assert await sock.read_line() == b"a line\n"
        assert await sock.read_until(b";", b"\0") == b"and;"
        assert await sock.read_until(b";", b"\0") == b"some\0"
        assert await sock.read_exactly(4) == b"more"
        await expect(aionet.LimitExceededError, sock.read_line(max_bytes=3))
        assert await sock.read() == b" and a rest\n"


@scenario
async def reads_that_wait() -> None:
    async with accepted() as (sock, peer):
        for read in (sock.read_line, sock.read_until, sock.read_exactly, sock.read):
            task = await begun(read(*{"read_until": (b"\n",), "read_exactly": (3,)}.get(read.__name__, ())))
            for byte in (b"a", b"b", b"\n"):
                peer.send(byte)
                await turns(2)
            await task
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await sock.read()


@scenario
async def incomplete_read() -> None:
    async with accepted() as (sock, peer):
        peer.send(b"too little")
        peer.shutdown(socket.SHUT_WR)
        await expect(aionet.IncompleteReadError, sock.read_exactly(100))
        assert await sock.read() == b""


@scenario
async def read_into() -> None:
    async with accepted() as (sock, peer):
        buffer = bytearray(10)
        task = await begun(sock.read_into(buffer))
        peer.send(b"hello")
        assert await task == 5
        await cancel(await begun(sock.read_into(memoryview(buffer)[5:])))


@scenario
async def peek() -> None:
    async with accepted() as (sock, peer):
        peer.send(b"hello")
        assert await sock.peek(3) == b"hel"
        await cancel(await begun(sock.peek(9, at_least=6)))
        assert await sock.read_exactly(5) == b"hello"
        await cancel(await begun(sock.peek()))


@scenario
async def async_for() -> None:
    async with accepted() as (sock, peer):
        peer.send(b"hello")
        peer.shutdown(socket.SHUT_WR)
        assert [chunk async for chunk in sock] == [b"hello"]


@scenario
async def cancelled_read() -> None:
    async with accepted() as (sock, peer):
        await cancel(await begun(sock.read()))
        await cancel(await begun(sock.read_line()))
        task = await begun(sock.read())
        peer.send(b"hello")
        await cancel(task)
        assert await sock.read() == b"hello"


@scenario
async def read_timed_out() -> None:
    async with accepted() as (sock, _):
        for seconds in (0, 0.001):
            try:
                async with asyncio.timeout(seconds):
                    await sock.read()
            except TimeoutError:
                continue
            raise AssertionError


@scenario
async def busy_reader() -> None:
    async with accepted() as (sock, peer):
        task = await begun(sock.read())
        await expect(aionet.SocketBusyError, sock.read())
        await expect(aionet.SocketBusyError, sock.read_line())
        peer.send(b"x")
        await task


@scenario
async def never_awaited() -> None:
    async with accepted() as (sock, _):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for call in (sock.read, sock.read_line, sock.send_eof, sock.aclose):
                call()
            sock.write(b"x")


# Writing ----------------------------------------------------------------------------------------------------


@scenario
async def write_that_waits() -> None:
    async with accepted(SMALL_BUFFERS) as (sock, peer):
        task = await begun(sock.write(BIG))
        await take(peer, len(BIG))
        assert await task == len(BIG)


async def take(peer: socket.socket, count: int) -> None:
    """Receive `count` bytes, giving up control in between."""
    peer.settimeout(0)
    while count:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # the sender waits for nothing else
        with suppress(BlockingIOError):
            count -= len(peer.recv(1 << 20))
        await asyncio.sleep(0)


@scenario
async def write_vectored_in_part() -> None:
    async with accepted(SMALL_BUFFERS) as (sock, peer):
        pieces = [b"head", bytearray(BIG), memoryview(b"tail"), b""]
        task = await begun(sock.write_vectored(pieces))
        await take(peer, len(BIG) + 8)
        assert await task == len(BIG) + 8


@scenario
async def send_file() -> None:
    async with accepted() as (sock, peer):
        with tempfile.TemporaryFile() as file:
            file.write(b"0123456789")
            file.flush()
            assert await sock.send_file(file, 2, 5) == 5
        assert await sock.send_file(io.BytesIO(b"abc")) == 3
        assert peer.recv(8, socket.MSG_WAITALL) == b"23456abc"


@scenario
async def cancelled_send_file() -> None:
    async with accepted(SMALL_BUFFERS) as (sock, peer):
        with tempfile.TemporaryFile() as file:
            file.write(BIG)
            file.flush()
            await cancel(await begun(sock.send_file(file)))
        await take(peer, len(BIG))


@scenario
async def cancelled_write() -> None:
    async with accepted(SMALL_BUFFERS) as (sock, peer):
        begun_one = await begun(sock.write(bytearray(BIG)))
        withdrawn = [await begun(sock.write(b"x")), await begun(sock.write_vectored([b"y", b"z"]))]
        for task in (*withdrawn, begun_one):
            await cancel(task)
        await take(peer, len(BIG))
        assert await sock.write(b"the next") == 8


@scenario
async def cancelled_write_that_is_lost() -> None:
    async with accepted(SMALL_BUFFERS) as (sock, _):
        await cancel(await begun(sock.write(BIG)))
        await expect(aionet.DeliveryError, sock.aclose())


@scenario
async def acknowledged() -> None:
    async with accepted() as (sock, peer):
        await sock.write(b"hello")
        await sock.wait_acknowledged()
        peer.close()
        with suppress(aionet.DeliveryError, aionet.ConnectionLostError):
            await sock.write(b"to nobody")
            await sock.wait_acknowledged()


@scenario
async def acknowledgement_cancelled() -> None:
    async with accepted(SMALL_BUFFERS) as (sock, _):
        writing = await begun(sock.write(BIG))
        await cancel(await begun(sock.wait_acknowledged()))
        await cancel(writing)


# Ending -----------------------------------------------------------------------------------------------------


@scenario
async def reset_by_peer() -> None:
    async with accepted(SMALL_BUFFERS) as (sock, peer):
        reading, writing = await begun(sock.read()), await begun(sock.write(BIG))
        reset(peer)
        await expect(aionet.ConnectionLostError, reading)
        await expect(aionet.ConnectionLostError, writing)
        await expect(aionet.ConnectionLostError, sock.write(b"x"))


@scenario
async def close_under_a_reader() -> None:
    async with accepted() as (sock, _):
        task = await begun(sock.read_line())
        await sock.aclose()
        await expect(aionet.SocketClosedError, task)
        await expect(aionet.SocketClosedError, sock.read())


@scenario
async def abort_under_a_writer() -> None:
    async with accepted(SMALL_BUFFERS) as (sock, _):
        tasks = [await begun(sock.write(BIG)), await begun(sock.write(b"behind it"))]
        sock.abort()
        for task in tasks:
            await expect(aionet.SocketClosedError, task)


@scenario
async def half_close() -> None:
    async with accepted() as (sock, peer):
        await sock.write(b"last words")
        await sock.send_eof()
        await expect(aionet.SocketClosedError, sock.write(b"x"))
        assert peer.recv(100) == b"last words"
        assert peer.recv(100) == b""
        peer.close()
        assert await sock.read() == b""
        await sock.aclose()


@scenario
async def close_cut_short() -> None:
    async with accepted() as (sock, peer):
        peer.send(b"unread")
        await sock.write(b"reply")
        await cancel(await begun(sock.write(BIG * 16)))
        await cancel(await begun(sock.aclose()))
        assert sock.fileno() == -1


# Connecting -------------------------------------------------------------------------------------------------


@scenario
async def connect() -> None:
    with tcp_server() as server:
        async with await aionet.AsyncTcpSocket().connect_to(server.address) as client:
            given = await server.accept(aionet.AsyncTcpSocket())
            await client.write(b"hello")
            assert await given.read() == b"hello"
            await expect(aionet.SocketBusyError, client.connect_to(server.address))
            assert "->" in repr(client)
            assert client.raw_socket.fileno() == client.fileno()
            assert client.tcp_info()
            given.abort()


@scenario
async def connect_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        await expect(aionet.ConnectError, aionet.AsyncTcpSocket().connect_to(bound.getsockname()))


@scenario
async def connect_cut_short() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            await cancel(await begun(aionet.AsyncTcpSocket().connect_to(full.getsockname())))
            sock = aionet.AsyncTcpSocket()
            task = await begun(sock.connect_to(full.getsockname()))
            sock.abort()
            await expect(aionet.SocketClosedError, task)


@scenario
async def connect_to_a_name_with_two_addresses() -> None:
    async def resolver(host: str, port: int) -> list[aionet.SocketAddress]:
        return [aionet.SocketAddress("127.0.0.2", port), aionet.SocketAddress("127.0.0.1", port)]

    async with aionet.NetworkToolkit(resolver=resolver):
        with tcp_server() as server:
            async with await aionet.AsyncTcpSocket().connect_to(("two.example", server.address.port)):
                (await server.accept()).abort()


@scenario
async def unix_pair() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with aionet.AsyncUnixConnectionServer(f"{directory}/s") as server:
            client = await aionet.AsyncUnixSocket().connect_to(server.address)
            async with client, await server.accept() as sock:
                await client.write(b"hello")
                assert await sock.read() == b"hello"


# Serving ----------------------------------------------------------------------------------------------------


@scenario
async def cancelled_accept() -> None:
    with tcp_server() as server:
        tasks = [await begun(server.accept()) for _ in range(3)]
        with raw_client(server):
            await cancel(tasks.pop(0))
            (await tasks.pop(0)).abort()
        await cancel(tasks.pop())


@scenario
async def close_under_an_acceptor() -> None:
    with tcp_server() as server:
        task = await begun(server.accept())
        server.pause()
        server.resume()
        server.close()
        await expect(aionet.SocketClosedError, task)


@contextlib.asynccontextmanager
async def spawned(
    handler: Callable[[Any], Operation], clients: int = 1
) -> AsyncIterator[tuple[aionet.ConnectionSpawner[Any], list[socket.socket]]]:
    """A spawner that serves `clients`; it is drained at the end."""
    spawner: aionet.ConnectionSpawner[Any] = aionet.ConnectionSpawner(handler)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(tcp_server(SMALL_BUFFERS))
        serving = asyncio.create_task(spawner.serve(server))
        peers = [stack.enter_context(raw_client(server)) for _ in range(clients)]
        while spawner.stats.accepted < clients:
            await asyncio.sleep(0)
        yield spawner, peers
        await spawner.drain(0)
        await serving


async def echo_handler(sock: Any) -> None:
    async for chunk in sock:
        await sock.write(chunk)


@scenario
async def spawner() -> None:
    async with spawned(echo_handler, 3) as (_, peers):
        for peer in peers:
            peer.send(b"hello")
        await turns()
        for peer in peers:
            assert peer.recv(10) == b"hello"
            peer.close()


@scenario
async def spawner_drained() -> None:
    async with spawned(echo_handler, 3) as (found, _):
        assert (await found.drain(0.001)).cancelled == 3


@scenario
async def serve_cancelled() -> None:
    with tcp_server(SMALL_BUFFERS) as server, raw_client(server):
        spawner: aionet.ConnectionSpawner[Any] = aionet.ConnectionSpawner(echo_handler)
        serving = asyncio.create_task(spawner.serve(server))
        while not spawner.connections:
            await asyncio.sleep(0)
        await cancel(serving)


@scenario
async def handler_that_raises() -> None:
    async def handler(sock: Any) -> None:
        await sock.read()
        raise ZeroDivisionError

    async with spawned(handler) as (found, (peer,)):
        peer.send(b"x")
        while found.connections:
            await asyncio.sleep(0)
        assert found.stats.failed == 1


@scenario
async def handler_cancelled() -> None:
    async with spawned(echo_handler, 2) as (found, _):
        for connection in found.connections:  # one has perhaps not begun yet
            connection.task.cancel()
        while found.connections:
            await asyncio.sleep(0)
        assert found.stats.cancelled == 2


VARIABLE: contextvars.ContextVar[object] = contextvars.ContextVar("VARIABLE")


@scenario
async def context_variables() -> None:
    async def handler(sock: Any) -> None:
        VARIABLE.set(sock)
        await asyncio.create_task(echo_handler(VARIABLE.get()))

    VARIABLE.set(handler)
    async with spawned(handler) as (_, (peer,)):
        peer.send(b"x")
        await turns()


@scenario
async def task_groups() -> None:
    async def handler(sock: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(echo_handler(sock))
            group.create_task(asyncio.wait_for(asyncio.sleep(PATIENCE), PATIENCE))

    async with spawned(handler) as (_, (peer,)):
        peer.send(b"x")
        await turns()
        reset(peer)
        await turns()


@scenario
async def gathered() -> None:
    async with accepted() as (sock, peer):
        gathering = asyncio.gather(sock.read(), sock.write(b"x"), return_exceptions=True)
        peer.send(b"y")
        assert await gathering == [b"y", 1]
        await asyncio.wait_for(sock.write(b"z"), PATIENCE)


@scenario
async def toolkit() -> None:
    async with aionet.NetworkToolkit() as found:
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        client = await aionet.AsyncTcpSocket().connect_to(server.address)
        assert found.open_sockets == {server, client}


@scenario
def loop_left_with_open_sockets(loop_factory: LoopFactory) -> None:
    """The loop ends while a socket is waited for, another is open, and a server listens."""

    async def leave() -> None:
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        client = await aionet.AsyncTcpSocket().connect_to(server.address)
        sock = await server.accept()
        left.extend((server, client, sock, await begun(sock.read()), await begun(server.accept())))

    left: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(leave())
        left.clear()
        gc.collect()


# Counting ---------------------------------------------------------------------------------------------------


REFERENCES = hasattr(sys, "gettotalrefcount")
UNIT = "references" if REFERENCES else "blocks"
COST = 2 if REFERENCES else 0  # of remembering a count
TOLERANCE = 0.1 if REFERENCES else 0.3  # references are exact, blocks are not


@dataclass(frozen=True)
class Effort:
    """How often."""

    runs: int
    batches: int
    warm_up: int

    def doubled(self) -> Effort:
        """Twice as often."""
        return Effort(self.runs * 2, self.batches, self.warm_up * 2)


def growth_per_run(once: Callable[[], object], settle: Callable[[], object], effort: Effort) -> float:
    """Return by how much the batch grew that grew least, divided by its runs."""
    least = float("inf")
    for _ in range(effort.warm_up):
        once()
    for _ in range(effort.batches):
        before = alive(settle)
        for _ in range(effort.runs):
            once()
        least = min(least, alive(settle) - before - COST)
    return least / effort.runs


def alive(settle: Callable[[], object]) -> int:
    """Return how much there is, once what is garbage has gone."""
    settle()
    _forget_attribute_names()
    for _ in range(3):
        gc.collect()
    count: int = sys.gettotalrefcount() if REFERENCES else sys.getallocatedblocks()
    return count


def _forget_attribute_names() -> None:
    """Clear the interpreter's cache of them, which fills but slowly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()


async def drop_cancelled_timers() -> None:
    """Make the loop forget them: the stock one keeps them until they are many."""
    loop = asyncio.get_running_loop()
    for _ in range(300):
        loop.call_later(PATIENCE, print).cancel()
    await turns(2)


def measure(name: str, loop_factory: LoopFactory, effort: Effort) -> float:
    """Return the growth per run of scenario `name`; raise what it raises, and what its loop complains of."""
    function = SCENARIOS[name]
    if not inspect.iscoroutinefunction(function):
        return growth_per_run(lambda: function(loop_factory), lambda: None, effort)
    complaints: list[str] = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(repr(context)))
        run = loop.run_until_complete  # not `runner.run`, which handles SIGINT and does a lot for that
        grown = growth_per_run(lambda: run(function()), lambda: run(drop_cancelled_timers()), effort)
    if complaints:
        raise RuntimeError(f"{name}: the loop complained: {complaints[0]}")
    return grown


def grown_in_earnest(name: str, loop_factory: LoopFactory, effort: Effort, tolerance: float) -> float:
    """Measure, and what seems to leak once more, for longer: what only was not warm yet grows less then."""
    grown = measure(name, loop_factory, effort)
    return grown if grown < tolerance else measure(name, loop_factory, effort.doubled())


def loop_factory_of(name: str) -> LoopFactory:
    """Return what makes loops of that name."""
    if name == "uvloop":
        import uvloop

        factory: LoopFactory = uvloop.new_event_loop
        return factory
    return asyncio.SelectorEventLoop if name == "asyncio" else getattr(aionet, "new_event_loop")  # noqa: B009


def parse_arguments() -> argparse.Namespace:
    loops = ["asyncio", "uvloop", *["aionet"] * hasattr(aionet, "new_event_loop")]
    parser = argparse.ArgumentParser(description="Find scenarios that leave references behind.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all of them if none is named")
    parser.add_argument("--runs", type=int, default=50, help="in a batch")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=30, help="runs before the first batch")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="growth per run that is a leak")
    parser.add_argument("--loop", choices=loops, default="asyncio")
    arguments = parser.parse_args()
    unknown = set(arguments.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return arguments


def main() -> int:
    """Print the table; return 1 if a scenario leaks."""
    arguments = parse_arguments()
    logging.disable()  # handlers crash on purpose
    factory = loop_factory_of(arguments.loop)
    print(f"{aionet.implementation()} engine, {arguments.loop} loop, Python {sys.version.split()[0]}")
    print(f"{'scenario':40} {UNIT}/run", flush=True)
    effort = Effort(arguments.runs, arguments.batches, arguments.warm_up)
    leaking = []
    for name in arguments.scenarios or SCENARIOS:
        grown = grown_in_earnest(name, factory, effort, arguments.tolerance)
        print(f"{name:40} {grown:+.2f}", flush=True)
        if grown >= arguments.tolerance:
            leaking.append(name)
    if leaking:
        print(f"leaking: {', '.join(leaking)}", file=sys.stderr)
    return bool(leaking)


if __name__ == "__main__":
    sys.exit(main())
