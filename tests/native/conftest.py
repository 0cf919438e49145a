"""The ground of the tests that are about the compiled engine: they want it, and loops of its own, too."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from conftest import LOOP_FACTORIES as COMMON_LOOP_FACTORIES

import aionet

from .ping_pong import PingPong, playing
from .support import LOOPS, TASKS, LoopFactory, MakeTask, make_selector


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    return {**COMMON_LOOP_FACTORIES, "own": aionet.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def _compiled_engine() -> None:
    if aionet.implementation() == "native":
        return
    reason = "the compiled engine does not run here"
    if os.environ.get("CI") and os.environ.get("AIONET_ENGINE") != "portable":
        pytest.fail(f"{reason}, and CI must have it", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    """Of a kind of loop, for scripts."""
    return str(request.param)


@pytest.fixture
def new_loop(loop_name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """For tests in which loops come and go."""
    return LOOPS[loop_name]


@pytest.fixture(params=TASKS)
def make_task(request: pytest.FixtureRequest) -> MakeTask:
    """`make_task(coroutine)`: a plain task or one that the reactor drives."""
    make: Callable[..., Any] = TASKS[request.param]
    return lambda coroutine: make(asyncio.get_running_loop(), coroutine)


@pytest.fixture(params=[selectors.EpollSelector, make_selector], ids=["standard", "ours"])
def selector(request: pytest.FixtureRequest) -> Iterator[selectors.BaseSelector]:
    with request.param() as selector:
        yield selector


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest_asyncio.fixture
async def ping_pong(make_task: MakeTask) -> AsyncIterator[PingPong]:
    async with playing(make_task) as game:
        yield game
