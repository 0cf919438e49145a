"""The connection's id: in every record of its handler and of whatever that calls, and nowhere else."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import until

import aionet
from aionet.observing import ConnectionIdFilter, connection_context, connection_id

from .conftest import Records, Stage

LOG = logging.getLogger("test.handler")
LIBRARY = logging.getLogger("test.library.deep.inside")


@pytest.fixture
def everything() -> Iterator[Records]:
    """Every record of the process, as a handler with our filter sees it."""
    handler = Records()
    handler.addFilter(ConnectionIdFilter())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def ids_by_message(records: Records) -> dict[str, str]:
    return {record.getMessage(): record.connection_id for record in records.records}  # type: ignore[attr-defined]


async def ask_library() -> None:
    LIBRARY.info("a library, waiting")


@pytest.mark.asyncio
@pytest.mark.parametrize("preface", [False, True])
async def test_it_is_in_every_record_of_a_handler_and_of_what_it_calls(
    stage: Stage, everything: Records, preface: bool
) -> None:
    async def greet(sock: Any) -> None:
        LOG.info("preface")

    async def handler(sock: Any) -> None:
        LOG.info("begun")
        await sock.read()
        LOG.info("after a wait")
        await ask_library()
        await asyncio.create_task(child())
        await asyncio.to_thread(LIBRARY.info, "a thread")
        raise ZeroDivisionError

    async def child() -> None:
        await asyncio.sleep(0)
        LOG.info("a task of its own")

    spawner = aionet.ConnectionSpawner(
        handler, context=connection_context, preface=greet if preface else None
    )
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    client = stage.client(server)
    await until(lambda: spawner.connections)
    (connection,) = spawner.connections
    client.send_now(b"go")
    await until(lambda: spawner.stats.failed)
    LOG.info("elsewhere")
    ids = ids_by_message(everything)
    assert ids.pop("elsewhere") == "-"
    ours = {message: id for message, id in ids.items() if not message.startswith("Using ")}
    failed = f"handler for 127.0.0.1:{client.sock.getsockname()[1]} failed"
    expected = {"begun", "after a wait", "a library, waiting", "a task of its own", "a thread", failed}
    assert set(ours) == expected | ({"preface"} if preface else set())
    assert set(ours.values()) == {connection.id}


@pytest.mark.asyncio
async def test_it_is_in_what_is_said_of_a_connection_outside_of_its_task(
    stage: Stage, everything: Records
) -> None:
    async def handler(sock: Any) -> None:
        await asyncio.Event().wait()

    limits = aionet.ConnectionLimits(handler_timeout=0.02)
    spawner = aionet.ConnectionSpawner(handler, context=connection_context, limits=limits)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    stage.client(server)
    await until(lambda: spawner.connections)
    (connection,) = spawner.connections
    await until(lambda: spawner.stats.cut)
    cut = [id for message, id in ids_by_message(everything).items() if "cut: handler took" in message]
    assert cut == [connection.id]


@pytest.mark.asyncio
async def test_ids_are_unique_sortable_and_name_the_process(stage: Stage) -> None:
    seen: list[str] = []

    async def handler(sock: Any) -> None:
        seen.append(connection_id.get())
        await sock.read()
        seen.append(connection_id.get())

    spawner = aionet.ConnectionSpawner(handler, context=connection_context)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    clients = [stage.client(server) for _ in range(20)]
    await until(lambda: len(seen) == 20)
    assert seen == sorted(set(seen))
    assert {id.partition("-")[0] for id in seen} == {f"{os.getpid():x}"}
    for client in clients:
        client.close()
    await until(lambda: len(seen) == 40)
    assert sorted(seen[20:]) == seen[:20]


@pytest.mark.asyncio
async def test_without_it_nothing_is_set_and_no_id_is_made(stage: Stage) -> None:
    seen: list[Any] = []

    async def handler(sock: Any) -> None:
        seen.append(connection_id.get(None))
        await sock.read()

    spawner = aionet.ConnectionSpawner(handler)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    stage.client(server)
    await until(lambda: seen)
    (connection,) = spawner.connections
    assert seen == [None]
    assert not hasattr(connection, "_id")


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE")


@pytest.mark.asyncio
async def test_what_was_set_when_serving_began_is_still_there(stage: Stage) -> None:
    seen: list[Any] = []

    async def handler(sock: Any) -> None:
        seen.append((VARIABLE.get(), connection_id.get()))
        VARIABLE.set("another")

    VARIABLE.set("from outside")
    spawner = aionet.ConnectionSpawner(handler, context=connection_context)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    for number in (1, 2):
        stage.client(server)
        await until(lambda number=number: len(seen) == number)
    assert [value for value, _ in seen] == ["from outside"] * 2
    assert seen[0][1] != seen[1][1]
    assert connection_id.get(None) is None


@pytest.mark.asyncio
async def test_one_context_for_all_is_only_where_they_begin(stage: Stage) -> None:
    seen: list[Any] = []

    async def handler(sock: Any) -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("changed")
        await sock.read()

    shared = contextvars.copy_context()
    shared.run(VARIABLE.set, "shared")
    spawner = aionet.ConnectionSpawner(handler, context=lambda connection: shared)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    stage.client(server)
    stage.client(server)
    await until(lambda: len(seen) == 2)
    assert seen == ["shared"] * 2


@pytest.mark.asyncio
async def test_a_context_that_cannot_be_made_is_logged_and_the_connection_served(
    stage: Stage, everything: Records
) -> None:
    async def handler(sock: Any) -> None:
        await sock.write(b"served")

    def context(connection: Any) -> contextvars.Context:
        raise ZeroDivisionError

    spawner = aionet.ConnectionSpawner(handler, context=context)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    client = stage.client(server)
    assert await client.receive_to_end() == b"served"
    assert [line for line in everything.lines if line.startswith("context for 127.0.0.1:")]


@pytest.mark.asyncio
async def test_a_task_factory_that_knows_no_contexts(stage: Stage) -> None:
    seen: list[Any] = []

    async def handler(sock: Any) -> None:
        await sock.read()
        seen.append(connection_id.get())

    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coroutine, **_: asyncio.Task(coroutine, loop=loop))
    spawner = aionet.ConnectionSpawner(handler, context=connection_context)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    stage.client(server).send_now(b"go")
    await until(lambda: seen)
    loop.set_task_factory(None)
    assert len(seen) == 1
