"""What can be seen of a task: from inside, from outside, and by debuggers."""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
import re

import pytest
from helpers import give_turns

pytestmark = pytest.mark.asyncio


async def test_the_current_task_is_itself(stage, wait):
    seen = []

    async def handler():
        seen.append(asyncio.current_task())
        await stage.prologue()
        seen.append(asyncio.current_task())
        await wait()
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    task = await stage.begin(handler())
    wait.end()
    await task
    assert seen == [task] * 4


async def test_outside_of_it_the_current_task_is_another_or_none(stage, wait):
    loop = asyncio.get_running_loop()
    seen = []

    def look():
        seen.append(asyncio.current_task())

    async def handler():
        loop.call_soon(look)
        await stage.prologue()
        loop.call_soon(look)
        await wait()
        loop.call_soon(look)

    me = asyncio.current_task()
    task = await stage.begin(handler())
    assert asyncio.current_task() is me
    loop.call_soon(look)
    wait.end()
    await task
    assert asyncio.current_task() is me
    task.add_done_callback(lambda _: look())
    await give_turns()
    assert seen == [None] * 5


async def test_it_is_among_all_tasks_until_it_ends(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()
        return asyncio.current_task() in asyncio.all_tasks()

    task = await stage.begin(handler())
    assert task in asyncio.all_tasks()
    wait.end()
    assert await task
    assert task not in asyncio.all_tasks()


async def test_its_name(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()
        return asyncio.current_task().get_name()

    task = await stage.begin(handler(), name="handler of a test")
    assert task.get_name() == "handler of a test"
    assert "handler of a test" in repr(task)
    task.set_name("another name")
    wait.end()
    assert await task == "another name"


async def test_tasks_without_a_name_get_one_each(make_task):
    tasks = [make_task(asyncio.sleep(0)) for _ in range(2)]
    names = {task.get_name() for task in tasks}
    assert len(names) == 2
    assert all(re.fullmatch(r"Task-\d+", name) for name in names)
    await asyncio.wait(tasks)


async def test_it_is_a_task(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()

    task = await stage.begin(handler())
    assert isinstance(task, asyncio.Task)
    assert asyncio.isfuture(task)
    assert asyncio.ensure_future(task) is task
    assert task.get_loop() is asyncio.get_running_loop()
    assert asyncio.iscoroutine(task.get_coro())
    wait.end()
    await task


async def test_its_repr_says_what_runs_where(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()
        return repr(asyncio.current_task())

    task = await stage.begin(handler())
    name = re.escape(handler.__qualname__)
    running = rf"<Task pending .*coro=<{name}\(\) running at .*test_introspection\.py:\d+>"
    assert re.match(running, repr(task))
    wait.end()
    assert re.match(running, await task)
    assert re.match(rf"<Task finished .*coro=<{name}\(\) done, defined at .*test_introspection", repr(task))


async def test_its_stack_while_it_waits_is_its_frame(stage, wait):
    async def inner():
        local = "a local"
        await stage.prologue()
        await wait()
        return local

    async def handler():
        await inner()

    task = await stage.begin(handler())
    [frame] = task.get_stack()
    assert frame.f_code is handler.__code__
    printed = io.StringIO()
    task.print_stack(file=printed)
    assert "in handler" in printed.getvalue()
    assert "await inner()" in printed.getvalue()
    wait.end()
    await task
    assert task.get_stack() == []


async def test_its_stack_while_it_runs_ends_in_its_frame(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()
        return asyncio.current_task().get_stack()[-1].f_code

    task = await stage.begin(handler())
    wait.end()
    assert await task is handler.__code__


async def test_its_stack_after_an_exception_is_the_traceback(stage, wait):
    async def inner():
        await stage.prologue()
        await wait()
        raise ValueError("oops")

    async def handler():
        await inner()

    task = await stage.begin(handler())
    wait.end()
    await asyncio.wait([task])
    assert [frame.f_code.co_name for frame in task.get_stack()] == ["handler", "inner"]
    assert str(task.exception()) == "oops"


async def test_its_coroutine_can_be_inspected(stage, wait):
    states = []

    async def inner():
        await stage.prologue()
        states.append(inspect.getcoroutinestate(asyncio.current_task().get_coro()))
        await wait()
        states.append(inspect.getcoroutinestate(asyncio.current_task().get_coro()))

    async def handler(argument):
        local = "a local"
        await inner()
        return argument, local

    task = stage.make_task(handler("an argument"))
    coroutine = task.get_coro()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
    await give_turns()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
    assert inspect.getcoroutinelocals(coroutine)["local"] == "a local"
    assert inspect.getcoroutinelocals(coroutine)["argument"] == "an argument"
    task.cancel()
    await asyncio.wait([task])
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED

    task = await stage.begin(handler("another"))
    assert task.get_coro().cr_frame.f_code is handler.__code__
    assert not task.get_coro().cr_running
    wait.end()
    await task
    assert set(states) == {inspect.CORO_RUNNING}
    assert inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_CLOSED
    assert task.get_coro().cr_frame is None


async def test_its_coroutine_has_its_names_and_code(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()

    def look():
        coroutine = task.get_coro()
        assert coroutine.__name__ == "handler"
        assert coroutine.__qualname__ == handler.__qualname__
        assert coroutine.cr_code is handler.__code__

    task = await stage.begin(handler())
    look()
    wait.end()
    await task
    look()


async def test_what_it_awaits_can_be_followed(stage, wait):
    async def innermost():
        await wait()

    async def inner():
        await stage.prologue()
        await innermost()

    async def handler():
        await inner()

    task = await stage.begin(handler())
    names = []
    coroutine = task.get_coro()
    for _ in range(3):
        names.append(coroutine.cr_frame.f_code.co_name)
        coroutine = coroutine.cr_await
    assert names == ["handler", "inner", "innermost"]
    assert coroutine is not None
    wait.end()
    await task
    assert task.get_coro().cr_await is None


needs_call_graphs = pytest.mark.skipif(
    not hasattr(asyncio, "capture_call_graph"), reason="call graphs are of Python 3.14"
)


@needs_call_graphs
async def test_its_call_graph_has_its_frames(stage, wait):
    async def inner():
        await stage.prologue()
        await wait()

    async def handler():
        await inner()

    task = await stage.begin(handler())
    graph = asyncio.capture_call_graph(task)
    assert [entry.frame.f_code.co_name for entry in graph.call_stack][-2:] == ["inner", "handler"]
    assert "inner()" in asyncio.format_call_graph(task)
    wait.end()
    await task


@needs_call_graphs
@pytest.mark.parametrize("wait", ["future", "task"], indirect=True)
async def test_what_it_awaits_has_it_in_its_call_graph(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()
        return await stage.sock.read()

    task = await stage.begin(handler())
    [awaiting] = asyncio.capture_call_graph(wait.awaited).awaited_by
    assert awaiting.future is task
    wait.end()
    await give_turns(20)
    assert asyncio.capture_call_graph(wait.awaited).awaited_by == ()
    stage.peer.send_now(b"more")
    await task


async def test_done_callbacks_are_called_with_it_after_its_end(stage, wait):
    called = []

    def callback(task):
        called.append((task, task.done(), asyncio.current_task()))

    def removed(task):
        called.append("removed")

    async def handler():
        await stage.prologue()
        asyncio.current_task().add_done_callback(callback)
        await wait()
        called.append("end of the coroutine")

    task = await stage.begin(handler())
    task.add_done_callback(callback)
    task.add_done_callback(removed)
    assert task.remove_done_callback(removed) == 1
    wait.end()
    await task
    await give_turns()
    assert called == ["end of the coroutine", (task, True, None), (task, True, None)]


async def test_debug_mode(stage, wait, lines, caplog):
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0  # every callback is told
    caplog.set_level(logging.WARNING, logger="asyncio")

    async def child():
        return await lines[0].sock.read()

    async def handler():
        await stage.prologue()
        data = await wait()
        return data, await asyncio.create_task(child())

    task = await stage.begin(handler())
    wait.end()
    await give_turns()
    repr(task)
    lines[0].peer.send_now(b"child")
    assert await task == (b"end", b"child")
    task = stage.make_task(lines[0].sock.read())
    await give_turns()
    task.cancel()
    await asyncio.wait([task])
    loop.set_debug(False)
    assert any("Executing" in record.getMessage() for record in caplog.records)
