"""Who counts as hanging."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers import until

from aionet.workers.hanging import end_those_that_hang

TIMEOUT = 0.2


class FakeWorker:
    """A worker as far as it is looked at."""

    number, pid = 0, 1
    is_talking = True

    def __init__(self) -> None:
        self.heard = time.monotonic()
        self.aborted: float | None = None

    def abort(self) -> None:
        self.aborted, self.is_talking = time.monotonic(), False


@contextlib.asynccontextmanager
async def looking_at(*workers: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(end_those_that_hang(lambda: workers, TIMEOUT))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.asyncio
async def test_who_is_silent_for_too_long_is_ended_once() -> None:
    silent, not_ready = FakeWorker(), FakeWorker()
    not_ready.is_talking = False
    async with looking_at(silent, not_ready):
        await until(lambda: silent.aborted)
    assert silent.aborted is not None
    assert silent.aborted > silent.heard + TIMEOUT
    assert not_ready.aborted is None


@pytest.mark.asyncio
async def test_silence_counts_for_nothing_while_nobody_could_hear() -> None:
    """The supervisor was stopped for a while: its workers have what is left of the timeout all the same."""
    worker = FakeWorker()
    async with looking_at(worker):
        await asyncio.sleep(0)
        time.sleep(2 * TIMEOUT)  # the fault itself: this process does not run
        stopped_until = time.monotonic()
        await until(lambda: worker.aborted)
    assert worker.aborted is not None
    assert worker.aborted > stopped_until + TIMEOUT
