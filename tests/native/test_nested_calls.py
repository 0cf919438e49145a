"""Code that a step of an operation or a task runs calls `send`, `throw` or `close` of that same coroutine."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import pytest
from helpers import give_turns
from tls.scenes import connected

from aionet.native import compiled

from .support import lines

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "own"])

HOW = {
    "send": lambda coroutine: coroutine.send(None),
    "throw": lambda coroutine: coroutine.throw(KeyError("thrown")),
    "close": lambda coroutine: coroutine.close(),
}


@pytest.fixture(params=HOW)
def call(request):
    """Call the method several times, so that what a wrong one frees is used again; return what it raised."""

    def calling(coroutine):
        errors = []
        for _ in range(3):
            with pytest.raises(ValueError, match="already executing") as caught:
                HOW[request.param](coroutine)
            errors.append(caught.value)
        gc.collect()
        assert all(bytearray(size) is not None for size in range(500))
        return errors

    return calling


class Nested:
    """`call(target)` from inside of the first Python function named `name` that is entered."""

    def __init__(self, name, call):
        self.name = name
        self.call = call
        self.target = None
        self.errors = []

    def __call__(self, frame, event, argument):
        if event == "call" and frame.f_code.co_name == self.name and not self.errors:
            sys.setprofile(None)
            self.errors = self.call(self.target)

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *exc_info):
        sys.setprofile(None)


@pytest.mark.parametrize("over", [None, "tls"])
async def test_inside_of_the_coroutine_that_an_operation_delegates_to(over, call):
    """A read out of the socket's buffer is a Python coroutine's."""
    with_peer = connected() if over else lines(1)
    async with with_peer as made:
        sock, peer = made if over else made[0]
        await peer.send(b"hello")
        assert await sock.peek(5) == b"hello"
        operation = sock.read()
        assert type(operation) in (compiled.Operation, compiled.TlsOperation)
        with Nested("read", call) as nested:
            nested.target = operation
            data = await operation
        assert nested.errors
        assert data == b"hello"
        with pytest.raises(RuntimeError, match="cannot reuse"):
            operation.send(None)


async def test_inside_of_a_delegate_that_is_thrown_into(call):
    async with lines(1) as (line,):
        writing = line.sock.write(bytes(50_000_000))
        writing.send(None)  # it waits for room
        with Nested("_abandon", call) as nested:
            nested.target = writing
            with pytest.raises(asyncio.CancelledError):
                writing.throw(asyncio.CancelledError())
        assert nested.errors


async def test_inside_of_a_delegate_that_is_closed(call):
    async with lines(1) as (line,):
        writing = line.sock.write(bytes(50_000_000))
        writing.send(None)
        with Nested("send", call) as nested:
            nested.target = writing
            writing.close()
        assert nested.errors


async def test_in_a_signal_handler_that_runs_in_a_step(call):
    """The step runs Python, and so the handlers of signals, where it asks whether bytes were read ahead."""
    async with lines(1) as (line,):
        errors = []

        def handler(number, frame):
            errors.extend(call(operation))

        class ReadAhead:
            def __len__(self):
                signal.raise_signal(signal.SIGUSR1)
                return 0

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            line.peer.send_now(b"x")
            line.sock._received = ReadAhead()
            operation = line.sock.read()
            assert await operation == b"x"
        finally:
            line.sock._received = None
            signal.signal(signal.SIGUSR1, before)
        assert errors


async def test_inside_of_steps_that_the_reactor_makes(call):
    async with lines(1) as (line,):
        errors = []

        async def main():
            errors.extend(call(task.get_coro()))
            data = await line.sock.read()
            errors.extend(call(task.get_coro()))
            return data, await line.sock.read()

        task = asyncio.create_task(main())
        await asyncio.sleep(0)
        for data in (b"x", b"y"):
            await line.peer.send(data)
            await give_turns()
        assert await task == (b"x", b"y")
        assert len(errors) == 6


class NotMadeError(Exception):
    def __new__(cls, *arguments):
        return 5


class PairError(Exception):
    def __init__(self, first, second):
        super().__init__(first, second)


@pytest.fixture(params=["operation", "delegated"])
def coroutine_of(request):
    makers = {
        "operation": lambda sock: sock.read(),
        "delegated": lambda sock: sock.write(bytes(50_000_000)),
    }
    return makers[request.param]


async def test_throwing_a_class_that_makes_no_exception(coroutine_of):
    async with lines(1) as (line,):
        coroutine = coroutine_of(line.sock)
        coroutine.send(None)
        with pytest.raises(TypeError, match="should have returned an instance of BaseException"):
            coroutine.throw(NotMadeError)
        coroutine.close()


@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature:DeprecationWarning")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((KeyError, "one"), KeyError("one")),
        ((PairError, (1, 2)), PairError(1, 2)),
        ((LookupError, KeyError("given")), KeyError("given")),
        ((KeyError, ValueError("another")), KeyError(ValueError("another"))),
    ],
)
async def test_what_is_thrown_is_made_as_the_interpreter_makes_it(coroutine_of, arguments, expected):
    async with lines(1) as (line,):
        coroutine = coroutine_of(line.sock)
        coroutine.send(None)
        with pytest.raises(type(expected)) as caught:
            coroutine.throw(*arguments)
        assert type(caught.value) is type(expected)
        assert repr(caught.value) == repr(expected)
