"""What ends the run of a loop, and what the end of a loop does to the tasks that wait."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings

import pytest
from helpers import give_turns, until

from .stage import PASTS, WAITS, Stage, connected

EXITS = [KeyboardInterrupt, SystemExit]


@pytest.fixture(params=PASTS)
def staged(request, make_task):
    """``async with staged() as stage``: for loops that come and go within a test."""

    @contextlib.asynccontextmanager
    async def set_up():
        async with connected() as line:
            yield Stage(make_task, line, PASTS[request.param])

    return set_up


@pytest.fixture
def runner(new_loop):
    runner = asyncio.Runner(loop_factory=new_loop)
    yield runner
    try:
        left = runner.run(cancel_others())
        if left:
            runner.get_loop().close()  # closing the runner would wait for them for ever
            pytest.fail(f"cannot be cancelled: {left}")
        runner.close()
    except (KeyboardInterrupt, SystemExit) as error:
        pytest.fail(f"came out of the end of the loop: {error!r}")


async def cancel_others():
    """Return those that did not end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    return (await asyncio.wait(others, timeout=2))[1] if others else set()


def exit_of(runner, coroutine):
    """Return the exit that running `coroutine` raises, if any; it must not get as far as pytest."""
    try:
        runner.run(coroutine)
    except (KeyboardInterrupt, SystemExit) as error:
        return error.with_traceback(None)
    return None


@pytest.mark.parametrize("error", EXITS)
def test_an_exit_in_a_task_ends_the_run(runner, staged, error):
    raised, tasks = error("now"), []

    async def handler(stage):
        tasks.append(asyncio.current_task())
        await stage.prologue()
        await stage.sock.read()
        raise raised

    async def main():
        async with staged() as stage:
            await stage.begin(handler(stage))
            stage.peer.send_now(b"x")
            await asyncio.Event().wait()

    assert exit_of(runner, main()) is raised
    assert tasks[0].done()
    assert tasks[0].exception() is raised
    assert asyncio.current_task(runner.get_loop()) is None


@pytest.mark.parametrize("error", EXITS)
def test_an_exit_in_the_main_task_ends_the_run(runner, staged, error):
    raised = error("now")

    async def main():
        async with staged() as stage:
            asyncio.get_running_loop().call_soon(stage.peer.send_now, b"x")
            await stage.sock.read()
            raise raised

    assert exit_of(runner, main()) is raised


@pytest.mark.parametrize("error", EXITS)
def test_an_exit_is_not_the_end_of_those_that_are_ready_with_it(runner, staged, error):
    read, raised = [], []

    async def handler(stage, number):
        await stage.sock.read()
        raised.append(error(number))
        raise raised[-1]

    async def reader(stage, number):
        await stage.prologue()
        read.append(await stage.sock.read())

    async def begin(stack):
        stages = [await stack.enter_async_context(staged()) for _ in range(6)]
        for number, stage in enumerate(stages):
            if number % 2:
                await stage.begin(reader(stage, number))
            else:
                tasks.append(stage.make_task(handler(stage, number)))
        await give_turns()
        return [stage.peer for stage in stages]

    tasks, stack = [], contextlib.AsyncExitStack()
    for peer in runner.run(begin(stack)):
        peer.send_now(b"x")
    exits = [exit_of(runner, until(lambda: len(read) == len(raised) == 3)) for _ in range(4)]
    assert read == [b"x"] * 3
    assert set(exits) == {None, *raised} or exits == [raised[-1], None, None, None]  # as it is on uvloop
    assert exits[-1] is None
    assert {task.exception() for task in tasks} == set(raised)
    runner.run(stack.aclose())


def test_cancelling_at_the_end_reaches_those_that_wait(new_loop, staged):
    seen = []

    async def handler(stage):
        await stage.prologue()
        try:
            await stage.sock.read()
        except asyncio.CancelledError:
            seen.append("cancelled")
            asyncio.get_running_loop().call_soon(stage.peer.send_now, b"late")
            seen.append(await stage.sock.read())
            raise
        finally:
            stage.sock.abort()
            stage.peer.stop()
            seen.append("cleaned up")

    async def main():
        stage = await stack.enter_async_context(staged())
        await stage.begin(handler(stage))
        return "result"

    stack = contextlib.AsyncExitStack()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == "result"
    assert seen == ["cancelled", b"late", "cleaned up"]


def test_between_two_runs_it_waits_on(runner, staged):
    seen = []

    async def handler(stage):
        await stage.prologue()
        async for data in stage.sock:
            seen.append(data)
            await asyncio.sleep(0)

    async def begin():
        stages.append(await stack.enter_async_context(staged()))
        tasks.append(await stages[0].begin(handler(stages[0])))

    async def end():
        stages[0].peer.half_close()
        await tasks[0]
        await stack.aclose()

    stages, tasks, stack = [], [], contextlib.AsyncExitStack()
    runner.run(begin())
    for count in range(1, 4):
        stages[0].peer.send_now(b"x")
        runner.run(until(lambda: len(seen) == count))  # noqa: B023
    runner.run(end())
    assert seen == [b"x"] * 3


@pytest.mark.parametrize("waiting", WAITS)
def test_closing_its_coroutine_closes_what_it_waits_in(runner, staged, waiting):
    seen = []

    async def handler(stage):
        await stage.prologue()
        try:
            await WAITS[waiting](stage)()
        except GeneratorExit:
            seen.append("GeneratorExit")
            raise
        finally:
            seen.append("cleaned up")

    async def main():
        async with staged() as stage:
            task = await stage.begin(handler(stage))
            task.get_coro().close()
            assert seen == ["GeneratorExit", "cleaned up"]
            assert not task.done()
            task.cancel()
            await asyncio.wait([task], timeout=5)
            return task.exception()

    assert "already awaited" in str(runner.run(main()))  # what was closed cannot be cancelled


def test_a_loop_that_is_closed_on_those_that_wait(new_loop, staged):
    seen, complaints = [], []

    async def handler(stage):
        await stage.prologue()
        try:
            await stage.sock.read()
        finally:
            seen.append("closed")

    async def begin(stack):
        stage = await stack.enter_async_context(staged())
        await stage.begin(handler(stage))
        return stage

    def close_on_it():
        loop, stack = new_loop(), contextlib.AsyncExitStack()
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        stage = loop.run_until_complete(begin(stack))
        loop.close()
        with contextlib.suppress(RuntimeError):  # where it wants to wake the reader: the loop is closed
            stage.sock.abort()
        stage.peer.stop()

    close_on_it()
    gc.collect()
    assert seen == ["closed"]
    assert complaints == ["Task was destroyed but it is pending!"]


def test_one_that_never_began_is_a_coroutine_never_awaited(new_loop, make_task):
    async def handler():
        raise AssertionError("unreachable")

    loop = new_loop()
    complaints = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    task = make_task(handler(), loop=loop)
    loop.close()
    del loop
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del task
        gc.collect()
    assert [str(warning.message).endswith("handler' was never awaited") for warning in caught] == [True]
    assert complaints == ["Task was destroyed but it is pending!"]


def test_asyncio_run_with_a_driven_main(make_task, staged):
    async def main():
        asyncio.get_running_loop().set_task_factory(make_task.factory)
        async with staged() as stage:

            async def handler():
                await stage.prologue()
                return await stage.sock.read()

            task = await stage.begin(handler())
            stage.peer.send_now(b"data")
            return await task

    assert asyncio.run(main()) == b"data"
