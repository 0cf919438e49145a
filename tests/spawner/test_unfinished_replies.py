"""What a peer sees of a handler's end: a clean end of the stream, or a reset if a reply may be unfinished."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from helpers import until
from peers import RawListener, RawPeer

import aionet

from .conftest import Stage

pytestmark = pytest.mark.asyncio

HALF = b"half of a rep"
MUCH = bytes(16 << 20)
"""More than the kernel takes."""
SHORT = 0.15
LONG = 3600.0

Handler = Callable[[Any], Awaitable[object]]


async def serving(stage: Stage, handler: Handler, kind: str = "tcp", **limits: Any) -> tuple[Any, Any]:
    spawner = aionet.ConnectionSpawner(handler, limits=aionet.ConnectionLimits(**limits))
    server = stage.server(kind)
    await stage.serve(spawner, server)
    return spawner, server


def replying(end: Handler) -> Handler:
    """A handler that answers a question by half, and then does `end`."""

    async def handler(sock: Any) -> None:
        if await sock.read(1):
            await sock.write(HALF)
            await end(sock)

    return handler


async def seen_by(client: RawPeer, count: int = len(HALF)) -> str:
    """How the stream ends for `client`: a clean end comes after all of `count` bytes."""
    try:
        received = await client.receive_to_end()
    except ConnectionResetError:
        return "reset"
    assert len(received) == count
    return "end"


# Crashes ----------------------------------------------------------------------------------------------


class Odd(BaseException):
    """Neither an Exception nor one of those that end a loop."""


async def raise_it(sock: Any) -> None:
    raise ValueError("a fault of the handler")


async def raise_a_base_exception(sock: Any) -> None:
    raise Odd


async def raise_in_a_task_group(sock: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sock.read(1))
        group.create_task(raise_it(sock))


async def raise_within_async_with(sock: Any) -> None:
    async with sock:
        await raise_it(sock)


async def run_out_of_time(sock: Any) -> None:
    async with sock, asyncio.timeout(0):
        await asyncio.Event().wait()


async def raise_when_cancelled(sock: Any) -> None:
    try:
        await cancel_itself(sock)
    finally:
        await raise_it(sock)


async def expect_a_shorter_line(sock: Any) -> None:
    await sock.read_line(max_bytes=4)


async def expect_more(sock: Any) -> None:
    await sock.read_exactly(100)


async def lose_another_socket(sock: Any) -> None:
    with RawListener() as listener:
        async with await aionet.AsyncTcpSocket().connect_to(listener.address) as other:
            (await listener.accept()).reset()
            await other.read()


CRASHES = [
    raise_it,
    raise_a_base_exception,
    raise_in_a_task_group,
    raise_within_async_with,
    run_out_of_time,
    raise_when_cancelled,
    expect_a_shorter_line,
    expect_more,
    lose_another_socket,
]


@pytest.mark.parametrize("bystanders", [0, 2])
@pytest.mark.parametrize(
    ("crash", "half_closed"), [(crash, crash is expect_more) for crash in CRASHES] + [(raise_it, True)]
)
async def test_a_crash_is_seen_as_a_reset(
    stage: Stage, crash: Handler, half_closed: bool, bystanders: int, loop_complaints: list[str]
) -> None:
    """Whatever raised, with and without other connections, and where the peer has ended its own side."""
    spawner, server = await serving(stage, replying(crash))
    for _ in range(bystanders):
        stage.client(server)
    await until(lambda: spawner.stats.active == bystanders)
    client = stage.client(server)
    client.send_now(b"?12345")
    if half_closed:
        client.half_close()
    assert await seen_by(client) == "reset"
    await until(lambda: spawner.stats.active == bystanders)
    if crash is raise_a_base_exception:
        gc.collect()
        loop_complaints.clear()  # it is the exception of a task whose result is not asked for


async def test_a_crash_after_the_end_of_the_stream_is_no_concern_of_the_peer(stage: Stage) -> None:
    async def end_and_crash(sock: Any) -> None:
        await sock.send_eof()
        await raise_it(sock)

    _, server = await serving(stage, replying(end_and_crash))
    client = stage.client(server)
    client.send_now(b"?and more that is never read")
    assert await seen_by(client) == "end"


async def test_closing_explicitly_on_the_way_out_is_the_handlers_decision(stage: Stage) -> None:
    async def close_and_crash(sock: Any) -> None:
        try:
            await raise_it(sock)
        finally:
            await sock.aclose()

    _, server = await serving(stage, replying(close_and_crash))
    client = stage.client(server)
    client.send_now(b"?")
    assert await seen_by(client) == "end"


@pytest.mark.parametrize("crash", [raise_it, raise_within_async_with])
@pytest.mark.parametrize("unread", [b"", b"and more"])
async def test_a_unix_peer_sees_a_crash_if_it_had_sent_more(
    stage: Stage, crash: Handler, unread: bytes
) -> None:
    """The kernel has no other reset for it (unix(7)): without unread input it sees an end."""
    _, server = await serving(stage, replying(crash), "unix")
    client = stage.client(server)
    client.send_now(b"?" + unread)
    assert await seen_by(client) == ("reset" if unread else "end")


# Other ends -------------------------------------------------------------------------------------------


async def return_(sock: Any) -> None:
    pass


async def wait_to_read(sock: Any) -> None:
    await sock.read(1)


async def wait_to_read_within_async_with(sock: Any) -> None:
    async with sock:
        await sock.read(1)


async def wait_for_something_else(sock: Any) -> None:
    await asyncio.Event().wait()


async def cancel_itself(sock: Any) -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    await sock.read(1)


async def say_goodbye(sock: Any) -> None:
    try:
        await sock.read(1)
    except asyncio.CancelledError:
        await sock.write(b"goodbye")


async def expect_another_message(sock: Any) -> None:
    await sock.read_exactly(4)


async def expect_messages_in_a_task_group(sock: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(LONG))
        group.create_task(sock.read_exactly(4))


async def drain(spawner: Any, client: RawPeer) -> None:
    await spawner.drain(0)


async def cancel(spawner: Any, client: RawPeer) -> None:
    for connection in spawner.connections:
        connection.task.cancel()


async def half_close(spawner: Any, client: RawPeer) -> None:
    client.half_close()


async def nothing(spawner: Any, client: RawPeer) -> None:
    pass


@pytest.mark.parametrize(
    ("end", "event", "said"),
    [
        (return_, nothing, b""),
        (wait_to_read, half_close, b""),
        (expect_another_message, half_close, b""),
        (expect_messages_in_a_task_group, half_close, b""),
        (cancel_itself, nothing, b""),
        *[
            (end, event, said)
            for event in (drain, cancel)
            for end, said in [
                (wait_to_read, b""),
                (wait_to_read_within_async_with, b""),
                (wait_for_something_else, b""),
                (say_goodbye, b"goodbye"),
            ]
        ],
    ],
)
async def test_an_end_with_everything_written_is_clean(
    stage: Stage, kind: str, end: Handler, event: Any, said: bytes
) -> None:
    spawner, server = await serving(stage, replying(end), kind)
    client = stage.client(server)
    client.send_now(b"?")
    assert await client.receive_exactly(len(HALF)) == HALF
    await event(spawner, client)
    assert await client.receive_to_end() == said


@pytest.mark.parametrize(
    ("limits", "end", "seen"),
    [
        ({"idle_timeout": SHORT}, wait_to_read, "end"),
        ({"handler_timeout": SHORT}, wait_to_read, "reset"),
        ({"handler_timeout": SHORT}, wait_to_read_within_async_with, "reset"),
        ({"handler_timeout": SHORT, "on_unfinished": "close"}, wait_to_read, "end"),
        ({"handler_timeout": SHORT, "on_unfinished": "close"}, wait_to_read_within_async_with, "end"),
    ],
)
async def test_deadlines(stage: Stage, limits: dict[str, Any], end: Handler, seen: str) -> None:
    _, server = await serving(stage, replying(end), **limits)
    client = stage.client(server)
    client.send_now(b"?")
    assert await seen_by(client) == seen


async def test_a_handler_that_returns_when_its_time_is_over_has_finished(stage: Stage) -> None:
    _, server = await serving(stage, replying(say_goodbye), handler_timeout=SHORT)
    client = stage.client(server)
    client.send_now(b"?")
    assert await client.receive_to_end() == HALF + b"goodbye"


# In the middle of a write -----------------------------------------------------------------------------


async def write_much(sock: Any) -> None:
    await sock.write(MUCH)


async def write_much_within_async_with(sock: Any) -> None:
    async with sock:
        await sock.write(MUCH)


async def write_another(sock: Any) -> None:
    """Of which nothing is sent, for the one before has taken all the room."""
    sent = asyncio.create_task(sock.write(MUCH))
    sent.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.sleep(0)
    try:
        await sock.write(b"another")
    finally:
        sent.cancel()


async def write_in_a_task_group(sock: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sock.read(1))
        group.create_task(sock.write(MUCH))


async def write_for_ever(sock: Any) -> None:
    """Each of them finds room, and gives others a turn now and then."""
    while True:
        await sock.write(b"x")


WRITES = [
    write_much,
    write_much_within_async_with,
    write_another,
    write_in_a_task_group,
    write_for_ever,
]


@pytest.mark.parametrize("event", [drain, cancel])
@pytest.mark.parametrize("write", WRITES)
async def test_a_write_that_is_cancelled_ends_in_a_reset(stage: Stage, write: Handler, event: Any) -> None:
    spawner, server = await serving(stage, replying(write))
    client = stage.client(server)
    client.send_now(b"?")
    await until(lambda: any(each.socket.bytes_written > len(HALF) for each in spawner.connections))
    await event(spawner, client)
    assert await seen_by(client) == "reset"
    await until(lambda: not spawner.connections)


async def test_idle_with_bytes_to_send_ends_in_a_reset(stage: Stage) -> None:
    spawner, server = await serving(stage, replying(write_much), idle_timeout=SHORT)
    client = stage.client(server)
    client.send_now(b"?")
    await until(lambda: spawner.stats.cut == 1)
    assert await seen_by(client) == "reset"


async def test_a_write_that_was_cancelled_before_another_one_is_forgotten(stage: Stage) -> None:
    """The handler has caught the cancellation, and has written a message since."""

    async def recover(sock: Any) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await write_for_ever(sock)
        await sock.write(b"!")
        await sock.read(1)

    spawner, server = await serving(stage, recover)
    client = stage.client(server)
    received = b""
    while not received.endswith(b"!"):
        received += await client.receive()
    await spawner.drain(0)
    assert await client.receive_to_end() == b""


# The policy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [raise_it, raise_within_async_with, expect_a_shorter_line])
async def test_a_policy_may_close_crashed_connections_cleanly(stage: Stage, crash: Handler) -> None:
    _, server = await serving(stage, replying(crash), on_unfinished="close")
    client = stage.client(server)
    client.send_now(b"?12345")
    assert await seen_by(client) == "end"


async def test_which_finishes_writes_that_are_cancelled(stage: Stage) -> None:
    spawner, server = await serving(stage, write_much, on_unfinished="close")
    client = stage.client(server)
    await until(lambda: any(each.socket.bytes_written for each in spawner.connections))
    receiving = asyncio.ensure_future(seen_by(client, len(MUCH)))
    await spawner.drain(0)
    assert await receiving == "end"


async def test_a_policy_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="on_unfinished must be 'reset' or 'close', not 'crash'"):
        aionet.ConnectionLimits(on_unfinished="crash")  # type: ignore[arg-type]
