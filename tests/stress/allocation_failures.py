"""Lets one allocation of an operation fail, the first, the second and so on, and looks what becomes of it.

    python allocation_failures.py [--loop asyncio|uvloop|aionet] [--first N] [SCENARIO ...]

Theory of operation
-------------------
`_testcapi.set_nomemory` makes one allocation of the interpreter's return nothing. A scenario is an operation
against a raw socket; for N = 0, 1, 2, ... allocation N + 1 of it fails, until a run of numbers in which
nothing is seen of that: the operation needs no more. Each number has a process of its own (a fork of one that
is warm), so that nothing is left of a failure, and a crash or a hang is one line of the result.

The allocation fails in a step of the operation's own or in the reactor's turn, and nowhere else: a future of
asyncio's whose `call_soon` fails has lost its wake-up, whatever it is used for.

What has to hold, whichever allocation fails. The operation returns or raises. What was received comes with
the next read, or that raises: no gap. What was written arrives whole, or not at all, or the peer sees a
reset; and no other write comes after a part. Connections that are accepted are served or closed. A spawner
ends when it is drained, and holds no connection then.
"""

from __future__ import annotations

import _testcapi
import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import struct
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aionet
from aionet.wires.event_loop import running_state

TURN = "turn" if aionet.implementation() == "native" else "_turn"
SECONDS = 10  # for one number: then it hangs
QUIET = 25  # numbers in a row without a trace of a failure: the operation needs no more
MESSAGE = bytes(range(256)) * 4
LARGE = bytes(range(256)) * 64  # a stream of such reads is received in another way
HUGE = bytes(range(256)) * 16384  # more than the kernel takes at once

SCENARIOS: dict[str, Callable[..., Coroutine[Any, Any, str]]] = {}


def scenario(function: Callable[..., Coroutine[Any, Any, str]]) -> Callable[..., Coroutine[Any, Any, str]]:
    """Enter `function(server, number)`, which returns what was seen of a failure, or ""."""
    SCENARIOS[function.__name__] = function
    return function


