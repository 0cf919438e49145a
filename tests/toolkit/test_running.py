"""`aionet.run`, its loop and its tasks: asyncio's manners, on either engine."""

from __future__ import annotations

import asyncio
import warnings

import pytest

import aionet
from aionet.running import LOOPS, LoopName, loop_factory

NATIVE = aionet.implementation() == "native"


def test_run_returns_what_main_returns() -> None:
    async def main() -> str:
        await asyncio.sleep(0)
        return "done"

    assert aionet.run(main()) == "done"


def test_run_raises_what_main_raises() -> None:
    async def main() -> None:
        raise KeyError("of main")

    with pytest.raises(KeyError, match="of main"):
        aionet.run(main())


def test_run_cancels_what_is_left_and_closes_its_loop() -> None:
    seen: list[object] = []

    async def left_over() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("cancelled")

    async def main() -> asyncio.AbstractEventLoop:
        seen.append(asyncio.create_task(left_over()))
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    loop = aionet.run(main())
    assert seen[1:] == ["cancelled"]
    assert loop.is_closed()


def test_run_serves_sockets_in_its_main_task() -> None:
    async def main() -> bytes:
        task = asyncio.current_task()
        async with aionet.AsyncTcpConnectionServer("127.0.0.1:0") as server:
            client = aionet.AsyncTcpSocket()
            accepted, _ = await asyncio.gather(server.accept(), client.connect_to(server.address))
            async with accepted, client:
                reading = asyncio.create_task(accepted.read())
                await client.write(b"hello")
                read = await reading
                await accepted.write(read)
                assert await client.read_exactly(5) == b"hello"
        assert asyncio.current_task() is task
        return read

    assert aionet.run(main()) == b"hello"


@pytest.mark.parametrize("debug", [True, False])
def test_run_takes_debug(debug: bool) -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert aionet.run(main(), debug=debug) is debug


def test_run_takes_another_loop() -> None:
    class Loop(asyncio.SelectorEventLoop):
        pass

    async def main() -> type:
        return type(asyncio.get_running_loop())

    assert aionet.run(main(), loop_factory=Loop) is Loop


def test_run_refuses_what_is_no_coroutine() -> None:
    with pytest.raises(TypeError, match="42"):
        aionet.run(42)  # type: ignore[arg-type]


def test_run_refuses_to_run_inside_a_loop() -> None:
    async def inner() -> None: ...

    async def main() -> None:
        coroutine = inner()
        with pytest.raises(RuntimeError):
            aionet.run(coroutine)
        coroutine.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the runner leaves a coroutine of its own unawaited
        aionet.run(main())


def test_the_loop_suits_the_engine() -> None:
    loop = aionet.new_event_loop()
    try:
        assert isinstance(loop, asyncio.SelectorEventLoop)
        selector = type(loop._selector)  # type: ignore[attr-defined]
        assert selector.__module__.startswith("aionet") is NATIVE
    finally:
        loop.close()


@pytest.mark.parametrize("name", LOOPS)
def test_loops_by_name(name: LoopName) -> None:
    if name == "uvloop":
        pytest.importorskip("uvloop")
    loop = loop_factory(name)()
    try:
        assert loop.run_until_complete(asyncio.sleep(0, "ran")) == "ran"
    finally:
        loop.close()


def test_the_factory_makes_real_tasks() -> None:
    async def body() -> str:
        return asyncio.current_task().get_name()  # type: ignore[union-attr]

    async def main() -> str:
        loop = asyncio.get_running_loop()
        task = aionet.task_factory(loop, body(), name="mine")
        assert type(task) is asyncio.Task
        return await task

    assert aionet.run(main()) == "mine"


def test_the_factory_refuses_what_is_no_coroutine() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="42"):
            aionet.task_factory(asyncio.get_running_loop(), 42)  # type: ignore[arg-type]

    aionet.run(main())
