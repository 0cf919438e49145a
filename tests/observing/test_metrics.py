"""What Prometheus is told is what happened."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import aionet
from aionet import traffic
from aionet.observing import LoopLag
from aionet.observing.accept_queue import listen_failures
from aionet.observing.metrics import SpawnerCollector, exposition
from aionet.observing.metrics_endpoint import serve_metrics
from aionet.observing.worker_figures import measured

from .conftest import Stage


class Samples(dict[str, float]):
    """Every sample of an exposition under its name and labels, as Prometheus writes them."""

    def __init__(self, text: str) -> None:
        for family in text_string_to_metric_families(text):
            assert family.name.startswith("aionet_")
            assert family.documentation
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
                name = sample.name.removeprefix("aionet_") + (f"{{{labels}}}" if labels else "")
                assert name not in self
                self[name] = sample.value

    def of(self, name: str) -> dict[str, float]:
        """Those of `name` that are not zero, by the value of their label."""
        return {
            key.partition('"')[2].partition('"')[0]: value
            for key, value in self.items()
            if key.startswith(f"{name}{{") and value
        }


def scraped(address: aionet.SocketAddress) -> Samples:
    """Scrape as a program would that knows nothing but sockets."""
    with socket.create_connection((str(address.host), address.port), timeout=10) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n")
        reply = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert f"Content-Length: {len(body)}" in fields
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in fields
    return Samples(body.decode())


async def obey(sock: Any) -> None:
    while order := await sock.read():
        if order == b"crash":
            raise ZeroDivisionError
        await sock.write(order * 2)


@contextlib.asynccontextmanager
async def observed(spawner: Any) -> AsyncIterator[Any]:
    """A function that scrapes the metrics of `spawner`."""
    async with serve_metrics(0, SpawnerCollector(spawner)) as endpoint:

        async def scrape() -> Samples:
            return await asyncio.to_thread(scraped, endpoint.address)

        yield scrape


@pytest.mark.asyncio
async def test_the_counters_are_what_happened(stage: Stage) -> None:
    limits = aionet.ConnectionLimits(max_per_peer=3)
    spawner = aionet.ConnectionSpawner(obey, limits=limits)
    server = stage.tcp_server()
    async with observed(spawner) as scrape:
        await stage.serve(spawner, server)
        before = await scrape()
        assert {name for name, value in before.items() if name.startswith("conn") and value} == set()
        causes = {cause.name.lower() for cause in aionet.CloseCause}
        assert {name.partition('"')[2][:-2] for name in before if "cause=" in name} == causes

        clients = [stage.client(server) for _ in range(3)]
        for client in clients:
            client.send_now(b"12345")
            assert await client.receive_exactly(10) == b"1234512345"
        stage.client(server)
        await until(lambda: spawner.stats.rejected)
        living = await scrape()
        assert living["connections_accepted_total"] == 4
        assert living["connections_active"] == 3
        assert living.of("connections_ended_total") == {}
        assert living.of("connections_rejected_total") == {"too_many_of_peer": 1}
        assert (living["bytes_read_total"], living["bytes_written_total"]) == (15, 30)

        clients[0].send_now(b"crash")
        clients[1].half_close()
        clients[2].send_now(b"1")
        await until(lambda: len(spawner.connections) == 1)
        assert await clients[2].receive_exactly(2) == b"11"
        after = await scrape()
        assert after["connections_accepted_total"] == 4
        assert after["connections_active"] == 1
        assert after.of("connections_ended_total") == {"failed": 1, "peer_ended": 1}
        assert after["handler_errors_total"] == 1
        assert (after["bytes_read_total"], after["bytes_written_total"]) == (21, 32)

        await spawner.drain(0.0)
        last = await scrape()
        assert last["connections_active"] == 0
        assert (last["bytes_read_total"], last["bytes_written_total"]) == (21, 32)
        assert last.of("connections_ended_total")["drained"] == 1


@pytest.mark.asyncio
async def test_words_of_regret_are_counted_too(stage: Stage) -> None:
    async def regret(sock: Any) -> None:
        await sock.write(b"sorry")

    limits = aionet.ConnectionLimits(max_connections=1, on_full=regret)
    spawner = aionet.ConnectionSpawner(obey, limits=limits)
    server = stage.tcp_server()
    async with observed(spawner) as scrape:
        await stage.serve(spawner, server)
        stage.client(server)
        await until(lambda: spawner.connections)
        assert await stage.client(server).receive_to_end() == b"sorry"
        await until(lambda: spawner.stats.rejected)
        samples = await scrape()
        assert samples.of("connections_rejected_total") == {"full": 1}
        assert samples["bytes_written_total"] == 5


@pytest.mark.asyncio
async def test_bytes_are_not_counted_for_nobody(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(obey)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    client = stage.client(server)
    client.send_now(b"x")
    assert await client.receive_exactly(2) == b"xx"
    assert (spawner.stats.bytes_read, spawner.stats.bytes_written) == (None, None)
    spawner.count_traffic()
    assert (spawner.stats.bytes_read, spawner.stats.bytes_written) == (1, 2)


@pytest.mark.asyncio
@pytest.mark.parametrize("asks", ["endpoint", "worker"])
async def test_many_connections_are_added_up_in_slices(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    """The loop has its turns meanwhile, and a connection that ends then is counted once."""
    monkeypatch.setattr(traffic, "_SLICE", 2)
    spawner = aionet.ConnectionSpawner(obey)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    clients = [stage.client(server) for _ in range(40)]
    with measured(spawner) as measure:
        collector = SpawnerCollector(spawner)
        for client in clients:
            client.send_now(b"12345")
            assert await client.receive_exactly(10) == b"1234512345"

        async def read() -> float:
            if asks == "worker":
                return (await measure())[0]["bytes_read"]
            await collector.refresh()
            return Samples(exposition(collector).decode())["bytes_read_total"]

        async def end_one_after_the_other() -> int:
            turns = 0
            while not reading.done():
                turns += 1
                if spawner.connections:
                    spawner.connections[0].socket.abort()
                await asyncio.sleep(0)
            return turns

        reading = asyncio.create_task(read())
        assert await end_one_after_the_other() >= 20
        assert await reading == spawner.stats.bytes_read == 200


# The kernel's queue -------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_accept_queue(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(obey)
    busy, idle = aionet.AsyncTcpConnectionServer("127.0.0.1:0", backlog=7), stage.unix_server()
    async with observed(spawner) as scrape:
        await stage.serve(spawner, busy, idle)
        busy.pause()
        for _ in range(3):
            stage.client(busy)
        stage.client(idle)
        samples = await scrape()
        assert samples.of("accept_queue_depth") == {str(busy.address): 3}
        assert samples.of("accept_queue_backlog") == {str(busy.address): 7}
        busy.resume()
        await until(lambda: len(spawner.connections) == 4)
        assert (await scrape()).of("accept_queue_depth") == {}
        await spawner.drain(0.0)
        assert (await scrape()).of("accept_queue_backlog") == {}


@pytest.mark.asyncio
async def test_each_listening_socket_has_a_queue(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(obey)
    server = aionet.AsyncTcpConnectionServer(0)
    async with observed(spawner) as scrape:
        await stage.serve(spawner, server)
        assert set((await scrape()).of("accept_queue_backlog")) == set(map(str, server.addresses))


@pytest.mark.asyncio
async def test_overflows_of_the_queue(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(obey)
    server = aionet.AsyncTcpConnectionServer("127.0.0.1:0", backlog=1)
    with contextlib.ExitStack() as clients:
        async with observed(spawner) as scrape:
            await stage.serve(spawner, server)
            server.pause()
            before = await scrape()
            for _ in range(6):
                client = clients.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", server.address.port))
            await until(lambda: listen_failures() > (before["listen_overflows_total"], 0))
            after = await scrape()
            assert after["listen_overflows_total"] > before["listen_overflows_total"]
            assert after["listen_drops_total"] > before["listen_drops_total"]


def test_a_system_that_does_not_tell_of_overflows(tmp_path: Path) -> None:
    assert listen_failures(tmp_path / "missing") is None
    other = tmp_path / "netstat"
    for text in ("", "\n", "IpExt: A\nIpExt: 1\n", "TcpExt: A ListenDrops\nTcpExt: 1 2\n"):
        other.write_text(text)
        assert listen_failures(other) is None
    other.write_text("TcpExt: ListenOverflows A ListenDrops\nTcpExt: 3 4 5\n")
    assert listen_failures(other) == (3, 5)


# The loop -----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_loop_that_is_blocked_is_late() -> None:
    with LoopLag(0.001) as lag:
        await until(lambda: lag.cumulated[-1] >= 3)
        before = lag.cumulated
        time.sleep(0.06)  # the fault itself: something that blocks the loop
        await until(lambda: lag.cumulated[-1] > before[-1])
        late = [after - count for after, count in zip(lag.cumulated, before, strict=True)]
        samples = Samples(exposition(SpawnerCollector(aionet.ConnectionSpawner(obey), loop_lag=lag)).decode())
    assert late[lag.bounds.index(0.05)] < late[-1]
    assert lag.sum >= 0.05
    assert samples["loop_lag_seconds_count"] == samples['loop_lag_seconds_bucket{le="+Inf"}']
    assert samples["loop_lag_seconds_sum"] >= 0.05
    buckets = [value for name, value in samples.items() if name.startswith("loop_lag_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert len(buckets) == len(lag.bounds) + 1
    assert samples["loop_lag_last_seconds"] >= 0


@pytest.mark.parametrize("period", [0, -1, float("nan")])
def test_a_period_that_is_none_is_refused(period: float) -> None:
    with pytest.raises(ValueError, match="period"):
        LoopLag(period)


# The library --------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_it_can_be_registered_beside_others() -> None:
    registry = CollectorRegistry()
    registry.register(SpawnerCollector(aionet.ConnectionSpawner(obey)))
    async with serve_metrics(0, registry) as endpoint:
        samples = await asyncio.to_thread(scraped, endpoint.address)
    assert samples["connections_accepted_total"] == 0


@pytest.mark.parametrize("module", ["metrics", "metrics_endpoint"])
def test_without_the_library_it_says_what_to_install(module: str) -> None:
    hide = "import sys; sys.modules['prometheus_client'] = None"
    program = f"{hide}; import aionet.observing; import aionet.observing.{module}"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    message = "ImportError: metrics need prometheus-client; try: pip install 'aionet-toolkit[metrics]'"
    assert done.stderr.splitlines()[-1] == message
