"""What a worker tells of itself is what its own endpoint would have shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import until

import aionet
from aionet.observing.worker_figures import LAST_LAG, lag_from, measured, stats_from
from aionet.workers.counters import Counters

from .conftest import Stage


async def obey(sock: Any) -> None:
    if await sock.read() == b"crash":
        raise ZeroDivisionError
    await sock.write(b"well done")


@pytest.mark.asyncio
async def test_stats_survive_the_way_to_the_supervisor(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(obey, limits=aionet.ConnectionLimits(max_per_peer=3))
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    with measured(spawner) as measure:
        clients = [stage.client(server) for _ in range(3)]
        stage.client(server)
        await until(lambda: spawner.stats.rejected)
        clients[0].send_now(b"crash")
        clients[1].send_now(b"obey")
        await until(lambda: spawner.stats.active == 1)
        counts, gauges = json.loads(json.dumps(await measure()))
    assert stats_from(counts) == spawner.stats
    assert stats_from(counts).causes == spawner.stats.causes
    assert (stats_from(counts).bytes_read, stats_from(counts).bytes_written) == (9, 9)
    assert gauges == {LAST_LAG: 0.0}


def test_the_lag_of_several_loops_is_one_histogram() -> None:
    counters = Counters()
    counters.tell(
        1, {"loop_lag_0.001": 2, "loop_lag_0.0025": 3, "loop_lag_count": 4, "loop_lag_sum": 0.5}, {}
    )
    counters.tell(
        2, {"loop_lag_0.001": 1, "loop_lag_0.0025": 1, "loop_lag_count": 1, "loop_lag_sum": 0.25}, {}
    )
    cumulated, total = lag_from(counters.total())
    assert (cumulated[:2], cumulated[-1], total) == ([3, 4], 5, 0.75)


def test_a_worker_that_has_not_told_has_counted_nothing() -> None:
    assert stats_from({}).accepted == 0
    assert lag_from({})[1] == 0
