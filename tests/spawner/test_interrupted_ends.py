"""Whatever fails while it ends, a connection ends once: the spawner counts it, and no drain waits for it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest
from conftest import LOOP_FACTORIES, OWN_LOOP
from helpers import begin, give_turns, until
from peers import RawPeer

import aionet
from aionet import CloseCause, stream_socket

from .conftest import Stage

MUCH = bytes(16 << 20)
"""More than the kernel takes."""


class Odd(BaseException):
    """Like KeyboardInterrupt, but it does not end the loop of the test."""


async def crash(sock: Any) -> None:
    await sock.read(1)
    raise ValueError("a fault of the handler")


async def return_(sock: Any) -> None:
    await sock.read(1)


def raising(kind: type[BaseException]) -> Callable[..., Any]:
    def callback(*_: Any) -> None:
        raise kind

    return callback


async def ended_once(spawner: Any, serving: asyncio.Task[None], loop_complaints: list[str]) -> None:
    """The spawner is empty, has counted one connection, and its serving ends when it is drained."""
    await until(lambda: not spawner.connections)
    stats = spawner.stats
    assert stats.accepted == sum(stats.causes.values()) == 1
    report = await asyncio.wait_for(spawner.drain(0, hard=0.1), 30)
    assert (report.finished, report.cancelled, report.aborted) == (0, 0, 0)
    await asyncio.wait_for(serving, 30)
    gc.collect()
    await give_turns()
    loop_complaints.clear()  # of the exception, which is the task's


@pytest.mark.asyncio
@pytest.mark.parametrize("kind_of_error", [RuntimeError, asyncio.CancelledError, Odd])
@pytest.mark.parametrize(
    ("where", "observed"),
    [("on_error", False), ("on_error", True), ("on_close", True), ("closing", False), ("closing", True)],
)
async def test_an_exception_on_the_way(
    stage: Stage,
    where: str,
    observed: bool,
    kind_of_error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    loop_complaints: list[str],
) -> None:
    fail = raising(kind_of_error)
    reasons: list[aionet.CloseReason] = []

    def on_close(connection: Any, reason: aionet.CloseReason) -> None:
        reasons.append(reason)
        if where == "on_close":
            fail()

    if where == "closing":
        monkeypatch.setattr(stream_socket.AsyncStreamSocket, "_begin_close", fail)
    spawner: Any = aionet.ConnectionSpawner(
        return_ if where == "closing" else crash,
        on_error=fail if where == "on_error" else None,
        on_close=on_close if observed else None,
    )
    server = stage.server("tcp")
    serving = await stage.serve(spawner, server)
    client = stage.client(server)
    client.send_now(b"x")
    await client.end()
    await ended_once(spawner, serving, loop_complaints)
    assert len(reasons) == observed


@pytest.mark.asyncio
async def test_an_exception_of_the_log(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, loop_complaints: list[str]
) -> None:
    """Which is asked where a peer was lost, and others are connected."""
    spawner = aionet.ConnectionSpawner(return_)
    server = stage.server("tcp")
    serving = await stage.serve(spawner, server)
    bystander, client = stage.client(server), stage.client(server)
    await until(lambda: spawner.stats.active == 2)
    await give_turns()
    with monkeypatch.context() as patched:
        patched.setattr(logging.getLogger("aionet.server"), "isEnabledFor", raising(Odd))
        client.reset()
        await until(lambda: len(spawner.connections) == 1)
    bystander.send_now(b"x")
    assert await bystander.receive() == b""
    await until(lambda: not spawner.connections)
    assert sum(spawner.stats.causes.values()) == 2
    await asyncio.wait_for(spawner.drain(0), 30)
    await asyncio.wait_for(serving, 30)
    gc.collect()
    await give_turns()
    loop_complaints.clear()


@pytest.mark.asyncio
@pytest.mark.parametrize("act", ["abort", "aclose", "cancel"])
@pytest.mark.slow
async def test_acting_on_a_connection_whose_closing_lingers(
    stage: Stage, kind: str, act: str, loop_complaints: list[str]
) -> None:
    async def leave_a_write_behind(sock: Any) -> None:
        writing = await begin(sock.write(MUCH))
        writing.add_done_callback(lambda done: done.cancelled() or done.exception())

    spawner = aionet.ConnectionSpawner(leave_a_write_behind)
    server = stage.server(kind)
    serving = await stage.serve(spawner, server)
    stage.client(server)
    await until(lambda: [connection for connection in spawner.connections if connection.socket.closed])
    (connection,) = spawner.connections
    if act == "abort":
        connection.socket.abort()
    elif act == "cancel":
        connection.task.cancel()
    else:
        await connection.socket.aclose()
    await asyncio.wait([connection.task])
    await ended_once(spawner, serving, loop_complaints)


@pytest.mark.asyncio
@pytest.mark.parametrize("where", ["on_error", "on_close"])
async def test_callbacks_may_abort(stage: Stage, where: str, loop_complaints: list[str]) -> None:
    def abort(connection: Any, _: Any) -> None:
        getattr(connection, "socket", connection).abort()

    spawner = aionet.ConnectionSpawner(crash, **{where: abort})  # type: ignore[arg-type]
    server = stage.server("tcp")
    serving = await stage.serve(spawner, server)
    client = stage.client(server)
    client.send_now(b"x")
    assert await client.end() == "reset"
    await ended_once(spawner, serving, loop_complaints)
    assert spawner.stats.causes == {CloseCause.FAILED: 1}


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop", "aionet"])
async def test_a_task_factory_that_raises(stage: Stage) -> None:
    """Serving fails by it, as it must, and no connection without a task stays."""
    loop = asyncio.get_running_loop()

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        if "accept" in coroutine.__qualname__ or "serve" in coroutine.__qualname__ or failed:
            return asyncio.Task(coroutine, loop=loop, **options)
        failed.append(coroutine)
        coroutine.close()
        raise LookupError("no task today")

    failed: list[Any] = []
    spawner = aionet.ConnectionSpawner(return_)
    server = stage.server("tcp")
    serving = await stage.serve(spawner, server)
    await give_turns()
    loop.set_task_factory(factory)
    try:
        client = stage.client(server)
        with pytest.raises(LookupError):
            await serving
        assert not spawner.connections
        assert await client.end() == "reset"
    finally:
        loop.set_task_factory(None)
    assert failed


class Opaque:
    """An awaitable that swallows cancellations, and that no debugger can look into."""

    over = False

    def __await__(self) -> Opaque:
        return self

    def __iter__(self) -> Opaque:
        return self

    def __next__(self) -> None:
        if self.over:
            raise StopIteration

    def throw(self, *_: Any) -> None:
        pass

    @property
    def cr_frame(self) -> Any:
        raise LookupError("no frame")


@pytest.mark.asyncio
async def test_a_straggler_whose_stack_cannot_be_shown(stage: Stage) -> None:
    opaque = Opaque()

    async def stubborn(sock: Any) -> None:
        await opaque

    spawner = aionet.ConnectionSpawner(stubborn)
    server = stage.server("tcp")
    serving = await stage.serve(spawner, server)
    client = stage.client(server)
    await until(lambda: spawner.stats.active)
    report = await asyncio.wait_for(spawner.drain(0, hard=0.05), 30)
    assert report.aborted == 1
    assert "LookupError('no frame')" in report.stragglers[0].stack
    assert await client.end() == "reset"
    await asyncio.wait_for(serving, 30)
    opaque.over = True
    await until(lambda: not spawner.connections)


@pytest.mark.parametrize("make_loop", (LOOP_FACTORIES | OWN_LOOP).values(), ids=LOOP_FACTORIES | OWN_LOOP)
@pytest.mark.parametrize("where", ["handler", "on_error", "on_close"])
@pytest.mark.parametrize("kind_of_error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("sent", ["before", "after"])
def test_an_interrupt_ends_the_run_and_the_connection(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
    where: str,
    kind_of_error: type[BaseException],
    sent: str,
) -> None:
    """And where the loop runs again, the spawner can be drained.

    The byte that the handler waits for is sent before its connection is accepted, where an eager handler
    raises in the step that accepts, or after that.
    """
    fail = raising(kind_of_error)

    async def interrupt(sock: Any) -> None:
        await sock.read(1)
        fail()

    if where == "handler":
        spawner: Any = aionet.ConnectionSpawner(interrupt)
    else:
        spawner = aionet.ConnectionSpawner(crash, **{where: fail})  # type: ignore[arg-type]

    async def listen() -> tuple[aionet.AsyncTcpConnectionServer, RawPeer]:
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        return server, await RawPeer.connect(("127.0.0.1", server.address.port))

    async def end(serving: asyncio.Task[None]) -> None:
        await asyncio.wait_for(spawner.drain(0, hard=0.1), 30)
        await asyncio.wait_for(serving, 30)

    loop = make_loop()
    try:
        server, peer = loop.run_until_complete(listen())
        with peer:
            serving = loop.create_task(spawner.serve(server))
            if sent == "after":
                loop.run_until_complete(until(lambda: spawner.connections))
            peer.send_now(b"x")
            with pytest.raises(kind_of_error):
                loop.run_until_complete(serving)
            assert not spawner.connections
            assert spawner.stats.causes == {CloseCause.FAILED: 1}
            loop.run_until_complete(end(serving))
            with pytest.raises(ConnectionResetError):
                peer.sock.recv(1)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
