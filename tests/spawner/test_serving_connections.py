"""One task per connection, owned by the spawner, and none disturbs another."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import socket
import weakref
from typing import Any

import pytest
from helpers import until

import aionet

from .conftest import Stage


def sum_of_parts(stats: aionet.SpawnerStats) -> int:
    return stats.active + stats.completed + stats.failed + stats.disconnected + stats.cancelled


async def echo(sock: Any) -> None:
    async for data in sock:
        await sock.write(data)


def errors_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.asyncio
@pytest.mark.parametrize("preface", [None, lambda sock: asyncio.sleep(0)], ids=["plain", "preface"])
async def test_tasks_are_named_after_their_handler(stage: Stage, preface: Any) -> None:
    async def echo_its_name(sock: Any) -> None:
        await sock.write(asyncio.current_task().get_name().encode())  # type: ignore[union-attr]

    server = stage.server("tcp")
    await stage.serve(aionet.ConnectionSpawner(echo_its_name, preface=preface), server)
    name = await stage.client(server).receive()
    assert name.decode() == f"connection of {echo_its_name.__qualname__}"


@pytest.mark.asyncio
async def test_each_connection_has_a_task_of_its_own(stage: Stage, kind: str) -> None:
    tasks: set[Any] = set()

    async def handler(sock: Any) -> None:
        tasks.add(asyncio.current_task())
        await echo(sock)

    spawner = aionet.ConnectionSpawner(handler)
    server = stage.server(kind)
    await stage.serve(spawner, server)
    clients = [stage.client(server) for _ in range(20)]
    for number, client in enumerate(clients):
        client.send_now(b"%d" % number)
    for number, client in enumerate(clients):
        assert await client.receive() == b"%d" % number
    assert len(tasks) == 20
    assert {connection.task for connection in spawner.connections} == tasks
    assert all(connection.socket.fileno() >= 0 for connection in spawner.connections)
    loop_time = asyncio.get_running_loop().time()
    assert all(loop_time - 10 < connection.started <= loop_time for connection in spawner.connections)
    for client in clients:
        client.half_close()
        assert await client.receive() == b""  # the handler returned, so the socket was closed
    await until(lambda: not spawner.connections)
    assert spawner.stats == aionet.SpawnerStats(
        accepted=20, active=0, completed=20, failed=0, disconnected=0, cancelled=0
    )


@pytest.mark.asyncio
async def test_handlers_that_wait_are_not_collected(stage: Stage) -> None:
    async def wait_for_a_future_nobody_else_holds(sock: Any) -> None:
        await asyncio.get_running_loop().create_future()

    spawner = aionet.ConnectionSpawner(wait_for_a_future_nobody_else_holds)
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    clients = [stage.client(server) for _ in range(10)]
    await until(lambda: spawner.stats.active == 10)
    del server
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)
    assert len(spawner.connections) == 10
    assert not any(connection.task.done() for connection in spawner.connections)
    report = await spawner.drain(0)
    assert (report.cancelled, report.aborted) == (10, 0)
    await serving
    for client in clients:
        assert await client.receive() == b""


@pytest.mark.asyncio
async def test_a_crash_ends_one_connection_and_is_reported_once(
    stage: Stage, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash_on_request(sock: Any) -> None:
        async for data in sock:
            if data == b"crash":
                raise ZeroDivisionError("on request")
            await sock.write(data)

    reported = []

    def on_error(sock: Any, error: Exception) -> None:
        reported.append((sock.fileno() >= 0, str(sock.peer_address), error))

    spawner = aionet.ConnectionSpawner(crash_on_request, on_error=on_error)
    server = stage.server(kind)
    serving = await stage.serve(spawner, server)
    bystander, unlucky = stage.client(server), stage.client(server)
    bystander.send_now(b"before")
    assert await bystander.receive() == b"before"
    unlucky.send_now(b"crash")
    assert await unlucky.end() == ("reset" if kind == "tcp" else "end")
    bystander.send_now(b"after")
    assert await bystander.receive() == b"after"
    newcomer = stage.client(server)
    newcomer.send_now(b"new")
    assert await newcomer.receive() == b"new"
    assert not serving.done()

    ((open_then, peer, error),) = reported
    assert open_then, "on_error is called before the socket is closed"
    assert isinstance(error, ZeroDivisionError)
    (record,) = errors_in(caplog)
    assert record.name == "aionet.server"
    assert peer in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert spawner.stats.failed == 1


@pytest.mark.asyncio
async def test_an_on_error_that_raises_is_logged_and_disturbs_nobody(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(sock: Any) -> None:
        await sock.read()
        raise KeyError("handler")

    def on_error(sock: Any, error: Exception) -> None:
        raise LookupError("on_error")

    spawner = aionet.ConnectionSpawner(crash, on_error=on_error)
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    for _ in range(2):
        client = stage.client(server)
        client.send_now(b"x")
        assert await client.end() == "reset"
    await until(lambda: not spawner.connections)
    assert not serving.done()
    assert spawner.stats.failed == 2
    raised = [record.exc_info[0] for record in errors_in(caplog) if record.exc_info]
    assert raised == [KeyError, LookupError] * 2


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["reset", "close in the middle of a message", "closed by the handler"])
async def test_a_disconnect_is_a_debug_line_and_no_error(
    stage: Stage, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aionet")
    reported: list[Any] = []

    async def handler(sock: Any) -> None:
        if end == "closed by the handler":
            await sock.aclose()
        await sock.read_exactly(100)

    spawner = aionet.ConnectionSpawner(handler, on_error=lambda *args: reported.append(args))
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    client = stage.client(server)
    name = str(aionet.SocketAddress(*client.sock.getsockname()))
    client.send_now(b"half")
    if end == "reset":
        await until(lambda: spawner.stats.active)
        client.reset()
    elif end == "close in the middle of a message":
        client.close()
    await until(lambda: spawner.stats.disconnected == 1)
    assert reported == []
    ours = [record for record in caplog.records if record.name.startswith("aionet")]
    assert {record.levelno for record in ours} == {logging.DEBUG}
    assert any(name in record.getMessage() for record in ours)
    assert spawner.stats.failed == 0


@pytest.mark.asyncio
async def test_the_loss_of_another_socket_is_an_error_of_the_handler(
    stage: Stage, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy whose upstream is lost, or a chat that writes to another client: not this client's leaving."""
    connected: list[Any] = []
    reported: list[Exception] = []
    over = asyncio.Event()

    async def handler(sock: Any) -> None:
        connected.append(sock)
        if len(connected) == 2:
            await over.wait()
            return
        await sock.read()
        other = connected[1 - connected.index(sock)]
        while True:
            await other.write(b"for you")

    spawner = aionet.ConnectionSpawner(handler, on_error=lambda _, error: reported.append(error))
    server = stage.server(kind)
    await stage.serve(spawner, server)
    first = stage.client(server)
    await until(lambda: len(connected) == 1)
    second = stage.client(server)
    await until(lambda: len(connected) == 2)
    first.send_now(b"go")
    await second.receive()
    second.reset()
    assert await first.end() == ("reset" if kind == "tcp" else "end")
    over.set()
    await until(lambda: not spawner.connections)
    assert len(reported) == 1
    assert isinstance(reported[0], aionet.ConnectionLostError)
    assert len(errors_in(caplog)) == 1
    assert spawner.stats.failed == 1


