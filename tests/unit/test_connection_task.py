"""The coroutine of a connection's task reports the end once, whatever that is."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Coroutine
from typing import Any

import pytest

from aionet.connection_task import primed


class Ends:
    """Notes what it is called with; returns `closing`, if there is any."""

    def __init__(self, closing: Any = None) -> None:
        self.noted: list[tuple[object, type | None]] = []
        self.closing = closing

    def __call__(self, served: object, error: BaseException | None) -> Coroutine[Any, Any, None] | None:
        self.noted.append((served, None if error is None else type(error)))
        return None if self.closing is None else self.closing()


async def waiting(argument: object) -> None:
    await asyncio.get_running_loop().create_future()


def raising(error: BaseException) -> Any:
    async def start(argument: object) -> None:
        await asyncio.sleep(0)
        raise error

    return start


async def returning(argument: object) -> str:
    return "a result"


class Awaitable:
    def __init__(self, argument: object) -> None:
        pass

    def __await__(self) -> Any:
        yield


@pytest.mark.asyncio
@pytest.mark.parametrize("start", [returning, Awaitable, lambda argument: asyncio.sleep(0)])
async def test_returning(start: Any) -> None:
    ends = Ends()
    assert await asyncio.create_task(primed(start, 1, ends, "served")) is None
    assert ends.noted == [("served", None)]


@pytest.mark.asyncio
@pytest.mark.parametrize("start", [raising(ValueError()), lambda argument: 1 / 0, lambda argument: 5])
async def test_an_exception_is_reported_and_not_the_tasks(start: Any) -> None:
    ends = Ends()
    assert await asyncio.create_task(primed(start, 1, ends, "served")) is None
    [(_, error)] = ends.noted
    assert error in (ValueError, ZeroDivisionError, TypeError)


class BaseError(BaseException):
    pass


@pytest.mark.asyncio
async def test_anything_else_is_raised_after_the_closing() -> None:
    closed = []

    async def closing() -> None:
        await asyncio.sleep(0)
        closed.append(asyncio.current_task())

    ends = Ends(closing)
    task = asyncio.create_task(primed(raising(BaseError()), 1, ends, "served"))
    with pytest.raises(BaseError):
        await task
    assert ends.noted == [("served", BaseError)]
    assert closed == [task]


@pytest.mark.asyncio
@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_cancelled_before_its_first_step_or_later(turns: int) -> None:
    ends = Ends()
    task = asyncio.create_task(primed(waiting, 1, ends, "served"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert ends.noted == [("served", asyncio.CancelledError)]


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_closed_or_dropped(begins: bool, end: str) -> None:
    async def closing() -> None:
        raise AssertionError("nothing can be awaited any more")

    ends = Ends(closing)
    coroutine = primed(lambda argument: asyncio.sleep(0), 1, ends, "served")
    if begins:
        coroutine.send(None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if end == "closed":
            coroutine.close()
        del coroutine
        gc.collect()
    assert ends.noted == [("served", GeneratorExit)]


def test_closed_it_reports_though_the_clean_up_raises() -> None:
    async def start(argument: object) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            raise ValueError("of the clean-up")

    ends = Ends()
    coroutine = primed(start, 1, ends, "served")
    coroutine.send(None)
    coroutine.close()
    assert ends.noted == [("served", ValueError)]


def test_debuggers_see_it_above_the_handler() -> None:
    coroutine = primed(waiting, 1, Ends(), "served")
    assert coroutine.__qualname__ == "connection"
    coroutine.close()
