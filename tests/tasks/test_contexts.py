"""The context variables of a task."""

from __future__ import annotations

import asyncio
import contextvars
import sys

import pytest
from helpers import give_turns, until

pytestmark = pytest.mark.asyncio

needs_get_context = pytest.mark.skipif(sys.version_info < (3, 12), reason="it is of Python 3.12")

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="default")
other_var: contextvars.ContextVar[str] = contextvars.ContextVar("other_var", default="default")


async def test_what_it_sets_it_sees_and_nobody_else(stage, wait):
    seen = []

    async def handler():
        var.set("before")
        await stage.prologue()
        seen.append(var.get())
        var.set("after")
        await wait()
        seen.append(var.get())
        other_var.set("last")
        await asyncio.sleep(0)
        await stage.sock.read()
        seen.extend((var.get(), other_var.get()))

    task = await stage.begin(handler())
    assert var.get() == "default"
    wait.end()
    await give_turns(20)
    assert (var.get(), other_var.get()) == ("default", "default")
    stage.peer.send_now(b"next")
    await task
    assert seen == ["before", "after", "after", "last"]
    assert (var.get(), other_var.get()) == ("default", "default")


async def test_it_begins_with_those_of_who_made_it(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()
        return var.get()

    token = var.set("of the maker")
    task = await stage.begin(handler())
    var.reset(token)
    wait.end()
    assert await task == "of the maker"


async def test_a_value_is_put_back_after_waits(stage, wait):
    async def handler():
        token = var.set("set")
        await stage.prologue()
        await wait()
        assert var.get() == "set"
        var.reset(token)
        return var.get()

    task = await stage.begin(handler())
    wait.end()
    assert await task == "default"


async def test_each_of_several_that_are_ready_at_once_sees_its_own(stage, lines):
    async def handler(number, line):
        var.set(f"before {number}")
        await line.sock.read()
        seen = [var.get()]
        var.set(f"after {number}")
        await line.sock.read()
        return [*seen, var.get()]

    async def main():
        await stage.prologue()
        return await asyncio.gather(*(handler(number, line) for number, line in enumerate(lines)))

    task = await stage.begin(main())
    for _ in range(2):
        for line in lines:
            line.peer.send_now(b"x")
        await give_turns(20)
    assert await task == [[f"before {number}", f"after {number}"] for number in range(3)]


async def test_a_context_that_is_given_is_used(stage, wait):
    context = contextvars.copy_context()
    context.run(var.set, "given")
    seen = []

    async def handler():
        seen.append(var.get())
        await stage.prologue()
        var.set("by the task")
        await wait()
        seen.append(var.get())

    task = await stage.begin(handler(), context=context)
    assert context[var] == "by the task"
    context.run(var.set, "meanwhile")
    wait.end()
    await task
    assert seen == ["given", "meanwhile"]
    assert var.get() == "default"


async def test_two_tasks_share_a_context(stage, lines):
    context = contextvars.copy_context()
    seen = []

    async def other():
        while await lines[0].sock.read():
            seen.append(var.get())
            var.set("by the other")

    async def handler():
        var.set("by the first")
        await stage.prologue()
        await stage.sock.read()
        seen.append(var.get())

    task = await stage.begin(handler(), context=context)
    another = stage.make_task(other(), context=context)
    await give_turns()
    lines[0].peer.send_now(b"x")
    await until(lambda: seen)
    stage.peer.send_now(b"x")
    await task
    assert seen == ["by the first", "by the other"]
    lines[0].peer.half_close()
    await another


async def test_children_begin_with_a_copy(stage, wait, lines):
    async def child():
        seen = [var.get()]
        var.set("by the child")
        await lines[0].sock.read()
        return [*seen, var.get()]

    async def handler():
        await stage.prologue()
        await wait()
        var.set("by the parent")
        children = asyncio.create_task(child())
        await give_turns()
        var.set("later")
        return await children, var.get()

    task = await stage.begin(handler())
    wait.end()
    await give_turns(20)
    lines[0].peer.send_now(b"x")
    assert await task == (["by the parent", "by the child"], "later")


async def test_callbacks_that_it_schedules_run_in_a_copy(stage, wait):
    loop = asyncio.get_running_loop()
    seen = []

    async def handler():
        await stage.prologue()
        await wait()
        var.set("of the task")
        loop.call_soon(lambda: seen.append(var.get()))
        loop.call_soon(var.set, "of the callback")
        future = loop.create_future()
        future.add_done_callback(lambda _: seen.append(var.get()))
        future.set_result(None)
        seen.append(await asyncio.to_thread(var.get))
        await stage.sock.read()
        return var.get()

    task = await stage.begin(handler())
    wait.end()
    await until(lambda: len(seen) == 3)
    stage.peer.send_now(b"next")
    assert await task == "of the task"
    assert seen == ["of the task"] * 3


async def test_its_done_callbacks_run_in_the_context_of_who_added_them(stage, wait):
    seen = []

    async def handler():
        await stage.prologue()
        var.set("of the task")
        await wait()

    task = await stage.begin(handler())
    token = var.set("of who added it")
    task.add_done_callback(lambda _: seen.append(var.get()))
    var.reset(token)
    context = contextvars.copy_context()
    context.run(var.set, "given")
    task.add_done_callback(lambda _: seen.append(var.get()), context=context)
    wait.end()
    await task
    await give_turns()
    assert seen == ["of who added it", "given"]


async def test_cleaning_up_sees_its_own(stage, wait):
    seen = []

    async def handler():
        await stage.prologue()
        token = var.set("set")
        try:
            await wait()
        finally:
            seen.append(var.get())
            var.reset(token)

    task = await stage.begin(handler())
    task.cancel()
    await asyncio.wait([task])
    assert seen == ["set"]


@needs_get_context
async def test_its_context_can_be_asked_for(stage, wait):
    async def handler():
        await stage.prologue()
        var.set("before")
        await wait()
        var.set("after")
        await stage.sock.read()

    task = await stage.begin(handler())
    context = task.get_context()
    assert context[var] == "before"
    wait.end()
    await until(lambda: context[var] == "after")
    assert task.get_context() is context
    stage.peer.send_now(b"next")
    await task
    assert context[var] == "after"


@needs_get_context
async def test_a_context_that_is_given_is_its_context(stage, wait):
    context = contextvars.copy_context()

    async def handler():
        await stage.prologue()
        await wait()

    task = await stage.begin(handler(), context=context)
    assert task.get_context() is context
    wait.end()
    await task
