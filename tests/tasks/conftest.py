"""Tasks of both kinds, and the stage that they play on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from conftest import LOOP_FACTORIES

from .stage import KINDS, PASTS, WAITS, Kind, Line, Stage, Wait, connected


@pytest.fixture(params=KINDS)
def make_task(request: pytest.FixtureRequest) -> Kind:
    """`make_task(coroutine, **arguments)`: a task of one kind or the other."""
    return KINDS[request.param]


@pytest_asyncio.fixture
async def line() -> AsyncIterator[Line]:
    async with connected() as made:
        yield made


@pytest_asyncio.fixture
async def lines() -> AsyncIterator[list[Line]]:
    """Three more."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected()) for _ in range(3)]


OFTEN = ("read",)  # what a developer's run takes of `PASTS`; CI takes all


@pytest.fixture(
    params=[pytest.param(past, marks=[] if past in OFTEN else [pytest.mark.slow]) for past in PASTS]
)
def stage(request: pytest.FixtureRequest, make_task: Kind, line: Line) -> Stage:
    return Stage(make_task, line, PASTS[request.param])


@pytest.fixture(params=WAITS)
def wait(request: pytest.FixtureRequest, stage: Stage) -> Wait:
    return WAITS[request.param](stage)


@pytest.fixture(params=LOOP_FACTORIES)
def new_loop(request: pytest.FixtureRequest, make_task: Kind) -> Callable[[], asyncio.AbstractEventLoop]:
    """For tests that are about the end of a loop: makes one all of whose tasks are of the kind."""

    def make() -> asyncio.AbstractEventLoop:
        loop = LOOP_FACTORIES[request.param]()
        make_task.make_all(loop)
        return loop

    return make
