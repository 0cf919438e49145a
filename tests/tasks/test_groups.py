"""Several tasks together: `gather`, `wait`, `shield`, `TaskGroup`, and tasks that await tasks."""

from __future__ import annotations

import asyncio

import pytest
from helpers import give_turns, until

pytestmark = pytest.mark.asyncio


async def test_awaiting_another_task(stage, lines):
    async def inner():
        data = await lines[0].sock.read(1)
        await asyncio.sleep(0)
        return data + await lines[0].sock.read(1)

    async def handler():
        await stage.prologue()
        return await asyncio.create_task(inner()) + await stage.sock.read()

    task = await stage.begin(handler())
    for data in (b"a", b"b"):
        lines[0].peer.send_now(data)
        await give_turns(20)
    stage.peer.send_now(b"c")
    assert await task == b"abc"


async def test_awaiting_another_task_that_fails(stage, lines):
    async def inner():
        raise ValueError(await lines[0].sock.read())

    async def handler():
        await stage.prologue()
        with pytest.raises(ValueError) as caught:
            await asyncio.create_task(inner())
        return caught.value.args

    task = await stage.begin(handler())
    lines[0].peer.send_now(b"oops")
    assert await task == (b"oops",)


async def test_several_tasks_await_one(stage, wait):
    async def handler():
        await stage.prologue()
        return await wait()

    async def waiter():
        return await task

    task = await stage.begin(handler())
    waiters = [stage.make_task(waiter()) for _ in range(3)]
    await give_turns()
    waiters[0].cancel()  # and with it the task
    await asyncio.wait(waiters)
    assert task.cancelled()
    assert [each.cancelled() for each in waiters] == [True] * 3


async def test_gathering_reads_of_several_sockets(stage, lines):
    async def handler():
        await stage.prologue()
        found = await asyncio.gather(*(line.sock.read() for line in lines))
        return found, await stage.sock.read()

    task = await stage.begin(handler())
    for number, line in enumerate(lines):
        line.peer.send_now(b"%d" % number)
    await give_turns(20)
    stage.peer.send_now(b"own")
    assert await task == ([b"0", b"1", b"2"], b"own")


async def test_gathering_reads_of_which_one_fails(stage, lines):
    async def failing():
        raise ValueError(await lines[0].sock.read())

    async def handler():
        await stage.prologue()
        others = [asyncio.ensure_future(line.sock.read()) for line in lines[1:]]
        with pytest.raises(ValueError):
            await asyncio.gather(failing(), *others)
        return await asyncio.gather(*others, failing(), return_exceptions=True)

    task = await stage.begin(handler())
    lines[0].peer.send_now(b"oops")
    await give_turns(20)
    lines[1].peer.send_now(b"1")
    lines[2].peer.send_now(b"2")
    lines[0].peer.send_now(b"again")
    *found, error = await task
    assert found == [b"1", b"2"]
    assert error.args == (b"again",)


async def test_cancelled_while_it_gathers(stage, lines):
    async def handler():
        await stage.prologue()
        await asyncio.gather(*(line.sock.read() for line in lines))

    task = await stage.begin(handler())
    lines[0].peer.send_now(b"read already")
    await give_turns(20)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    lines[1].peer.send_now(b"kept")
    assert await lines[1].sock.read() == b"kept"


async def test_the_first_of_several_reads(stage, lines):
    async def handler():
        await stage.prologue()
        reading = [asyncio.create_task(line.sock.read()) for line in lines]
        done, pending = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        for each in pending:
            each.cancel()
        await asyncio.wait(pending)
        return [each.result() for each in done], len(pending), await stage.sock.read()

    task = await stage.begin(handler())
    lines[1].peer.send_now(b"first")
    await give_turns(20)
    stage.peer.send_now(b"own")
    assert await task == ([b"first"], 2, b"own")


async def test_reads_as_they_complete(stage, lines):
    found = []

    async def handler():
        await stage.prologue()
        for reading in asyncio.as_completed([line.sock.read() for line in lines]):
            data = await reading
            found.append(data)

    task = await stage.begin(handler())
    for count, line in enumerate(reversed(lines), 1):
        line.peer.send_now(b"%d" % count)
        await until(lambda: len(found) == count)  # noqa: B023
    await task
    assert found == [b"1", b"2", b"3"]