@pytest.mark.asyncio
async def test_stats_always_add_up(stage: Stage) -> None:
    seen: list[aionet.SpawnerStats] = []

    def look(*_: Any) -> None:
        seen.append(spawner.stats)

    async def handler(sock: Any) -> None:
        look()
        order = await sock.read(1)
        look()
        if order == b"f":
            raise ValueError(order)
        if order == b"r":
            await sock.read_exactly(10)
        if order == b"w":
            await asyncio.Event().wait()

    spawner = aionet.ConnectionSpawner(handler, on_error=look)
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    clients = []
    for order in b"cfrw" * 5:
        client = stage.client(server)
        clients.append(client)
        client.send_now(bytes([order]))
        for _ in range(4):
            look()
            await asyncio.sleep(0)
    for client, order in zip(clients, b"cfrw" * 5, strict=True):
        if order == ord("r"):
            client.reset()
    await until(lambda: look() or spawner.stats.active == 5)
    await spawner.drain(0)
    look()
    await serving
    assert [stats for stats in seen if stats.accepted != sum_of_parts(stats)] == []
    assert spawner.stats == aionet.SpawnerStats(
        accepted=20, active=0, completed=5, failed=5, disconnected=5, cancelled=5
    )


@pytest.mark.asyncio
async def test_stats_add_up_while_a_connection_lingers_and_when_that_is_cancelled(stage: Stage) -> None:
    """A handler that has returned is counted once, as long as its last reply is under way and ever after."""
    returned = asyncio.Event()

    async def handler(sock: Any) -> None:
        writing = asyncio.create_task(sock.write(bytes(16 << 20)))  # more than the peer takes
        await asyncio.sleep(0)
        writing.cancel()
        returned.set()

    spawner = aionet.ConnectionSpawner(handler)
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    stage.client(server)
    await returned.wait()
    await asyncio.sleep(0.05)
    lingering = spawner.stats
    await spawner.drain(0)
    await serving
    ended = spawner.stats
    assert (lingering.accepted, sum_of_parts(lingering)) == (1, 1)
    assert (ended.accepted, sum_of_parts(ended)) == (1, 1)