class Failing:
    """Awaits a coroutine; in each of its steps, and nowhere else, that allocation fails."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], number: int) -> None:
        self.coroutine = coroutine
        self.number = number

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        _testcapi.set_nomemory(self.number, self.number + 1)
        try:
            return self.coroutine.send(None)
        finally:
            _testcapi.remove_mem_hooks()


async def failing(number: int, operation: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
    """Await what `operation()` returns while that allocation fails; return its result, or what it raised."""
    results: list[Any] = [None, False]

    async def keep() -> None:  # to return a result takes an allocation of the interpreter's
        results[0] = await operation()
        results[1] = True

    coroutine = keep()
    try:
        await Failing(coroutine, number)
    except BaseException as error:
        if not results[1]:
            return None, error
    finally:
        coroutine.close()
    return results[0], None


async def failing_turn(number: int) -> None:
    """Have the reactor look for events while that allocation fails. No task runs meanwhile."""
    loop = asyncio.get_running_loop()
    turn, over = getattr(running_state().reactor, TURN), loop.create_future()

    def look() -> None:
        _testcapi.set_nomemory(number, number + 1)
        try:
            turn()
        except MemoryError as error:
            _testcapi.remove_mem_hooks()
            COMPLAINTS.append(repr(error))
        _testcapi.remove_mem_hooks()
        over.set_result(None)

    loop.call_soon(look)
    await over


def seen(raised: BaseException | None) -> str:
    """What the operation may raise; the interpreter itself turns some failures into a SystemError."""
    expected = (MemoryError, SystemError, aionet.ConnectionLostError)
    assert raised is None or isinstance(raised, expected), repr(raised)
    return "" if raised is None else repr(raised)


async def pair(server: aionet.AsyncTcpConnectionServer) -> tuple[aionet.AsyncTcpSocket, socket.socket]:
    peer = socket.create_connection(("127.0.0.1", server.address.port))
    peer.setblocking(False)
    return await server.accept(), peer


async def soon(awaitable: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(awaitable, SECONDS / 2)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Reading ----------------------------------------------------------------------------------------------------


async def check_next(sock: Any, peer: socket.socket, message: bytes, got: Any, raised: Any) -> str:
    """What was sent is what was read, or the next read has it, or is refused."""
    if raised is None:
        assert got == message, f"{len(got)} of {len(message)} bytes were read"
        return ""
    try:
        got = await soon(sock.read(len(message)))
    except aionet.ConnectionLostError as error:
        return f"{seen(raised)}, then {error!r}"
    assert got == message, f"after {raised!r} the next read has {len(got)} bytes of {len(message)}"
    return seen(raised)


async def read_of(server: Any, number: int, message: bytes, read: Callable[[Any], Awaitable[Any]]) -> str:
    sock, peer = await pair(server)
    peer.send(message)
    await turns()
    got, raised = await failing(number, lambda: read(sock))
    return await check_next(sock, peer, message, got, raised)


@scenario
async def read(server: Any, number: int) -> str:
    return await read_of(server, number, MESSAGE, lambda sock: sock.read())


@scenario
async def iterate(server: Any, number: int) -> str:
    return await read_of(server, number, MESSAGE, lambda sock: sock.__anext__())


@scenario
async def read_more(server: Any, number: int) -> str:
    """On a stream of large reads."""
    sock, peer = await pair(server)
    peer.send(LARGE)
    assert await soon(sock.read_exactly(len(LARGE))) == LARGE
    peer.send(MESSAGE)
    await turns()
    got, raised = await failing(number, lambda: sock.read())
    return await check_next(sock, peer, MESSAGE, got, raised)


@scenario
async def read_into(server: Any, number: int) -> str:
    sock, peer = await pair(server)
    peer.send(MESSAGE)
    buffer = bytearray(len(MESSAGE))
    await turns()
    count, raised = await failing(number, lambda: sock.read_into(buffer))
    return await check_next(sock, peer, MESSAGE, None if count is None else bytes(buffer[:count]), raised)


@scenario
async def read_exactly(server: Any, number: int) -> str:
    return await read_of(server, number, MESSAGE, lambda sock: sock.read_exactly(len(MESSAGE)))


async def waiting_read(server: Any, number: int, make_task: Callable[..., asyncio.Task[bytes]]) -> str:
    """The allocation fails when the bytes come."""

    async def reading(sock: Any) -> bytes:
        data: bytes = await sock.read()
        return data

    sock, peer = await pair(server)
    task = make_task(asyncio.get_running_loop(), reading(sock))
    await turns()
    peer.send(MESSAGE)
    await failing_turn(number)
    if not task.done():
        await asyncio.wait([task], timeout=0.2)
    if not task.done():  # the loop was told of a failure; the next event wakes it
        assert COMPLAINTS, "the read hangs, and nothing was reported"
        peer.send(b"more")
        assert await soon(task) == MESSAGE + b"more"
        return "woken by the next event"
    got = task.result() if task.exception() is None else None
    return await check_next(sock, peer, MESSAGE, got, task.exception())


@scenario
async def wait_and_read(server: Any, number: int) -> str:
    return await waiting_read(server, number, lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))


async def reading_then(server: Any, number: int, wait: Callable[[], Awaitable[Any]]) -> str:
    """The allocation fails when the bytes come; the same step of the task ends in another wait."""
    got = [b""]

    async def reading(sock: Any) -> None:
        got[0] = await sock.read()
        await wait()

    sock, peer = await pair(server)
    task = asyncio.create_task(reading(sock))
    await turns()
    peer.send(MESSAGE)
    await failing_turn(number)
    await asyncio.wait([task], timeout=0.2)
    if not task.done():
        assert COMPLAINTS, "the task hangs, and nothing was reported"
        assert not got[0], "the task hangs in its next wait"
        peer.send(b"more")
        await soon(task)
        return "woken by the next event"
    return await check_next(sock, peer, MESSAGE, got[0], None if got[0] else task.exception())


@scenario
async def read_and_yield(server: Any, number: int) -> str:
    return await reading_then(server, number, lambda: asyncio.sleep(0))


@scenario
async def read_and_wait(server: Any, number: int) -> str:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.05, future.set_result, None)
    return await reading_then(server, number, lambda: future)


class Subclass(asyncio.Task[Any]):
    """Makes its steps itself; the reactor only wakes it."""


@scenario
async def wait_and_read_in_a_subclass(server: Any, number: int) -> str:
    return await waiting_read(server, number, lambda loop, coroutine: Subclass(coroutine, loop=loop))


# Writing ----------------------------------------------------------------------------------------------------


async def everything_of(peer: socket.socket) -> tuple[bytes, bool]:
    """All that comes, and whether it ends in a reset."""
    loop, got = asyncio.get_running_loop(), bytearray()
    while True:
        try:
            data = await loop.sock_recv(peer, 1 << 20)
        except ConnectionResetError:
            return bytes(got), True
        if not data:
            return bytes(got), False
        got += data


async def check_written(sock: Any, receiving: asyncio.Task[Any], message: bytes, raised: Any) -> str:
    """Another write and a close follow: what the peer has is whole, or it knows better."""
    later = b"later"
    refused = None
    try:
        await soon(sock.write(later))
    except OSError as error:
        refused, later = error, b""
    assert refused is None or raised is not None, f"a write was accepted, and then {refused!r}"
    with contextlib.suppress(aionet.DeliveryError):
        await soon(sock.aclose())
    got, reset = await soon(receiving)
    if reset:
        assert raised is not None, "reset, though nothing was raised"
        assert (message + later).startswith(got)
    else:
        whole = [message + later] if raised is None else [message + later, later]
        assert got in whole, f"{len(got)} bytes of {len(message)}, and a clean end; raised: {raised!r}"
    return seen(raised)


async def write_of(server: Any, number: int, message: bytes, write: Callable[[Any], Awaitable[Any]]) -> str:
    sock, peer = await pair(server)
    receiving = asyncio.create_task(everything_of(peer))
    if len(message) < len(HUGE):
        await turns()
    _, raised = await failing(number, lambda: write(sock))
    return await check_written(sock, receiving, message, raised)


@scenario
async def write(server: Any, number: int) -> str:
    return await write_of(server, number, MESSAGE, lambda sock: sock.write(MESSAGE))


@scenario
async def write_vectored(server: Any, number: int) -> str:
    return await write_of(server, number, MESSAGE * 2, lambda sock: sock.write_vectored([MESSAGE, MESSAGE]))


@scenario
async def write_in_part(server: Any, number: int) -> str:
    """The allocation fails before the write waits for room."""
    sock, peer = await pair(server)
    receiving = asyncio.create_task(everything_of(peer))
    _, raised = await failing(number, lambda: sock.write(HUGE))
    return await check_written(sock, receiving, HUGE, raised)


@scenario
async def write_on(server: Any, number: int) -> str:
    """The allocation fails while a write continues."""
    sock, peer = await pair(server)
    task = asyncio.create_task(sock.write(HUGE))
    await turns()
    first = bytearray()
    with contextlib.suppress(BlockingIOError):
        while True:
            first += peer.recv(1 << 20)
    await failing_turn(number)
    receiving = asyncio.create_task(everything_of(peer))
    await asyncio.wait([task], timeout=SECONDS / 2)
    if not task.done():
        assert COMPLAINTS, "the write hangs, and nothing was reported"
        sock.abort()
        return "reported to the loop"
    try:
        return await check_written(sock, receiving, HUGE[len(first) :], task.exception())
    finally:
        await asyncio.wait([receiving])


# Accepting, closing, serving --------------------------------------------------------------------------------


@scenario
async def accept(server: Any, number: int) -> str:
    peers = [socket.create_connection(("127.0.0.1", server.address.port)) for _ in range(3)]
    got, raised = await failing(number, server.accept)
    accepted = [got] if raised is None else []
    with contextlib.suppress(asyncio.TimeoutError):
        while len(accepted) < len(peers):
            accepted.append(await asyncio.wait_for(server.accept(), 0.05))
    lost = len(peers) - len(accepted)
    assert lost <= (raised is not None), f"{lost} connections are lost, and {raised!r} was raised"
    await asyncio.gather(*(sock.aclose() for sock in accepted))
    for peer in peers:
        peer.settimeout(SECONDS / 2)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
    return seen(raised)


@scenario
async def close(server: Any, number: int) -> str:
    return await closing(server, number, ended=False)


@scenario
async def close_after_the_peer(server: Any, number: int) -> str:
    return await closing(server, number, ended=True)


async def closing(server: Any, number: int, *, ended: bool) -> str:
    sock, peer = await pair(server)
    await sock.write(MESSAGE)
    if ended:
        peer.shutdown(socket.SHUT_WR)
        assert await soon(sock.read()) == b""
    receiving = asyncio.create_task(everything_of(peer))
    _, raised = await failing(number, sock.aclose)
    if raised is not None:
        await soon(sock.aclose())
    if sock.fileno() != -1:
        assert raised is not None
        sock.abort()
    got, reset = await soon(receiving)
    assert got == MESSAGE or reset
    return seen(raised)


@scenario
async def lose(server: Any, number: int) -> str:
    """The peer resets: the error's text is kept, and must be the right one the next time."""
    outcomes = []
    for attempt in (number, 1 << 30):
        sock, peer = await pair(server)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        _, raised = await failing(attempt, lambda sock=sock: sock.read())
        outcomes.append(raised)
        sock.abort()
    assert isinstance(outcomes[1], aionet.ConnectionLostError)
    assert (outcomes[1].errno, outcomes[1].strerror) == (104, os.strerror(104)), repr(outcomes[1])
    return "" if isinstance(outcomes[0], aionet.ConnectionLostError) else seen(outcomes[0])


