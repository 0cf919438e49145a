"""The compiled types by themselves cannot be made wrongly, and do not crash if they are half made."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys

import pytest

from aionet import AsyncTcpSocket
from aionet.native import compiled

from .support import run_script


@pytest.mark.parametrize("name", ["Wait", "Operation"])
def test_what_only_the_engine_makes(name):
    made_by_the_engine = getattr(compiled, name)
    with pytest.raises(TypeError, match="cannot create"):
        made_by_the_engine()
    with pytest.raises(TypeError):
        object.__new__(made_by_the_engine)


@pytest.mark.parametrize("name", ["Stream", "Reactor", "Method", "Selector", "SocketBase"])
def test_object_new_makes_none(name):
    with pytest.raises(TypeError, match="not safe"):
        object.__new__(getattr(compiled, name))


@pytest.mark.parametrize("name", ["Operation", "Wait", "Method"])
def test_final_types(name):
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Derived", (getattr(compiled, name),), {})


NONSENSE = [(), (None,), (None, None), (1, 2), ("text", object()), (socket.socket, int), (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("arguments", NONSENSE, ids=range(len(NONSENSE)))
def test_streams_of_nonsense(arguments):
    from aionet.wires.native import NativeWire

    for stream in (compiled.Stream, NativeWire):
        with pytest.raises(TypeError):
            stream(*arguments)


@pytest.mark.asyncio
async def test_streams_of_what_is_no_socket():
    state = compiled.Reactor(asyncio.get_running_loop())
    for wrong in (None, "text", object(), 1.5):
        with pytest.raises(TypeError):
            compiled.Stream(wrong, state)
    for wrong in (-1, socket.socket):
        with pytest.raises((TypeError, ValueError)):
            compiled.Stream(wrong, state)


@pytest.mark.parametrize("name", ["Reactor", "Method"])
def test_constructors_count_their_arguments(name):
    for arguments in ((), (1, 2), (1, 2, 3)):
        with pytest.raises(TypeError):
            getattr(compiled, name)(*arguments)


def test_methods_of_what_has_no_short_cut():
    with pytest.raises(ValueError, match="no short cut"):
        compiled.Method(len)
    with pytest.raises(AttributeError):
        compiled.Method(object())


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2, 3), (1, 2, 3, 4, 5)], ids=len)
def test_functions_count_their_arguments(arguments):
    with pytest.raises(TypeError):
        compiled.accept(*arguments)


async def yielding():
    await asyncio.sleep(0)


async def returning():
    pass


@pytest.mark.parametrize("make", [yielding, returning])
def test_priming_what_does_not_await_begin(make):
    coroutine = make()
    with pytest.raises(RuntimeError, match="awaits BEGIN first"):
        compiled.prime(coroutine)
    coroutine.close()


def test_accept_with_nonsense():
    reactor = compiled.Reactor(None)
    for arguments in [
        (0, 1, None, None, compiled.Stream, compiled.SocketBase, None, None),
        (0, 1, reactor, None, int, compiled.SocketBase, None, None),
        (0, 1, reactor, None, compiled.Stream, int, None, None),
        (None, 1, reactor, None, compiled.Stream, compiled.SocketBase, None, None),
        (0, "one", reactor, None, compiled.Stream, compiled.SocketBase, None, None),
    ]:
        with pytest.raises(TypeError):
            compiled.accept(*arguments)


@pytest.mark.parametrize("fd", [-1, -5, "text", None, 1.5], ids=repr)
@pytest.mark.asyncio
async def test_reactors_watch_only_descriptors(fd):
    reactor = compiled.Reactor(asyncio.get_running_loop())
    with pytest.raises((TypeError, ValueError)):
        reactor.watch(fd, object())
    if fd not in (-1, -5):
        with pytest.raises(TypeError):
            reactor.forget(fd, object())
    else:
        reactor.forget(fd, object())
    reactor.forget(100_000, object())


@pytest.mark.asyncio
async def test_a_watcher_is_counted_once():
    reactor = compiled.Reactor(asyncio.get_running_loop())
    watcher, other = object(), object()
    before = sys.getrefcount(watcher), sys.getrefcount(other)
    with socket.socket() as sock:
        for each in (watcher, watcher, other, watcher):  # the number is the last one's
            reactor.watch(sock.fileno(), each)
        del each
        reactor.forget(sock.fileno(), other)
        assert sys.getrefcount(watcher) == before[0] + 1
        reactor.forget(sock.fileno(), watcher)
    assert (sys.getrefcount(watcher), sys.getrefcount(other)) == before


@pytest.mark.asyncio
async def test_a_stream_is_watched_at_its_own_descriptor():
    reactor, other = (compiled.Reactor(asyncio.get_running_loop()) for _ in range(2))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = compiled.Stream(ours, reactor)
        for wrong, number in [(reactor, theirs.fileno()), (other, ours.fileno())]:
            with pytest.raises(ValueError):
                wrong.watch(number, stream)
        for _ in range(3):
            reactor.watch(ours.fileno(), stream)
        stream._close_descriptor()
        assert not stream._watched


@pytest.mark.asyncio
async def test_what_memory_depends_on_cannot_be_set():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = compiled.Stream(ours, compiled.Reactor(asyncio.get_running_loop()))
        for name, value in [("_watched", True), ("_fd", theirs.fileno())]:
            with pytest.raises((AttributeError, TypeError)):
                setattr(stream, name, value)
        for wrong in (theirs, None, object(), -1):
            with pytest.raises((TypeError, ValueError)):
                stream._raw = wrong
        with pytest.raises((AttributeError, TypeError, ValueError)):
            del stream._raw
        stream._close_descriptor()


@pytest.mark.parametrize("count", [0, -1, -5, -(2**40), -(2**80)])
@pytest.mark.asyncio
async def test_a_stream_receives_at_least_one_byte(count):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = compiled.Stream(ours, compiled.Reactor(asyncio.get_running_loop()))
        theirs.send(b"x" * 100)
        for wire in (stream, compiled.Tls()):
            with pytest.raises(ValueError):
                wire.receive(count)
        assert await stream.receive(1) == b"x"
        stream._close_descriptor()


@pytest.mark.parametrize("fd", [2**30, 2**31 - 1])
@pytest.mark.asyncio
async def test_no_room_is_made_for_what_is_not_open(fd):
    reactor = compiled.Reactor(asyncio.get_running_loop())
    with pytest.raises(OSError):
        reactor.watch(fd, object())


@pytest.mark.asyncio
async def test_closed_descriptors_are_not_watched():
    reactor = compiled.Reactor(asyncio.get_running_loop())
    with pytest.raises(OSError):
        reactor.watch(9_999, object())
    reactor.turn()
    reactor.wake_ready()


def test_what_was_never_initialised():
    for made in (compiled.SocketBase(), AsyncTcpSocket.__new__(AsyncTcpSocket)):
        with pytest.raises(AttributeError):
            made._wire  # noqa: B018
        assert made._close_at_once() is False
        gc.get_referents(made)


HALF_MADE = {
    "without options": "made._dialing = made._ledger = made._received = None",
    "without a ledger": "made._dialing = made._received = None; made._options = sock._options",
    "without anything": "pass",
}


@pytest.mark.parametrize("how", HALF_MADE)
def test_what_is_half_made_does_not_crash(how):
    body = """
