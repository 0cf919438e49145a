"""What `sock.read()` returns behaves as a coroutine does, whichever way it is driven."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import inspect
import sys
import traceback

import pytest
import pytest_asyncio
from helpers import give_turns

from aionet.errors import SocketBusyError
from aionet.native import compiled

from .support import lines

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "own"])


@pytest_asyncio.fixture
async def line():
    async with lines(1) as made:
        yield made[0]


FOLLOWED = ("cr_await", "cr_code", "cr_frame")
"""What debuggers and asyncio's call graphs look for."""

MAKERS = {
    "read": lambda sock: sock.read(),
    "anext": lambda sock: sock.__anext__(),
    "read_into": lambda sock: sock.read_into(bytearray(9)),
}
readers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


async def test_what_it_is(line):
    operation = line.sock.read()
    assert type(operation) is compiled.Operation
    assert isinstance(operation, collections.abc.Coroutine)
    assert inspect.isawaitable(operation)
    assert asyncio.iscoroutine(operation)
    assert (operation.__name__, operation.__qualname__) == ("read", "AsyncStreamSocket.read")
    assert not any(hasattr(operation, name) for name in FOLLOWED)
    operation.close()


async def test_one_that_delegates_has_the_frames_of_its_coroutine(line):
    writing = line.sock.write(bytes(50_000_000))
    assert not any(hasattr(writing, name) for name in FOLLOWED)
    writing.send(None)
    assert writing.cr_frame.f_code is writing.cr_code
    assert inspect.isawaitable(writing.cr_await)
    writing.close()
    assert not any(hasattr(writing, name) for name in FOLLOWED)


@readers
async def test_one_that_is_never_awaited_is_told(line, make):
    with pytest.warns(RuntimeWarning, match=r"coroutine 'AsyncStreamSocket\..*' was never awaited"):
        make(line.sock)


@readers
async def test_closing_a_fresh_one(line, make):
    operation = make(line.sock)
    operation.close()
    operation.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await operation


@readers
async def test_closing_a_waiting_one(line, make):
    operation = make(line.sock)
    wait = operation.send(None)
    assert type(wait) is compiled.Wait
    with pytest.raises(SocketBusyError):
        await line.sock.read()
    operation.close()
    assert wait.cancel() is False
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        operation.send(None)
    line.peer.send_now(b"x")
    assert await line.sock.read() == b"x"


@readers
async def test_reuse_after_a_result(line, make):
    line.peer.send_now(b"x")
    operation = make(line.sock)
    assert await operation in (b"x", 1)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        operation.send(None)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await operation
    operation.close()


async def test_throwing_into_a_finished_one(line):
    line.peer.send_now(b"x")
    operation = line.sock.read()
    assert await operation == b"x"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        operation.throw(KeyError())


async def test_reuse_after_an_error(line):
    line.sock.abort()
    operation = line.sock.read()
    with pytest.raises(OSError):
        await operation
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await operation


async def test_a_value_sent_to_a_fresh_one(line):
    operation = line.sock.read()
    line.peer.send_now(b"x")
    with pytest.raises(TypeError, match="non-None value"):
        operation.send("a value")
    assert await operation == b"x"


async def test_a_value_sent_to_a_waiting_one_is_ignored(line):
    operation = line.sock.read()
    operation.send(None)
    with pytest.raises(SocketBusyError):
        line.sock.read().send(None)
    line.peer.send_now(b"x")
    await give_turns()
    with pytest.raises(StopIteration) as stop:
        operation.send("a value")
    assert stop.value.value == b"x"


THROWS = {
    "class": ((KeyError,), KeyError()),
    "class and value": ((KeyError, "value"), KeyError("value")),
    "class and instance": ((KeyError, KeyError("value"), None), KeyError("value")),
    "instance": ((KeyError("value"),), KeyError("value")),
    "instance and None": ((KeyError("value"), None, None), KeyError("value")),
}


@pytest.mark.filterwarnings("ignore:the .*signature of throw:DeprecationWarning")
@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("how", THROWS)
async def test_throwing(line, how, waiting):
    arguments, expected = THROWS[how]
    operation = line.sock.read()
    if waiting:
        operation.send(None)
    with pytest.raises(KeyError) as caught:
        operation.throw(*arguments)
    assert caught.value.args == expected.args
    with pytest.raises(RuntimeError):
        operation.send(None)
    line.peer.send_now(b"x")
    assert await line.sock.read() == b"x"


@pytest.mark.filterwarnings("ignore:the .*signature of throw:DeprecationWarning")
async def test_throwing_with_a_traceback(line):
    def raise_it():
        raise KeyError("from elsewhere")

    try:
        raise_it()
    except KeyError:
        original = sys.exc_info()
    operation = line.sock.read()
    with pytest.raises(KeyError) as caught:
        operation.throw(*original)
    assert "raise_it" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    del original, caught


@pytest.mark.parametrize("arguments", [(), (1,), ("text",), (None,), (1, 2, 3, 4), (int,)], ids=repr)
async def test_throwing_nonsense(line, arguments):
    operation = line.sock.read()
    with pytest.raises(TypeError):
        operation.throw(*arguments)
    operation.close()


async def test_one_operation_awaited_by_two_tasks(line):
    """As with coroutines: the second one is refused, the first one notices nothing."""

    async def use(operation):
        return await operation

    operation = line.sock.read()
    first = asyncio.create_task(use(operation))
    await give_turns()
    second = asyncio.create_task(use(operation))
    await give_turns()
    line.peer.send_now(b"x")
    await asyncio.wait([first, second], timeout=0.5)
    results = [task.done() and (task.exception() or task.result()) for task in (first, second)]
    for task in (first, second):
        task.cancel()
    await asyncio.wait([first, second])
    assert results[0] == b"x", "the first one was never woken"
    assert isinstance(results[1], RuntimeError)


async def test_iterating(line):
    operation = line.sock.read()
    iterator = operation.__await__()
    wait = next(iterator)
    assert wait._asyncio_future_blocking
    assert wait.get_loop() is asyncio.get_running_loop()
    line.peer.send_now(b"x")
    await give_turns()
    with pytest.raises(StopIteration) as stop:
        next(iterator)
    assert stop.value.value == b"x"


async def test_the_protocol_of_waits(line):
    operation = line.sock.read()
    wait = operation.send(None)
    for arguments in ((), (int, int)):
        with pytest.raises(TypeError):
            wait.add_done_callback(*arguments)
    called = []
    wait.add_done_callback(called.append)
    assert wait.done() is False
    assert wait.cancel("enough") is True
    assert wait.cancel() is False
    await give_turns()
    assert called == [wait]
    with pytest.raises(asyncio.CancelledError) as caught:
        wait.result()
    assert caught.value.args == ("enough",)
    operation.close()


async def test_collecting_waiting_ones(line):
    operation = line.sock.read()
    wait = operation.send(None)
    assert wait is not None
    assert line.sock._wire in gc.get_referents(operation)
    del operation, wait
    gc.collect()
    line.sock.abort()
    gc.collect()