@pytest.mark.asyncio
async def test_a_connection_whose_task_is_cancelled_before_it_begins_leaks_nothing(stage: Stage) -> None:
    begun = []

    async def handler(sock: Any) -> None:
        begun.append(sock)
        await echo(sock)

    spawner = aionet.ConnectionSpawner(handler)
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    for _ in range(50):
        client = stage.client(server)
        before = spawner.stats.accepted
        while spawner.stats.accepted == before:
            await asyncio.sleep(0)
            for connection in spawner.connections:
                connection.task.cancel()
        await until(lambda: not spawner.connections)
        try:
            assert await client.receive() == b""
        except ConnectionResetError:
            pass
        client.close()
    assert spawner.stats.cancelled == 50
    await spawner.drain(0)
    await serving


@pytest.mark.asyncio
async def test_two_kinds_of_servers_in_one_spawner(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(echo)
    servers = [stage.tcp_server(), stage.unix_server()]
    serving = await stage.serve(spawner, *servers)
    for server in servers:
        client = stage.client(server)
        client.send_now(b"hello")
        assert await client.receive() == b"hello"
    servers[0].close()  # the other one goes on
    client = stage.client(servers[1])
    client.send_now(b"still")
    assert await client.receive() == b"still"
    assert not serving.done()
    await servers[1].aclose()
    for connection in spawner.connections:
        connection.socket.abort()
    await serving  # all servers are closed, all handlers have ended


@pytest.mark.asyncio
async def test_cancelling_serve_closes_everything(stage: Stage) -> None:
    ended = []

    async def handler(sock: Any) -> None:
        try:
            await sock.read()
        finally:
            ended.append(sock)

    spawner = aionet.ConnectionSpawner(handler)
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    clients = [stage.client(server) for _ in range(5)]
    await until(lambda: spawner.stats.active == 5)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert server.closed
    assert len(ended) == 5
    assert spawner.connections == ()
    for client in clients:
        assert await client.receive() == b""


@pytest.mark.asyncio
async def test_a_listener_that_breaks_ends_serve_and_leaves_nothing(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(echo)
    broken, other = stage.tcp_server(), stage.tcp_server()
    serving = await stage.serve(spawner, broken, other)
    client = stage.client(other)
    await until(lambda: spawner.stats.active == 1)
    with socket.socket(fileno=os.dup(broken.filenos()[0])) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)  # accept(2) fails with EINVAL from now on
        with pytest.raises(OSError, match=f"cannot accept on {broken.address}: Invalid argument") as caught:
            await serving
    assert caught.value.errno == errno.EINVAL
    assert broken.closed
    assert other.closed
    assert spawner.connections == ()
    assert await client.receive() == b""


@pytest.mark.asyncio
async def test_a_listener_that_breaks_may_begin_a_drain(stage: Stage, kind: str) -> None:
    """Connections of the other server finish, and the error comes at the end."""
    spawner = aionet.ConnectionSpawner(echo)
    broken, other = stage.server(kind), stage.tcp_server()
    drains: list[asyncio.Task[aionet.DrainReport]] = []

    def drain(error: OSError) -> None:
        drains.append(asyncio.create_task(spawner.drain(3600.0)))

    serving = asyncio.create_task(spawner.serve(broken, other, on_failure=drain))
    client = stage.client(other)
    await until(lambda: spawner.stats.active == 1)
    with socket.socket(fileno=os.dup(broken.filenos()[0])) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
    await until(lambda: other.closed)
    await client.send(b"still there")
    assert await client.receive_exactly(11) == b"still there"
    client.close()
    with pytest.raises(OSError, match=f"cannot accept on {broken.address}: Invalid argument"):
        await serving
    report = await drains[0]
    assert (report.finished, report.cancelled) == (1, 0)


@pytest.mark.asyncio
async def test_a_spawner_serves_once_at_a_time_and_refuses_bad_arguments(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(echo)
    with pytest.raises(TypeError):
        await spawner.serve()
    with pytest.raises(TypeError):
        aionet.ConnectionSpawner("not a handler")  # type: ignore[arg-type]
    server, second = stage.tcp_server(), stage.tcp_server()
    await stage.serve(spawner, server)
    async with second:
        with pytest.raises(aionet.SocketBusyError):
            await spawner.serve(second)
    with pytest.raises(ValueError):
        await spawner.drain(-1)
    with pytest.raises(ValueError):
        await spawner.drain(float("nan"))
    client = stage.client(server)  # none of that did any harm
    client.send_now(b"well")
    assert await client.receive() == b"well"


@pytest.mark.asyncio
async def test_a_peer_that_leaves_a_handler_with_a_task_group_is_no_crash(
    stage: Stage, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Exception] = []

    async def handler(sock: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(100))
            group.create_task(sock.read_exactly(10))

    spawner = aionet.ConnectionSpawner(handler, on_error=lambda _, error: told.append(error))
    server = stage.server(kind)
    await stage.serve(spawner, server)
    client = stage.client(server)
    await until(lambda: spawner.stats.active)
    client.close()
    await until(lambda: not spawner.stats.active)
    assert (spawner.stats.disconnected, spawner.stats.failed) == (1, 0)
    assert (told, errors_in(caplog)) == ([], [])


@pytest.mark.asyncio
async def test_a_task_group_in_which_something_else_failed_too_is_a_crash(stage: Stage, kind: str) -> None:
    async def handler(sock: Any) -> None:
        async def fail() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                raise RuntimeError("on the way out")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(sock.read_exactly(10))

    spawner = aionet.ConnectionSpawner(handler)
    server = stage.server(kind)
    await stage.serve(spawner, server)
    client = stage.client(server)
    await until(lambda: spawner.stats.active)
    client.close()
    await until(lambda: not spawner.stats.active)
    assert (spawner.stats.disconnected, spawner.stats.failed) == (0, 1)


class Held:
    """Something that a handler holds."""


@pytest.mark.asyncio
@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("way", ["cancelled", "aborted", "reset"])
async def test_what_a_handler_held_goes_with_it(stage: Stage, way: str, writes: bool) -> None:
    """At once, and not when the collector comes by: many may be cut because of the memory they hold."""
    held: list[weakref.ref[Held]] = []

    async def handler(sock: Any) -> None:
        local = Held()
        held.append(weakref.ref(local))
        await (sock.write(bytes(20_000_000)) if writes else sock.read())

    spawner = aionet.ConnectionSpawner(handler)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    client = stage.client(server)
    await until(lambda: held)
    gc.disable()
    try:
        if way == "cancelled":
            spawner.connections[0].task.cancel()
        elif way == "aborted":
            spawner.connections[0].socket.abort()
        else:
            client.reset()
        await until(lambda: not spawner.connections)
        await until(lambda: held[0]() is None)
    finally:
        gc.enable()
