"""Draining: in good order while there is time, for certain when there is none left, and a report of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import pytest
from helpers import begin, give_turns, until
from tls_peers import TlsOverSocket, contexts

import aionet

from .conftest import Stage

FOREVER = 3600.0  # a grace that no test waits for


class Handlers:
    """One handler that does what its client's first byte says."""

    def __init__(self) -> None:
        self.may_finish = asyncio.Event()
        self.may_really_end = asyncio.Event()
        self.swallowed = 0

    async def __call__(self, sock: Any) -> None:
        order = await sock.read(1)
        if order == b"f":  # finishes by itself
            await self.may_finish.wait()
            await sock.write(b"bye")
        elif order == b"c":  # has to be cancelled
            await asyncio.Event().wait()
        elif order == b"s":  # swallows every cancellation
            while not self.may_really_end.is_set():
                try:
                    await self.may_really_end.wait()
                except asyncio.CancelledError:
                    self.swallowed += 1


async def started(stage: Stage, orders: bytes, kind: str = "tcp") -> tuple[Any, ...]:
    handlers = Handlers()
    spawner = aionet.ConnectionSpawner(handlers)
    server = stage.server(kind)
    serving = await stage.serve(spawner, server)
    clients = []
    for order in orders:
        client = stage.client(server)
        client.send_now(bytes([order]))
        clients.append(client)
    await until(lambda: spawner.stats.active == len(orders))
    await give_turns(10)
    return handlers, spawner, server, serving, clients


def counts(report: aionet.DrainReport) -> tuple[int, int, int]:
    return report.finished, report.cancelled, report.aborted


@pytest.mark.asyncio
async def test_handlers_that_finish_within_the_grace_are_left_alone(stage: Stage, kind: str) -> None:
    handlers, spawner, server, serving, clients = await started(stage, b"ff", kind)
    drain = await begin(spawner.drain(FOREVER))
    assert server.closed  # nobody new
    assert not drain.done()
    handlers.may_finish.set()
    assert counts(await drain) == (2, 0, 0)
    await serving
    for client in clients:
        assert await client.receive_to_end() == b"bye"


@pytest.mark.asyncio
async def test_handlers_that_do_not_are_cancelled_and_their_sockets_closed(stage: Stage, kind: str) -> None:
    handlers, spawner, _, serving, clients = await started(stage, b"fcc", kind)
    handlers.may_finish.set()
    report = await spawner.drain(0.05)
    assert counts(report) == (1, 2, 0)
    assert report.seconds > 0.04
    assert str(report).startswith("1 finished, 2 cancelled, 0 aborted in ")
    await serving
    assert [await client.receive_to_end() for client in clients] == [b"bye", b"", b""]
    assert spawner.stats.cancelled == 2


@pytest.mark.asyncio
async def test_a_handler_that_swallows_its_cancellation_loses_its_connection(stage: Stage) -> None:
    handlers, spawner, _, serving, clients = await started(stage, b"fcs")
    handlers.may_finish.set()
    report = await spawner.drain(0, hard=0.05)
    assert report.aborted == 1
    assert sum(counts(report)) == 3
    assert handlers.swallowed >= 1
    with pytest.raises(ConnectionResetError):
        await clients[2].receive_to_end()
    await serving  # which does not wait for it any longer either
    assert spawner.stats.active == 1
    handlers.may_really_end.set()
    await until(lambda: not spawner.connections)


@pytest.mark.asyncio
async def test_a_second_drain_gets_the_same_report(stage: Stage) -> None:
    handlers, spawner, _, serving, _ = await started(stage, b"ff")
    first = await begin(spawner.drain(FOREVER))
    second = await begin(spawner.drain(FOREVER))
    handlers.may_finish.set()
    assert await first is await second
    await serving


@pytest.mark.asyncio
async def test_a_second_drain_with_a_shorter_grace_hurries(stage: Stage) -> None:
    _, spawner, _, serving, _ = await started(stage, b"ccc")
    first = await begin(spawner.drain(FOREVER))
    second = await begin(spawner.drain(0))
    assert counts(await first) == (0, 3, 0)
    assert await second is await first
    await serving


@pytest.mark.asyncio
async def test_a_second_drain_with_a_longer_grace_does_not_delay(stage: Stage) -> None:
    _, spawner, _, serving, _ = await started(stage, b"c")
    first = await begin(spawner.drain(0.05))
    await spawner.drain(FOREVER)
    assert counts(await first) == (0, 1, 0)
    await serving


@pytest.mark.asyncio
async def test_two_drains_in_one_turn_take_the_shorter_grace(stage: Stage) -> None:
    """As with two signals that arrive together."""
    _, spawner, _, serving, _ = await started(stage, b"c")
    async with asyncio.timeout(0.5):
        reports = await asyncio.gather(spawner.drain(FOREVER), spawner.drain(0))
    assert counts(reports[0]) == (0, 1, 0)
    await serving


