"""Tasks that asyncio's compiled `Task` did not make: subclasses of it, and Python's own implementation.

Such a task may look at whatever wakes it, as it would look at a future.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from helpers import give_turns

pytestmark = pytest.mark.asyncio


class Subclass(asyncio.Task[Any]):
    pass


class InPython(asyncio.tasks._PyTask):  # type: ignore[misc,name-defined]
    """Remembers what woke it."""

    def __init__(self, coroutine: Any, **arguments: Any) -> None:
        self.news: list[Any] = []
        super().__init__(coroutine, **arguments)

    def _Task__wakeup(self, future: Any) -> None:  # noqa: N802  # it is mangled
        self.news.append(future)
        super()._Task__wakeup(future)


@pytest.fixture(params=[Subclass, InPython])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_they_wait_for_a_socket(make: Any, line: Any) -> None:
    task = make(line.sock.read(), loop=asyncio.get_running_loop())
    await give_turns()
    line.peer.send_now(b"data")
    assert await task == b"data"


async def test_they_are_cancelled_with_a_message(make: Any, line: Any) -> None:
    seen = []

    async def reader() -> None:
        try:
            await line.sock.read()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    task = make(reader(), loop=asyncio.get_running_loop())
    await give_turns()
    task.cancel("why")
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert seen == [("why",)]
    line.peer.send_now(b"data")
    assert await line.sock.read() == b"data"


async def test_what_wakes_them_has_a_result(line: Any) -> None:
    task = InPython(line.sock.read(), loop=asyncio.get_running_loop())
    await give_turns()
    line.peer.send_now(b"data")
    await task
    assert [future.result() for future in task.news] == [None]
