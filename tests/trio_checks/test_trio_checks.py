"""Trio's own stream checkers, on pairs of our sockets.

How: trio runs as a guest (`trio.lowlevel.start_guest_run`) of the asyncio loop under test, with its checkers
as they are. `TrioStream` translates: each call of a checker runs one call of ours in an asyncio task of its
own; a cancellation by trio cancels that task, after its first step, as `await` in a cancelled task would;
errors get trio's names. What trio asks for and asyncio does not, the adapter adds: a task that is cancelled
already does not begin (`checkpoint_if_cancelled`; asyncio throws at the first real wait), and a second
*writer* is refused (`ConflictDetector`; ours stands in line).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from trio._util import ConflictDetector

from aionet import (
    AsyncTcpConnectionServer,
    AsyncTcpSocket,
    AsyncUnixConnectionServer,
    AsyncUnixSocket,
    ConnectionLostError,
    SocketBusyError,
    SocketClosedError,
)

T = TypeVar("T")

ONLY_ONE_WRITER = "the adapter's rule, not the socket's"


class TrioStream(trio.abc.HalfCloseableStream):
    """One of our sockets, as trio would have it."""

    def __init__(self, sock: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.sock = sock
        self.loop = loop
        self.writers = ConflictDetector(ONLY_ONE_WRITER)

    async def send_all(self, data: Any) -> None:
        with self.writers:
            await self.call(self.sock.write, data)

    async def wait_send_all_might_not_block(self) -> None:
        with self.writers:
            await self.call(self.sock.write, b"")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.call(self.sock.read, 65536 if max_bytes is None else max_bytes)

    async def send_eof(self) -> None:
        with self.writers:
            await self.call(self.sock.send_eof)

    async def aclose(self) -> None:
        await in_asyncio(self.loop, self.sock.aclose())

    async def call(self, operation: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return await in_asyncio(self.loop, operation(*args))
        except SocketBusyError as error:
            raise trio.BusyResourceError from error
        except SocketClosedError as error:
            raise trio.ClosedResourceError from error
        except ConnectionLostError as error:
            raise trio.BrokenResourceError from error


async def in_asyncio(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """From a trio task: run `coroutine` in an asyncio task, to its end even if cancelled."""
    token, waiting = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
    task = loop.create_task(coroutine)
    task.add_done_callback(lambda _: token.run_sync_soon(trio.lowlevel.reschedule, waiting))
    cancelled = None

    def abort(raise_cancel: Any) -> trio.lowlevel.Abort:
        nonlocal cancelled
        cancelled = raise_cancel
        loop.call_soon(task.cancel)
        return trio.lowlevel.Abort.FAILED

    await trio.lowlevel.wait_task_rescheduled(abort)
    if task.cancelled() and cancelled is not None:
        cancelled()
    return task.result()


async def run_trio(async_fn: Any, *args: Any) -> Any:
    """Run `async_fn(*args)` under trio, as a guest of the running loop."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    trio.lowlevel.start_guest_run(
        async_fn,
        *args,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=over.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    return (await over).unwrap()


async def connect_tcp(tmp_path: Any) -> tuple[Any, Any]:
    async with AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        dialed = await AsyncTcpSocket().connect_to(server.address)
        return dialed, await server.accept()


async def connect_unix(tmp_path: Any) -> tuple[Any, Any]:
    async with AsyncUnixConnectionServer(tmp_path / "socket") as server:
        dialed = await AsyncUnixSocket().connect_to(server.address)
        return dialed, await server.accept()


@pytest.mark.asyncio
@pytest.mark.parametrize("connect", [connect_tcp, connect_unix], ids=["tcp", "unix"])
@pytest.mark.parametrize(
    "check",
    [trio.testing.check_two_way_stream, trio.testing.check_half_closeable_stream],
    ids=["two_way", "half_closeable"],
)
async def test_trio_is_satisfied(connect, check, tmp_path):
    loop = asyncio.get_running_loop()
    made = []

    async def make_pair():
        ends = await in_asyncio(loop, connect(tmp_path))
        made.extend(ends)
        return tuple(TrioStream(end, loop) for end in ends)

    try:
        await run_trio(check, make_pair, None)
    finally:
        for end in made:
            end.abort()
    assert len(made) > 10