@pytest.mark.asyncio
async def test_a_drain_after_the_drain_gets_the_report_again(stage: Stage) -> None:
    handlers, spawner, _, serving, _ = await started(stage, b"f")
    handlers.may_finish.set()
    report = await spawner.drain(FOREVER)
    await serving
    assert await spawner.drain(FOREVER) is report
    assert await spawner.drain(0) is report


@pytest.mark.asyncio
async def test_a_drain_before_serving(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(Handlers())
    assert counts(await spawner.drain(FOREVER)) == (0, 0, 0)
    server = stage.tcp_server()
    await spawner.serve(server)  # which returns at once
    assert server.closed


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop", "aionet"])  # eager tasks begin when they are made
@pytest.mark.parametrize("drains", [1, 2])
async def test_a_drain_of_what_is_only_scheduled(stage: Stage, kind: str, drains: int) -> None:
    """As where a signal arrives while the program starts."""
    spawner = aionet.ConnectionSpawner(Handlers())
    server = stage.server(kind)
    waiting = stage.client(server)
    serving = asyncio.ensure_future(spawner.serve(server))
    reports = await asyncio.gather(*(spawner.drain(FOREVER) for _ in range(drains)))
    assert [counts(report) for report in reports] == [(0, 0, 0)] * drains
    await asyncio.wait_for(serving, 30)
    assert server.closed
    assert spawner.stats.accepted == 0
    with contextlib.suppress(ConnectionResetError):
        assert await waiting.receive() == b""


@pytest.mark.asyncio
async def test_a_spawner_serves_no_more_after_a_drain(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(Handlers())
    await stage.serve(spawner, stage.tcp_server())
    await spawner.drain(FOREVER)
    await stage.servings[0]
    async with stage.tcp_server() as server:
        with pytest.raises(aionet.SocketBusyError, match="drained"):
            await spawner.serve(server)
        assert not server.closed


@pytest.mark.asyncio
async def test_a_cancelled_drain_goes_on(stage: Stage) -> None:
    handlers, spawner, server, serving, clients = await started(stage, b"f")
    drain = await begin(spawner.drain(FOREVER))
    drain.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drain
    assert server.closed
    assert not serving.done()
    handlers.may_finish.set()
    await serving
    assert await clients[0].receive_to_end() == b"bye"


@pytest.mark.asyncio
async def test_a_spawner_without_room_can_be_drained(stage: Stage) -> None:
    handlers = Handlers()
    spawner = aionet.ConnectionSpawner(handlers, limits=aionet.ConnectionLimits(max_connections=1))
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    served, queueing = stage.client(server), stage.client(server)
    served.send_now(b"f")
    await until(lambda: spawner.stats.active == 1)
    drain = await begin(spawner.drain(FOREVER))
    handlers.may_finish.set()
    assert counts(await drain) == (1, 0, 0)
    await serving
    assert await served.receive_to_end() == b"bye"
    with pytest.raises(ConnectionResetError):  # it waited in a queue that is gone: refused, not served
        await queueing.receive_to_end()
    assert spawner.stats.accepted == 1


@pytest.mark.asyncio
async def test_serve_cancelled_twice_leaves_no_handler_behind(stage: Stage) -> None:
    _, spawner, _, serving, _ = await started(stage, b"cc")
    serving.cancel()
    await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await give_turns(20)
    left = spawner.connections
    for connection in left:
        connection.task.cancel()
    await asyncio.gather(*(connection.task for connection in left), return_exceptions=True)
    assert left == ()


@pytest.mark.asyncio
async def test_a_reply_under_way_is_not_cut_by_the_drain(stage: Stage) -> None:
    size = 4 << 20

    async def handler(sock: Any) -> None:
        await sock.read(1)
        await sock.write(bytes(size))

    spawner = aionet.ConnectionSpawner(handler)
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    client = stage.client(server)
    client.send_now(b"x")
    await until(lambda: spawner.stats.active == 1)
    receiving = asyncio.ensure_future(client.receive_to_end())
    assert counts(await spawner.drain(FOREVER)) == (1, 0, 0)
    await serving
    assert len(await receiving) == size


@pytest.mark.asyncio
async def test_a_drain_that_a_handler_begins_in_the_middle_of_a_batch_leaves_nobody(stage: Stage) -> None:
    """With eager tasks the first handler runs before the others of its batch have a task."""
    drains: list[asyncio.Task[aionet.DrainReport]] = []

    async def handler(sock: Any) -> None:
        if not drains:
            drains.append(asyncio.create_task(spawner.drain(0)))
        await asyncio.Event().wait()

    spawner = aionet.ConnectionSpawner(handler)
    server = stage.server("tcp")
    clients = [stage.client(server) for _ in range(5)]
    serving = await stage.serve(spawner, server)
    await asyncio.wait_for(serving, 30)
    await asyncio.wait(drains)
    assert spawner.connections == ()
    for client in clients:
        with contextlib.suppress(ConnectionResetError):
            assert await client.receive() == b""


@pytest.mark.asyncio
async def test_handlers_see_that_the_server_drains(stage: Stage, kind: str) -> None:
    async def keep_alive(sock: Any) -> None:
        assert not sock.draining
        while not sock.draining:
            reading = asyncio.create_task(sock.read())
            drained = asyncio.create_task(sock.draining.wait())
            await asyncio.wait([reading, drained], return_when=asyncio.FIRST_COMPLETED)
            for task in (reading, drained):
                task.cancel()
            await asyncio.gather(reading, drained, return_exceptions=True)
        await sock.write(b"come back later")

    spawner = aionet.ConnectionSpawner(keep_alive)
    server = stage.server(kind)
    serving = await stage.serve(spawner, server)
    clients = [stage.client(server) for _ in range(5)]
    await until(lambda: spawner.stats.active == 5)
    await give_turns()
    assert counts(await spawner.drain(FOREVER)) == (5, 0, 0)
    await serving
    for client in clients:
        assert await client.receive_to_end() == b"come back later"


@pytest.mark.asyncio
async def test_a_socket_without_a_spawner_does_not_drain() -> None:
    sock = aionet.AsyncTcpSocket()
    assert not sock.draining
    assert not sock.peer_gone


@pytest.mark.asyncio
async def test_cancellations_may_be_spread(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    ends: list[float] = []

    async def wait(sock: Any) -> None:
        try:
            await sock.read()
        finally:
            ends.append(loop.time())

    spawner = aionet.ConnectionSpawner(wait)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    for _ in range(10):
        stage.client(server)
    await until(lambda: spawner.stats.active == 10)
    await give_turns()
    began = loop.time()
    report = await spawner.drain(0.6, spread=0.5)
    assert counts(report) == (0, 10, 0)
    assert ends == sorted(ends)
    assert ends[0] - began >= 0.09  # the first is cancelled when the window begins
    assert all(end - began >= 0.09 + 0.05 * number for number, end in enumerate(ends))
    assert spawner.stats.causes == {aionet.CloseCause.DRAINED: 10}


@pytest.mark.asyncio
async def test_a_second_drain_may_hurry_a_spread_one(stage: Stage) -> None:
    _, spawner, _, serving, clients = await started(stage, b"cccc")
    slow = await begin(spawner.drain(FOREVER, spread=FOREVER))
    report = await asyncio.wait_for(spawner.drain(0.0), 30)
    assert counts(report) == (0, 4, 0)
    assert await slow is report
    await serving
    for client in clients:
        assert await client.receive() == b""


@pytest.mark.asyncio
async def test_the_report_shows_where_a_straggler_was(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    handlers, spawner, _, _, clients = await started(stage, b"sc")
    report = await spawner.drain(0.0, hard=0.1)
    assert counts(report) == (0, 1, 1)
    (straggler,) = report.stragglers
    host, port = clients[0].sock.getsockname()
    assert straggler.peer == f"{host}:{port}"
    handlers.may_really_end.set()
    assert "await self.may_really_end.wait()" in straggler.stack
    assert "asyncio/locks.py" in straggler.stack  # to the innermost frame
    assert straggler.stack in caplog.text
    await until(lambda: not spawner.connections)
    assert spawner.stats.causes == {aionet.CloseCause.DRAINED: 1, aionet.CloseCause.ABORTED: 1}


@pytest.mark.asyncio
async def test_it_takes_no_longer_than_it_may_whatever_clients_do(stage: Stage) -> None:
    """Silent, flooding, never reading, in the middle of a preface, ignoring the end."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    async def preface(sock: Any) -> None:
        await sock.read_exactly(1)

    async def handler(sock: Any) -> None:
        order = await sock.read_exactly(1)
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError) if order == b"s" else contextlib.nullcontext():
                if order == b"w":
                    await sock.write(bytes(50_000_000))
                elif order == b"f":
                    await sock.read()
                else:
                    await over.wait()

    spawner = aionet.ConnectionSpawner(handler, preface=preface)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    for order in (b"", b"p", b"pw", b"pf" + bytes(100_000), b"ps"):
        stage.client(server).send_now(order)
    await until(lambda: spawner.stats.active == 5)
    await give_turns(10)
    began = loop.time()
    report = await spawner.drain(0.2, hard=0.2)
    assert loop.time() - began < 5  # 0.4 and a little; a loaded machine needs more
    assert report.finished + report.cancelled + report.aborted == 5
    assert report.aborted >= 1
    over.set()
    await until(lambda: not spawner.connections)


# Connections that close -------------------------------------------------------------------------------


PATIENT = aionet.TcpOptions(linger=60.0, close_notify_wait=30.0)  # more than any drain here waits


async def read_on(sock: Any) -> None:
    await sock.read()


async def write_on(sock: Any) -> None:
    """Ends at once when it is cancelled, with most of its reply unsent, and says that it has finished."""
    with contextlib.suppress(asyncio.CancelledError):
        await sock.write(bytes(50_000_000))


async def read_in_a_block(sock: Any) -> None:
    async with sock:
        await sock.read()


@pytest.mark.asyncio
@pytest.mark.parametrize("handler", [read_on, read_in_a_block])
async def test_waiting_for_close_notify_is_no_straggler(
    stage: Stage, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spawner = aionet.ConnectionSpawner(handler)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), tls=contexts().server, options=PATIENT)
    serving = await stage.serve(spawner, server)
    clients = [
        TlsOverSocket(stage.client(server).sock, contexts().client, server_side=False) for _ in range(5)
    ]
    for client in clients:
        await client.shake_hands()
    await until(lambda: all(connection.phase == "serving" for connection in spawner.connections))
    report = await spawner.drain(0.0, hard=0.4)
    await serving
    assert (counts(report), report.closing, report.stragglers) == ((0, 5, 0), 5, ())
    assert "5 cancelled (5 of them were still closing), 0 aborted" in str(report)
    assert spawner.stats.causes == {aionet.CloseCause.DRAINED: 5}
    assert [record for record in caplog.records if record.name == "aionet.server"] == []
    for client in clients:
        assert await asyncio.to_thread(client.recv, 1) == b""  # close_notify, and no reset


@pytest.mark.asyncio
async def test_a_handler_that_has_ended_in_a_write_is_no_straggler(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    spawner = aionet.ConnectionSpawner(write_on)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), options=PATIENT)
    serving = await stage.serve(spawner, server)
    client = stage.client(server)
    await until(lambda: spawner.connections and spawner.connections[0].socket._wire.waits_for_room)
    report = await spawner.drain(0.0, hard=0.2)
    await serving
    assert (counts(report), report.closing, report.stragglers) == ((0, 1, 0), 1, ())
    assert caplog.records == []
    with pytest.raises(ConnectionResetError):  # a clean end would make the reply look whole
        await client.receive_to_end()


@pytest.mark.asyncio
@pytest.mark.parametrize("shares", [(0.5,), ()], ids=["in time", "at the last moment"])
async def test_a_handler_that_finished_by_itself_and_a_connection_that_still_closes(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...]
) -> None:
    monkeypatch.setattr("aionet.draining._CLOSING_SHARES", shares)
    may_end = asyncio.Event()

    async def reply(sock: Any) -> None:
        writing = asyncio.create_task(sock.write(bytes(50_000_000)))
        await may_end.wait()
        writing.cancel()

    spawner = aionet.ConnectionSpawner(reply)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), options=PATIENT)
    serving = await stage.serve(spawner, server)
    stage.client(server)
    await until(lambda: spawner.connections and spawner.connections[0].socket._wire.waits_for_room)
    may_end.set()
    await until(lambda: spawner.connections[0].socket.closed)
    report = await spawner.drain(0.1, hard=0.1)
    await serving
    assert (counts(report), report.closing, report.stragglers) == ((1, 0, 0), 1, ())
    assert caplog.records == []
    await until(lambda: not spawner.connections)


@pytest.mark.asyncio
async def test_the_stack_of_a_straggler_is_its_own(stage: Stage) -> None:
    over = asyncio.Event()

    async def read_stubbornly(sock: Any) -> None:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError, aionet.SocketClosedError):
                await sock.read_exactly(10)
            await asyncio.sleep(0)

    spawner = aionet.ConnectionSpawner(read_stubbornly)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    stage.client(server)
    await until(lambda: spawner.connections)
    await give_turns()
    report = await spawner.drain(0.0, hard=0.1)
    over.set()
    (straggler,) = report.stragglers
    assert "await sock.read_exactly(10)" in straggler.stack
    assert os.path.dirname(aionet.__file__) not in straggler.stack
    await until(lambda: not spawner.connections)


@pytest.mark.asyncio
async def test_negative_seconds_are_refused(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(Handlers())
    with pytest.raises(ValueError, match="spread must be 0 or more seconds, not -1"):
        await spawner.drain(0, spread=-1)