async def serving(number: int, limits: aionet.ConnectionLimits | None) -> str:
    """Six connections come and are echoed, one allocation fails meanwhile."""

    async def echo(sock: Any) -> None:
        async for data in sock:
            await sock.write(data)

    class Spawner(aionet.ConnectionSpawner[Any]):
        async def _accept_from(self, server: Any) -> None:
            self.accepting = Failing(super()._accept_from(server), 1 << 30)
            await self.accepting

    spawner = Spawner(echo, limits=limits)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    task = asyncio.create_task(spawner.serve(server))
    await turns()
    spawner.accepting.number = number
    peers = [socket.create_connection(("127.0.0.1", server.address.port)) for _ in range(6)]
    for peer in peers:
        peer.setblocking(False)
        peer.send(MESSAGE)
    loop, echoed = asyncio.get_running_loop(), 0
    for peer in peers:
        with contextlib.suppress(ConnectionResetError):
            echoed += await soon(loop.sock_recv(peer, 1 << 16)) == MESSAGE
    assert echoed >= len(peers) - 1 or task.done(), f"{len(peers) - echoed} connections were not served"
    for peer in peers:
        peer.close()
    await soon(spawner.drain(0.5))
    await asyncio.wait([task], timeout=SECONDS / 2)
    assert task.done(), f"serve() does not end; active: {spawner.stats.active}"
    assert not spawner.connections, "a connection is held"
    return seen(task.exception()) or ("not echoed" if echoed < len(peers) else "")