async def test_a_shielded_read_outlives_who_waits_for_it(stage):
    readings = []

    async def handler():
        await stage.prologue()
        readings.append(asyncio.create_task(stage.sock.read()))
        await asyncio.shield(readings[0])

    task = await stage.begin(handler())
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    stage.peer.send_now(b"read")
    assert await readings[0] == b"read"


async def test_a_group_of_reading_tasks(stage, lines):
    async def child(line):
        data = await line.sock.read(1)
        await asyncio.sleep(0)
        return data + await line.sock.read(1)

    async def handler():
        await stage.prologue()
        async with asyncio.TaskGroup() as group:
            children = [group.create_task(child(line)) for line in lines]
            own = await stage.sock.read_exactly(3)
        return [each.result() for each in children], own, await stage.sock.read()

    task = await stage.begin(handler())
    for data in (b"a", b"b"):
        for line in lines:
            line.peer.send_now(data)
        await give_turns(20)
    stage.peer.send_now(b"own")
    await give_turns(20)
    stage.peer.send_now(b"after")
    assert await task == ([b"ab"] * 3, b"own", b"after")


async def test_a_group_of_which_one_child_fails(stage, lines, wait):
    endings = []

    async def failing():
        raise ValueError(await lines[0].sock.read())

    async def child(line):
        try:
            await line.sock.read()
        except asyncio.CancelledError:
            endings.append("cancelled")
            raise

    async def handler():
        await stage.prologue()
        try:
            async with asyncio.TaskGroup() as group:
                for line in lines[1:]:
                    group.create_task(child(line))
                group.create_task(failing())
                await wait()
        except ExceptionGroup as caught:
            endings.append([error.args for error in caught.exceptions])
        return asyncio.current_task().cancelling(), await wait()

    task = await stage.begin(handler())
    lines[0].peer.send_now(b"oops")
    await until(lambda: len(endings) == 3)
    await give_turns()
    wait.end()
    assert await task == (0, b"end")
    assert endings == ["cancelled", "cancelled", [(b"oops",)]]
    for line in lines[1:]:
        line.peer.send_now(b"kept")
        assert await line.sock.read() == b"kept"


async def test_a_group_whose_body_fails(stage, lines):
    async def handler():
        await stage.prologue()
        try:
            async with asyncio.TaskGroup() as group:
                children = [group.create_task(line.sock.read()) for line in lines]
                await asyncio.sleep(0)
                raise ValueError(await stage.sock.read())
        except ExceptionGroup as caught:
            return [error.args for error in caught.exceptions], [child.cancelled() for child in children]

    task = await stage.begin(handler())
    stage.peer.send_now(b"oops")
    assert await task == ([(b"oops",)], [True] * 3)


async def test_a_group_that_is_cancelled_from_outside(stage, lines, wait):
    children = []

    async def handler():
        await stage.prologue()
        async with asyncio.TaskGroup() as group:
            children.extend(group.create_task(line.sock.read()) for line in lines)
            await wait()

    task = await stage.begin(handler())
    task.cancel("all of it")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [child.cancelled() for child in children] == [True] * 3


async def test_groups_within_groups(stage, lines):
    async def reading_group(line):
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(line.sock.read())
        return reading.result()

    async def handler():
        await stage.prologue()
        async with asyncio.TaskGroup() as group:
            children = [group.create_task(reading_group(line)) for line in lines]
            own = group.create_task(stage.sock.read())
        return [child.result() for child in children], own.result()

    task = await stage.begin(handler())
    for line in (*lines, stage):
        line.peer.send_now(b"data")
    assert await task == ([b"data"] * 3, b"data")


async def test_a_child_outlives_the_task_that_made_it(stage, lines):
    children = []

    async def child():
        return await lines[0].sock.read(1) + await lines[0].sock.read(1)

    async def handler():
        await stage.prologue()
        children.append(asyncio.create_task(child()))

    await stage.run(handler())
    await give_turns()
    for data in (b"a", b"b"):
        lines[0].peer.send_now(data)
        await give_turns(20)
    assert await children[0] == b"ab"
