"""A batch of events that is broken off, by what one of its tasks raises or by the end of the run."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from helpers import give_turns, until
from peers import RawPeer

import aionet

from .support import TASKS, lines

COUNT = 7


@pytest.fixture(params=TASKS)
def kind(request):
    return TASKS[request.param]


@pytest.fixture
def loop(new_loop):
    loop = new_loop()
    loop.complaints = []
    loop.set_exception_handler(lambda _, context: loop.complaints.append(context))
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def interrupted(loop, coroutine):
    """Run `coroutine`; return what ended the run early, if anything did."""
    try:
        loop.run_until_complete(coroutine)
    except (KeyboardInterrupt, SystemExit) as error:
        return error
    return None


async def enter(stack):
    return await stack.enter_async_context(lines(COUNT))


@pytest.mark.parametrize("at", [0, COUNT // 2, COUNT - 1])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_others_are_served_when_the_loop_runs_again(loop, kind, error, at):
    served, stack = [], contextlib.AsyncExitStack()

    async def handler(number, sock):
        data = await sock.read()
        if number == at:
            raise error
        served.append((number, data))

    async def begin():
        batch = await enter(stack)
        tasks.extend(kind(loop, handler(number, line.sock)) for number, line in enumerate(batch))
        await give_turns()
        return batch

    tasks = []
    batch = loop.run_until_complete(begin())
    for line in batch:
        line.peer.send_now(b"x")
    assert isinstance(interrupted(loop, asyncio.sleep(5)), error)
    assert len(served) < COUNT
    assert interrupted(loop, until(lambda: len(served) == COUNT - 1)) is None
    assert sorted(served) == [(number, b"x") for number in range(COUNT) if number != at]
    assert isinstance(tasks[at].exception(), error)
    assert asyncio.current_task(loop) is None
    loop.run_until_complete(stack.aclose())
    assert not loop.complaints


def test_every_second_one_interrupts(loop, kind):
    served, stack, tasks = [], contextlib.AsyncExitStack(), []

    async def handler(number, sock):
        data = await sock.read()
        if number % 2:
            raise KeyboardInterrupt
        served.append(data)

    async def begin():
        batch = await enter(stack)
        tasks.extend(kind(loop, handler(number, line.sock)) for number, line in enumerate(batch))
        await give_turns()
        for line in batch:
            line.peer.send_now(b"x")

    runs = [interrupted(loop, begin())]
    runs += [interrupted(loop, until(lambda: len(served) == COUNT - COUNT // 2)) for _ in range(COUNT)]
    assert served == [b"x"] * (COUNT - COUNT // 2)
    assert sum(isinstance(error, KeyboardInterrupt) for error in runs) == COUNT // 2
    for task in tasks:
        assert task.done()
        task.exception()
    loop.run_until_complete(stack.aclose())


def test_a_handler_of_a_spawner_that_interrupts(loop):
    served = []

    async def handler(sock):
        served.append(await sock.read())
        if len(served) == 2:
            raise KeyboardInterrupt

    async def begin():
        serving.append(loop.create_task(spawner.serve(server)))
        await until(lambda: len(spawner.connections) == COUNT)
        await give_turns()

    async def end():
        await until(lambda: not spawner.connections)
        server.close()
        await serving[0]

    spawner, serving = aionet.ConnectionSpawner(handler), []
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    peers = [RawPeer(socket.create_connection(("127.0.0.1", server.address.port))) for _ in range(COUNT)]
    loop.run_until_complete(begin())
    for peer in peers:
        peer.send_now(b"x")
    assert isinstance(interrupted(loop, asyncio.sleep(5)), KeyboardInterrupt)
    assert len(served) == 2
    assert interrupted(loop, end()) is None
    assert served == [b"x"] * COUNT
    assert (spawner.stats.completed, spawner.stats.failed) == (COUNT - 1, 1)
    for peer in peers:
        peer.stop()


def test_a_handler_that_stops_the_loop(loop, kind):
    """The rest of the batch is served in the same turn, or when the loop runs again."""
    served, stack, tasks = [], contextlib.AsyncExitStack(), []

    async def handler(sock):
        served.append(await sock.read())
        loop.stop()

    async def begin():
        batch = await enter(stack)
        tasks.extend(kind(loop, handler(line.sock)) for line in batch)
        await give_turns()
        return batch

    for line in loop.run_until_complete(begin()):
        line.peer.send_now(b"x")
    loop.run_forever()
    assert served
    while len(served) < COUNT:
        loop.run_forever()
    loop.run_until_complete(stack.aclose())
    assert [task.result() for task in tasks] == [None] * COUNT


def test_a_callback_of_ones_own_that_raises_is_told_to_the_loop(loop, kind):
    """What waits need not be a Task: what its callback raises is treated as that of any callback."""
    served, stack, errors = [], contextlib.AsyncExitStack(), []

    def wake_up(wait):
        errors.append(ValueError("of a callback"))
        raise errors[-1]

    async def reader(sock):
        served.append(await sock.read())

    async def begin():
        batch = await enter(stack)
        by_hand = [line.sock.read() for line in batch[::2]]
        for operation in by_hand:
            operation.send(None).add_done_callback(wake_up)
        tasks = [kind(loop, reader(line.sock)) for line in batch[1::2]]
        await give_turns()
        for line in batch:
            line.peer.send_now(b"x")
        await until(lambda: len(served) == len(tasks) and len(errors) == len(by_hand))
        for operation in by_hand:
            operation.close()

    loop.run_until_complete(begin())
    loop.run_until_complete(stack.aclose())
    assert [context.get("exception") for context in loop.complaints] == errors


def test_a_watcher_that_raises_does_not_keep_the_others_from_their_events(loop, kind):
    from aionet.wires.event_loop import running_state

    served, stack = [], contextlib.AsyncExitStack()

    class Bad:
        def on_events(self, events):
            raise ValueError("of a watcher")

    async def reader(sock):
        served.append(await sock.read())

    async def begin():
        batch = await enter(stack)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            reactor = running_state().reactor
            tasks = [kind(loop, reader(line.sock)) for line in batch]
            bad = Bad()
            reactor.watch(ours.fileno(), bad)
            await give_turns()
            for line in batch:
                line.peer.send_now(b"x")
                theirs.send(b"x")
            await asyncio.gather(*tasks)
            reactor.forget(ours.fileno(), bad)

    loop.run_until_complete(begin())
    loop.run_until_complete(stack.aclose())
    assert served == [b"x"] * COUNT
    assert loop.complaints
    assert all(isinstance(context["exception"], ValueError) for context in loop.complaints)