@scenario
async def spawn(server: Any, number: int) -> str:
    return await serving(number, None)


@scenario
async def spawn_within_limits(server: Any, number: int) -> str:
    return await serving(number, aionet.ConnectionLimits(idle_timeout=60))


# The sweep --------------------------------------------------------------------------------------------------

COMPLAINTS: list[str] = []


async def run_one(name: str, number: int) -> str:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: COMPLAINTS.append(repr(context.get("exception"))))
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        for _ in range(2):  # fills caches
            sock, peer = await pair(server)
            peer.send(b"x")
            await sock.read()
            await sock.write(b"y")
            sock.abort()
            peer.close()
        gc.collect()
        gc.disable()
        outcome = await SCENARIOS[name](server, number)
    return outcome or (f"reported: {COMPLAINTS[0]}" if COMPLAINTS else "")


def in_a_process(name: str, number: int, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> str:
    """Return what was seen of the failure: "", a remark, or a line that begins with FAILED."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.dup2(writable, 2)
        try:
            outcome = loop_factory().run_until_complete(run_one(name, number))
        except BaseException as error:
            _testcapi.remove_mem_hooks()
            outcome = f"FAILED {type(error).__name__}: {error}"
            if "--trace" in sys.argv:
                traceback.print_exc(file=sys.stdout)
        os.write(writable, b"\0" + outcome.encode())
        os._exit(0)
    os.close(writable)
    said = b""
    while part := os.read(readable, 65536):
        said += part
    os.close(readable)
    status = os.waitpid(child, 0)[1]
    if status and b"ceval.c" in said and b"`_PyErr_Occurred(tstate)' failed" in said:
        return "SystemError of a release build"  # there was no memory for a frame, and nothing was raised
    return f"FAILED by signal {status & 127}" if status else said.rpartition(b"\0")[2].decode()


def sweep(
    name: str, first: int, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> dict[str, list[int]]:
    """Return the numbers of all failures by what was seen of them."""
    found: dict[str, list[int]] = {}
    quiet, number = 0, first
    while quiet < QUIET:
        outcome = in_a_process(name, number, loop_factory)
        quiet = 0 if outcome else quiet + 1
        if outcome:
            found.setdefault(outcome, []).append(number)
        number += 1
    return found


def loop_factory_of(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return aionet.new_event_loop if name == "aionet" else asyncio.SelectorEventLoop


def main() -> int:
    """Print what was seen; return 1 if anything does not hold."""
    parser = argparse.ArgumentParser(description="Let each allocation of an operation fail once.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all of them if none is named")
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "aionet"], default="asyncio")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first that fails")
    parser.add_argument("--trace", action="store_true", help="print where what does not hold was found")
    arguments = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None
    failed = False
    print(f"{aionet.implementation()} engine, {arguments.loop} loop, Python {sys.version.split()[0]}")
    for name in arguments.scenarios or SCENARIOS:
        for outcome, numbers in sweep(name, arguments.first, loop_factory_of(arguments.loop)).items():
            failed |= outcome.startswith("FAILED")
            print(f"{name:20} {len(numbers):4} {outcome}, at {numbers[:12]}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
