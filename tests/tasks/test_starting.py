"""How a task begins: by a factory, eagerly, in a context, or never."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import warnings

import pytest
from helpers import give_turns, until

from .stage import eager_tasks

pytestmark = pytest.mark.asyncio

needs_eager_tasks = pytest.mark.skipif(not eager_tasks, reason="eager tasks are of Python 3.12")

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="default")


async def test_it_does_not_run_before_the_next_turn(make_task):
    ran = []

    async def handler():
        ran.append(None)

    task = make_task(handler())
    assert ran == []
    await task
    assert ran == [None]


async def test_as_a_task_factory_it_makes_every_task(make_task, lines):
    loop = asyncio.get_running_loop()
    loop.set_task_factory(make_task.factory)

    async def handler(line):
        data = await line.sock.read()
        await asyncio.sleep(0)
        return asyncio.current_task().get_name(), data

    tasks = [
        asyncio.create_task(handler(lines[0]), name="a name"),
        asyncio.ensure_future(handler(lines[1])),
        loop.create_task(handler(lines[2]), context=contextvars.copy_context()),
    ]
    tasks[1].set_name("later")
    for line in lines:
        line.peer.send_now(b"data")
    found = await asyncio.gather(*tasks)
    assert [data for _, data in found] == [b"data"] * 3
    assert [name for name, _ in found[:2]] == ["a name", "later"]
    assert all(isinstance(task, asyncio.Task) for task in tasks)


async def test_made_in_a_step_of_another_it_is_independent(stage, lines):
    made = []

    async def child():
        made.append(asyncio.current_task())
        return await lines[0].sock.read()

    async def handler():
        await stage.prologue()
        task = stage.make_task(child())
        assert made == []
        own = await stage.sock.read()
        assert made == [task]
        assert asyncio.current_task() is not task
        return own, await task

    task = await stage.begin(handler())
    stage.peer.send_now(b"own")
    await give_turns(20)
    lines[0].peer.send_now(b"child")
    assert await task == (b"own", b"child")


async def test_nobody_needs_to_hold_it_while_it_waits_for_a_socket(stage, wait):
    seen = []

    async def handler():
        await stage.prologue()
        seen.append(await stage.sock.read_exactly(4))
        await asyncio.sleep(0)
        seen.append(await wait())

    task = await stage.begin(handler())
    del task
    gc.collect()
    stage.peer.send_now(b"more")
    await until(lambda: seen)
    await give_turns()
    if wait.awaited is None:
        gc.collect()
    wait.end()
    await until(lambda: len(seen) == 2)
    assert seen == [b"more", b"end"]
    await give_turns()


async def test_a_read_that_is_never_awaited_warns(stage):
    async def handler():
        await stage.prologue()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stage.sock.read()
            gc.collect()
        return [str(warning.message) for warning in caught], await stage.sock.read()

    task = await stage.begin(handler())
    stage.peer.send_now(b"next")
    messages, data = await task
    assert any("never awaited" in message for message in messages)
    assert data == b"next"


@needs_eager_tasks
async def test_eagerly_it_runs_at_once_until_it_waits(stage, lines):
    seen = []

    async def child():
        seen.append(asyncio.current_task())
        data = await lines[0].sock.read(1)
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        return data + await lines[0].sock.read(1)

    async def handler():
        await stage.prologue()
        me = asyncio.current_task()
        task = stage.make_task(child(), eager_start=True)
        assert seen == [task]
        assert asyncio.current_task() is me
        return await task, await stage.sock.read(), seen == [task] * 2

    task = await stage.begin(handler())
    for data in (b"a", b"b"):
        lines[0].peer.send_now(data)
        await give_turns(20)
    stage.peer.send_now(b"own")
    assert await task == (b"ab", b"own", True)


@needs_eager_tasks
async def test_eagerly_it_may_end_at_once(stage):
    async def child(error=None):
        if error:
            raise error
        return "done"

    async def handler():
        await stage.prologue()
        tasks = [stage.make_task(child(error), eager_start=True) for error in (None, KeyError())]
        assert all(task.done() for task in tasks)
        assert not asyncio.all_tasks() & set(tasks)
        return tasks[0].result(), type(tasks[1].exception()), await stage.sock.read()

    task = await stage.begin(handler())
    stage.peer.send_now(b"next")
    assert await task == ("done", KeyError, b"next")


@needs_eager_tasks
async def test_eagerly_it_may_find_its_data_ready(stage, lines):
    lines[0].peer.send_now(b"ready")

    async def handler():
        await stage.prologue()
        task = stage.make_task(lines[0].sock.read(), eager_start=True)
        return await task, await stage.sock.read()

    task = await stage.begin(handler())
    stage.peer.send_now(b"next")
    assert await task == (b"ready", b"next")


@needs_eager_tasks
async def test_eagerly_it_runs_in_a_context_of_its_own(stage, lines):
    async def child():
        var.set("by the child")
        await lines[0].sock.read(1)
        return var.get()

    async def handler():
        await stage.prologue()
        context = contextvars.copy_context()
        tasks = [stage.make_task(child(), eager_start=True)]
        assert var.get() == "default"
        await tasks[0]
        tasks.append(stage.make_task(child(), eager_start=True, context=context))
        assert context[var] == "by the child"
        await tasks[1]
        return [task.result() for task in tasks], var.get()

    task = await stage.begin(handler())
    lines[0].peer.send_now(b"xx")
    assert await task == (["by the child"] * 2, "default")


@needs_eager_tasks
@pytest.mark.parametrize("moment", ["at once", "later"])
async def test_eagerly_begun_it_is_cancelled_like_any_other(stage, lines, moment):
    seen = []

    async def child():
        if moment == "at once":
            asyncio.current_task().cancel("at once")
        try:
            await lines[0].sock.read()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    async def handler():
        await stage.prologue()
        task = stage.make_task(child(), eager_start=True)
        if moment == "later":
            task.cancel("later")
        await asyncio.wait([task])
        return task.cancelled()

    assert await stage.run(handler()) is True
    assert seen == [(moment,)]


@needs_eager_tasks
@pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop calls factories in another way from Python 3.13 on
async def test_an_eager_factory_makes_every_task(make_task, lines):
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    make_task.make_all(loop)
    begun = []

    async def handler(line):
        begun.append(line)
        data = await line.sock.read(1)
        await asyncio.sleep(0)
        return data + await line.sock.read(1)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(handler(line), name="a name") for line in lines]
        assert begun == lines
        for line in lines:
            line.peer.send_now(b"ab")
    assert [task.result() for task in tasks] == [b"ab"] * 3
    assert [task.get_name() for task in tasks] == ["a name"] * 3
