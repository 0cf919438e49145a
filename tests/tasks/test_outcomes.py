"""What a task ends with: its result, its exception and where that came from."""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback

import pytest
from helpers import give_turns, until

from aionet import ConnectionLostError

pytestmark = pytest.mark.asyncio


class BaseError(BaseException):
    pass


def frames_of(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


RESULTS = [None, b"", (), (1, 2), ValueError("a result"), StopIteration("a result"), [1]]


@pytest.mark.parametrize("result", RESULTS, ids=repr)
async def test_its_result_is_what_its_coroutine_returns(stage, result):
    async def handler():
        await stage.prologue()
        return result

    task = await stage.begin(handler())
    assert await task is result
    assert task.result() is result
    assert task.exception() is None
    assert not task.cancelled()


async def test_returns_what_it_waited_for(stage, wait):
    async def handler():
        await stage.prologue()
        return await wait()

    task = await stage.begin(handler())
    assert not task.done()
    with pytest.raises(asyncio.InvalidStateError):
        task.result()
    wait.end()
    assert await task == b"end"


ERRORS = [ValueError("oops"), BaseError("oops"), OSError(5, "oops"), StopAsyncIteration(), GeneratorExit()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_its_exception_is_what_its_coroutine_raises(stage, error):
    async def handler():
        await stage.prologue()
        raise error

    task = await stage.begin(handler())
    assert task.done()
    assert task.exception() is error
    error.__traceback__ = None


async def test_an_exception_after_a_wait_reaches_whoever_awaits_it(stage, wait):
    error = ValueError("oops")

    async def handler():
        await stage.prologue()
        await wait()
        raise error

    task = await stage.begin(handler())
    wait.end()
    with pytest.raises(ValueError, match="oops") as caught:
        await task
    assert caught.value is error
    error.__traceback__ = None


async def test_stop_iteration_becomes_a_runtime_error(stage):
    async def handler():
        await stage.prologue()
        raise StopIteration(1)

    task = await stage.begin(handler())
    assert isinstance(task.exception(), RuntimeError)
    assert isinstance(task.exception().__cause__, StopIteration)


async def test_raising_cancelled_error_ends_it_cancelled(stage):
    async def handler():
        await stage.prologue()
        raise asyncio.CancelledError("on its own")

    task = await stage.begin(handler())
    assert task.cancelled()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("on its own",)


async def test_the_traceback_has_the_frames_of_the_coroutine_and_no_others(stage, wait):
    async def inner():
        await stage.prologue()
        await wait()
        raise ValueError("oops")

    async def handler():
        await inner()

    task = await stage.begin(handler())
    wait.end()
    await asyncio.wait([task])
    assert frames_of(task.exception()) == ["handler", "inner"]


async def test_the_traceback_of_an_error_of_the_socket_begins_with_the_coroutine(stage):
    async def inner():
        await stage.prologue()
        await stage.sock.read()

    async def handler():
        await inner()

    task = await stage.begin(handler())
    stage.peer.reset()
    await asyncio.wait([task])
    error = task.exception()
    assert isinstance(error, ConnectionLostError)
    assert frames_of(error)[:2] == ["handler", "inner"]


async def test_the_traceback_of_a_foreign_error_has_the_frames_of_the_coroutine(stage):
    future = asyncio.get_running_loop().create_future()

    async def inner():
        await stage.prologue()
        await future

    async def handler():
        await inner()

    task = await stage.begin(handler())
    future.set_exception(ValueError("oops"))
    await asyncio.wait([task])
    assert task.exception() is future.exception()
    assert frames_of(task.exception()) == ["handler", "inner"]


async def test_an_error_of_the_socket_can_be_handled_and_the_next_socket_read(stage, lines):
    async def handler():
        await stage.prologue()
        try:
            await stage.sock.read()
        except ConnectionLostError as error:
            await asyncio.sleep(0)
            return error, await lines[0].sock.read()

    task = await stage.begin(handler())
    stage.peer.reset()
    await until(lambda: task.done() or stage.sock.unacknowledged == 0)
    lines[0].peer.send_now(b"still here")
    error, data = await task
    assert data == b"still here"
    assert error.__traceback__ is not None


async def test_an_error_remembers_what_was_being_handled(stage, wait):
    async def handler():
        await stage.prologue()
        try:
            raise KeyError("first")
        except KeyError:
            await wait()
            raise ValueError("second")  # noqa: B904 - that is what it is about

    task = await stage.begin(handler())
    wait.end()
    await asyncio.wait([task])
    assert isinstance(task.exception(), ValueError)
    assert isinstance(task.exception().__context__, KeyError)


async def test_what_is_being_handled_stays_with_its_coroutine(stage, lines, wait):
    handled = []

    async def other():
        while data := await lines[0].sock.read():
            handled.append(("other", data, sys.exc_info()[0]))

    async def handler():
        await stage.prologue()
        handled.append(("handler", sys.exc_info()[0]))
        try:
            raise KeyError
        except KeyError:
            await wait()
            handled.append(("handler", sys.exc_info()[0]))
        await asyncio.sleep(0)
        handled.append(("handler", sys.exc_info()[0]))

    others = await stage.begin(handler()), stage.make_task(other())
    await give_turns()
    lines[0].peer.send_now(b"meanwhile")
    await until(lambda: len(handled) == 2)
    assert sys.exc_info()[0] is None
    wait.end()
    await others[0]
    assert handled == [
        ("handler", None),
        ("other", b"meanwhile", None),
        ("handler", KeyError),
        ("handler", None),
    ]
    lines[0].peer.half_close()
    await others[1]


async def test_an_exception_that_nobody_asks_for_is_told_to_the_loop(stage, wait, loop_complaints):
    async def handler():
        await stage.prologue()
        await wait()
        raise ValueError("nobody asks")

    task = await stage.begin(handler())
    wait.end()
    await until(task.done)
    del task
    gc.collect()
    [complaint] = loop_complaints
    loop_complaints.clear()
    assert "never retrieved" in complaint
    assert "nobody asks" in complaint


async def test_nobody_but_the_coroutine_sets_its_outcome(stage, wait):
    async def handler():
        await stage.prologue()
        return await wait()

    task = await stage.begin(handler())
    with pytest.raises(RuntimeError):
        task.set_result(b"forged")
    with pytest.raises(RuntimeError):
        task.set_exception(ValueError("forged"))
    wait.end()
    assert await task == b"end"
