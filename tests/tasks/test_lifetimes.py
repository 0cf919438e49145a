"""What a task holds, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref

import pytest
from helpers import begin, give_turns

pytestmark = pytest.mark.asyncio


var: contextvars.ContextVar[object] = contextvars.ContextVar("var")


class Thing:
    """Something that can be held."""


@contextlib.contextmanager
def without_collector():
    """What is in a circle stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_its_locals_go_with_the_end_of_its_coroutine(stage, wait):
    refs = []

    async def handler():
        local = Thing()
        refs.append(weakref.ref(local))
        await stage.prologue()
        await wait()

    with without_collector():
        task = await stage.begin(handler())
        assert refs[0]() is not None
        wait.end()
        await task
        assert refs[0]() is None
        assert task.get_coro() is not None


async def test_its_locals_go_when_it_is_cancelled(stage, wait):
    refs = []

    async def handler():
        local = Thing()
        refs.append(weakref.ref(local))
        await stage.prologue()
        await wait()

    task = await stage.begin(handler())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task  # until it is asked, it holds the traceback
    await give_turns()
    gc.collect()
    assert refs[0]() is None
    assert task.cancelled()


async def test_its_locals_go_with_its_exception(stage, wait):
    refs = []

    async def handler():
        local = Thing()
        refs.append(weakref.ref(local))
        await stage.prologue()
        await wait()
        raise ValueError

    task = await stage.begin(handler())
    wait.end()
    await asyncio.wait([task])
    assert refs[0]() is not None  # in the traceback
    assert isinstance(task.exception(), ValueError)
    del task
    await give_turns()
    gc.collect()
    assert refs[0]() is None


async def test_what_a_future_gave_it_is_not_held_while_it_waits_again(stage, wait):
    loop = asyncio.get_running_loop()
    refs = []

    async def a_thing():
        future, thing = loop.create_future(), Thing()
        refs.append(weakref.ref(thing))
        loop.call_soon(future.set_result, thing)
        del thing
        await future

    async def handler():
        await stage.prologue()
        await a_thing()
        await wait()

    task = await stage.begin(handler())
    await give_turns()
    gc.collect()
    assert refs[0]() is None
    wait.end()
    await task


async def test_it_goes_when_it_has_ended_and_nobody_holds_it(stage, wait):
    refs = []

    async def handler():
        await stage.prologue()
        return await wait()

    coroutine = handler()
    refs.append(weakref.ref(coroutine))
    task = await stage.begin(coroutine)
    del coroutine
    refs.append(weakref.ref(task))
    wait.end()
    assert await task == b"end"
    del task
    await give_turns()
    with without_collector():
        assert [ref() for ref in refs] == [None, None]


async def test_its_result_goes_with_it(stage, wait):
    async def handler():
        await stage.prologue()
        await wait()
        return Thing()

    task = await stage.begin(handler())
    wait.end()
    ref = weakref.ref(await task)
    assert ref() is not None
    del task
    await give_turns()
    gc.collect()
    assert ref() is None


async def test_its_context_goes_with_it(stage, wait, lines):
    refs = []
    first = await begin(lines[0].sock.read())  # the loop's reader keeps the context of who waits first of all

    async def handler():
        thing = Thing()
        refs.append(weakref.ref(thing))
        var.set(thing)
        await stage.prologue()
        await wait()

    task = await stage.begin(handler())
    wait.end()
    await task
    del task
    wait.awaited = None
    await give_turns()
    gc.collect()
    assert refs[0]() is None
    lines[0].peer.half_close()
    await first


async def test_a_circle_through_it_can_be_collected(stage, wait):
    async def handler(thing):
        await stage.prologue()
        await wait()
        return thing

    thing = Thing()
    ref = weakref.ref(thing)
    thing.task = await stage.begin(handler(thing))
    wait.end()
    await thing.task
    del thing
    await give_turns()
    gc.collect()
    assert ref() is None


async def test_an_exception_that_holds_it_can_be_collected(stage, wait):
    refs = []

    async def handler():
        me = asyncio.current_task()  # in the traceback of its own exception
        refs.append(weakref.ref(me))
        await stage.prologue()
        await wait()
        raise ValueError

    task = await stage.begin(handler())
    wait.end()
    await asyncio.wait([task])
    assert isinstance(task.exception(), ValueError)
    del task
    await give_turns()
    gc.collect()
    assert refs[0]() is None


async def test_many_waits_leave_nothing(stage):
    async def handler():
        await stage.prologue()
        for _ in range(2):
            for _ in range(1000):
                stage.peer.send_now(b"x")
                assert await stage.sock.read() == b"x"
                await asyncio.sleep(0)
            gc.collect()
            counts.append(len(gc.get_objects()))

    counts = []
    await stage.run(handler())
    assert counts[1] - counts[0] < 100
