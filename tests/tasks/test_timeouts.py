"""`asyncio.timeout` and `asyncio.wait_for` around what a task waits for."""

from __future__ import annotations

import asyncio

import pytest
from helpers import give_turns, until

pytestmark = pytest.mark.asyncio

SHORT, LONG = 0.01, 10.0


async def test_one_that_expires_leaves_nothing_behind(stage, wait):
    expired = []

    async def handler():
        await stage.prologue()
        try:
            async with asyncio.timeout(SHORT) as scope:
                await wait()
        except TimeoutError:
            expired.append(scope.expired())
        return asyncio.current_task().cancelling(), await wait()

    task = await stage.begin(handler())
    await until(lambda: expired)
    await give_turns()
    wait.end()
    assert await task == (0, b"end")
    assert expired == [True]


async def test_one_that_does_not_expire_changes_nothing(stage, wait):
    async def handler():
        await stage.prologue()
        async with asyncio.timeout(LONG) as scope:
            data = await wait()
        await asyncio.sleep(0)
        return scope.expired(), asyncio.current_task().cancelling(), data, await stage.sock.read()

    task = await stage.begin(handler())
    wait.end()
    await give_turns()
    stage.peer.send_now(b"more")
    assert await task == (False, 0, b"end", b"more")


async def test_one_around_many_waits(stage, wait):
    scopes, seen = [], []

    async def handler():
        await stage.prologue()
        try:
            async with asyncio.timeout(LONG) as scope:
                scopes.append(scope)
                while True:
                    seen.append(await wait())
                    await asyncio.sleep(0)
        except TimeoutError:
            return await stage.sock.read()

    task = await stage.begin(handler())
    for count in range(1, 4):
        wait.end()
        await until(lambda: len(seen) == count)  # noqa: B023
        await give_turns()
    scopes[0].reschedule(0)
    await until(scopes[0].expired)
    await give_turns()
    stage.peer.send_now(b"more")
    assert await task == b"more"
    assert seen == [b"end"] * 3


async def test_one_whose_time_was_over_before_it_began(stage, wait):
    async def handler():
        await stage.prologue()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(-1):
                await wait()
        return await wait()

    task = await stage.begin(handler())
    await give_turns()
    wait.end()
    assert await task == b"end"


async def test_the_inner_of_two_expires_alone(stage, wait):
    inner_expired = []

    async def handler():
        await stage.prologue()
        async with asyncio.timeout(LONG) as outer:
            try:
                async with asyncio.timeout(SHORT):
                    await wait()
            except TimeoutError:
                inner_expired.append(asyncio.current_task().cancelling())
            return await wait(), outer.expired()

    task = await stage.begin(handler())
    await until(lambda: inner_expired)
    await give_turns()
    wait.end()
    assert await task == (b"end", False)
    assert inner_expired == [0]


async def test_the_outer_of_two_expires_through_the_inner(stage, wait):
    async def handler():
        await stage.prologue()
        try:
            async with asyncio.timeout(SHORT) as outer:
                async with asyncio.timeout(LONG) as inner:
                    await wait()
        except TimeoutError:
            return outer.expired(), inner.expired(), asyncio.current_task().cancelling()

    assert await stage.run(handler()) == (True, False, 0)


async def test_both_of_two_expire_in_one_turn(stage, wait):
    async def handler():
        await stage.prologue()
        try:
            async with asyncio.timeout(0) as outer:
                async with asyncio.timeout(0) as inner:
                    await wait()
        except TimeoutError:
            return outer.expired(), inner.expired(), asyncio.current_task().cancelling()

    assert await stage.run(handler()) == (True, True, 0)


async def test_one_that_is_put_off(stage, wait):
    async def handler():
        await stage.prologue()
        async with asyncio.timeout(SHORT) as scope:
            scope.reschedule(None)
            return await wait(), scope.expired()

    task = await stage.begin(handler())
    await asyncio.wait([task], timeout=3 * SHORT)
    assert not task.done()
    wait.end()
    assert await task == (b"end", False)


async def test_one_that_is_moved_up_while_it_waits(stage, wait):
    scopes = []

    async def handler():
        await stage.prologue()
        try:
            async with asyncio.timeout(None) as scope:
                scopes.append(scope)
                await wait()
        except TimeoutError:
            return await wait()

    task = await stage.begin(handler())
    scopes[0].reschedule(asyncio.get_running_loop().time())
    await until(scopes[0].expired)
    await give_turns()
    wait.end()
    assert await task == b"end"


async def test_cancelled_in_the_turn_in_which_it_expires_it_is_cancelled(stage, wait):
    async def handler():
        await stage.prologue()
        task = asyncio.current_task()
        asyncio.get_running_loop().call_soon(task.cancel, "from outside")
        try:
            async with asyncio.timeout(0):
                await wait()
        except asyncio.CancelledError:
            return task.cancelling()

    assert await stage.run(handler()) == 1


async def test_cancelled_by_others_it_does_not_look_expired(stage, wait):
    async def handler():
        await stage.prologue()
        async with asyncio.timeout(LONG):
            await wait()

    task = await stage.begin(handler())
    task.cancel("from outside")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("from outside",)


async def test_a_task_that_cancels_itself_within_one_is_cancelled(stage, wait):
    async def handler():
        await stage.prologue()
        async with asyncio.timeout(LONG):
            asyncio.current_task().cancel("myself")
            await wait()

    task = await stage.begin(handler())
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("myself",)


async def test_data_that_come_as_it_expires_are_not_lost(stage):
    read = []

    async def handler():
        await stage.prologue()
        for _ in range(20):
            try:
                async with asyncio.timeout(0):
                    stage.peer.send_now(b"x")
                    read.append(await stage.sock.read(1))
            except TimeoutError:
                pass
            await asyncio.sleep(0)
        stage.peer.half_close()
        while data := await stage.sock.read():
            read.append(data)

    await stage.run(handler())
    assert b"".join(read) == b"x" * 20


async def test_wait_for_what_comes(stage, wait):
    async def handler():
        await stage.prologue()
        first = await asyncio.wait_for(wait(), LONG)
        return first, await asyncio.wait_for(stage.sock.read(), LONG), asyncio.current_task().cancelling()

    task = await stage.begin(handler())
    wait.end()
    await give_turns()
    stage.peer.send_now(b"more")
    assert await task == (b"end", b"more", 0)


async def test_wait_for_what_does_not_come(stage, wait):
    late = []

    async def handler():
        await stage.prologue()
        try:
            await asyncio.wait_for(wait(), SHORT)
        except TimeoutError:
            late.append(asyncio.current_task().cancelling())
        return await wait()

    task = await stage.begin(handler())
    await until(lambda: late)
    await give_turns()
    wait.end()
    assert await task == b"end"
    assert late == [0]


async def test_wait_for_nothing_at_all(stage, wait):
    async def handler():
        await stage.prologue()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait(), 0)
        return await wait()

    task = await stage.begin(handler())
    await give_turns()
    wait.end()
    assert await task == b"end"


async def test_cancelled_in_wait_for(stage, wait):
    async def handler():
        await stage.prologue()
        await asyncio.wait_for(wait(), LONG)

    task = await stage.begin(handler())
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert wait.awaited is None or wait.awaited.cancelled()


async def test_a_timeout_around_wait_for_around_a_read(stage, wait):
    async def handler():
        await stage.prologue()
        try:
            async with asyncio.timeout(SHORT) as scope:
                await asyncio.wait_for(wait(), LONG)
        except TimeoutError:
            return scope.expired(), asyncio.current_task().cancelling()

    assert await stage.run(handler()) == (True, 0)