async def main():
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        raw = socket.create_connection(("127.0.0.1", server.address.port))
        sock = await server.accept()
        raw.close()
        assert await sock.read() == b""
        made = aionet.AsyncTcpSocket.__new__(aionet.AsyncTcpSocket)
        made._wire = sock._wire
        HALF_MADE
        try:
            made._close_at_once()
        except (AttributeError, SystemError, TypeError) as error:
            assert isinstance(error, AttributeError), error
        sock.abort()

aionet.run(main())
print("done")
"""
    done = run_script(body.replace("HALF_MADE", HALF_MADE[how]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("call", ["send(None)", "throw(KeyError())", "close()"])
@pytest.mark.parametrize("served", [False, True], ids=["task", "spawner"])
def test_a_coroutine_that_runs_itself_does_not_crash(call, served):
    """Python's own raise ValueError: coroutine already executing."""
    body = """
async def handler(sock):
    mark = [object() for _ in range(100)]
    try:
        asyncio.current_task().get_coro().CALL
    except (ValueError, RuntimeError) as error:
        said.append(error)
    gc.collect()
    said.append(await sock.read())
    assert len(mark) == 100

async def main():
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        raw = socket.create_connection(("127.0.0.1", server.address.port))
        raw.sendall(b"x")
        if SERVED:
            spawner = aionet.ConnectionSpawner(handler)
            serving = asyncio.create_task(spawner.serve(server))
            while spawner.stats.accepted != 1 or spawner.stats.active:
                await asyncio.sleep(0)
            server.close()
            await serving
        else:
            async with await server.accept() as sock:
                await asyncio.create_task(handler(sock))
        raw.close()

said = []
asyncio.run(main())
assert isinstance(said[0], ValueError), said
assert said[1] == b"x", said
print("done")
"""
    done = run_script(body.replace("CALL", call).replace("SERVED", str(served)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", ""), done.stderr
