"""``--metrics`` with ``--workers``: one endpoint for all of them, whoever of them dies or is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import PATIENCE, AionetServer, aionet, connect_raw, receive_to_end
from helpers import until
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.slow

APP = """\
import os
from aionet.workers.settings import in_worker

async def obey(socket):
    async for order in socket:
        if order == b"crash":
            raise LookupError("a bug of the user's")
        await socket.write(str(os.getpid()).encode())

if in_worker():
    print("a worker was started", flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP.partition("if in_worker")[0])
    return tmp_path


def serving(directory: Path, *more: object) -> AionetServer:
    words = ("serve", "app:obey", "--bind", "127.0.0.1:0", "--workers", 2, "--log-level", "critical")
    return AionetServer(*words, "--metrics", ":0", *more, cwd=directory)


class Scrape(dict[str, float]):
    """The samples of one scrape, by name and label, less the common beginning of their names."""

    def __init__(self, address: str) -> None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
        for family in families:
            for sample in family.samples:
                name = " ".join([sample.name.removeprefix("aionet_"), *sample.labels.values()])
                self[name] = sample.value
        self.counters = {
            " ".join([sample.name.removeprefix("aionet_"), *sample.labels.values()])
            for family in families
            for sample in family.samples
            if family.type in ("counter", "histogram")
        }

    def sum_of(self, name: str) -> float:
        """The sum of all series of `name`."""
        return sum(value for series, value in self.items() if series.partition(" ")[0] == name)


def scraped(address: str, condition: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape that fulfils `condition`: workers tell once a second."""
    found: list[Scrape] = []

    def look() -> bool:
        found.append(Scrape(address))
        return condition(found[-1])

    asyncio.run(until(look, PATIENCE))
    return found[-1]


def told(sock: socket.socket, order: bytes = b"who") -> int:
    sock.sendall(order)
    return int(sock.recv(100))


def end(server: AionetServer) -> None:
    server.signal()
    assert server.ended()[0] == 0


def test_sums_of_all_workers_which_outlive_them(directory: Path) -> None:
    with serving(directory) as server, contextlib.ExitStack() as stack:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", server.metrics)
        clients = [stack.enter_context(connect_raw(server.address)) for _ in range(24)]
        pids = [told(client) for client in clients]
        assert len(set(pids)) == 2
        clients[0].sendall(b"crash")
        with pytest.raises(ConnectionResetError):
            receive_to_end(clients[0])
        written = sum(len(str(pid)) for pid in pids)
        before = scraped(
            server.metrics,
            lambda found: (found["bytes_written_total"], found["handler_errors_total"]) == (written, 1),
        )
        assert (before["connections_accepted_total"], before["connections_active"]) == (24, 23)
        assert before["connections_ended_total failed"] == 1
        assert before["bytes_read_total"] == 24 * len("who") + len("crash")
        assert before.sum_of("worker_connections_active") == 23
        assert before[f"accept_queue_depth {server.address}"] == 0
        assert (before["workers"], before["workers_configured"], before["worker_restarts_total"]) == (2, 2, 0)

        os.kill(pids[1], signal.SIGKILL)
        lost = pids[1:].count(pids[1])
        after = scraped(server.metrics, lambda found: found["worker_restarts_total"] == 1)
        assert {name for name in before.counters if after[name] < before[name]} == set()
        assert after["connections_accepted_total"] == 24
        assert after["connections_ended_total worker_died"] == lost
        assert after["connections_active"] == 23 - lost
        assert after["workers"] == 2
        assert {"worker_silence_seconds 0", "worker_silence_seconds 1"} <= after.keys()

        clients += [stack.enter_context(connect_raw(server.address)) for _ in range(24)]
        assert pids[1] not in {told(client) for client in clients[24:]}
        last = scraped(server.metrics, lambda found: found["connections_accepted_total"] == 48)
        assert last["connections_active"] == last.sum_of("worker_connections_active") == 47 - lost
        for client in clients:
            client.close()
        end(server)


def test_a_reload_keeps_the_endpoint_and_what_was_counted(directory: Path) -> None:
    """Also where the configuration has no endpoint any more: that takes a restart."""
    file = directory / "app.toml"
    file.write_text('[serve]\nmetrics = "127.0.0.1:0"\nworkers = 2\nlog_level = "info"\n')
    words = ("serve", "app:obey", "--config", file, "--bind", "127.0.0.1:0")
    with AionetServer(*words, cwd=directory) as server, connect_raw(server.address) as old:
        told(old)
        scraped(server.metrics, lambda found: found["connections_active"] == 1)
        file.write_text("[serve]\nworkers = 2\n")
        server.signal(signal.SIGHUP)
        server.expect("reloaded: 2 new workers")
        with connect_raw(server.address) as new:
            told(new)
            found = scraped(server.metrics, lambda found: found["bytes_read_total"] == 2 * len("who"))
            assert (found["connections_accepted_total"], found["connections_active"]) == (2, 2)
            assert (found["workers"], found["worker_restarts_total"]) == (2, 0)
        old.close()
        found = scraped(server.metrics, lambda found: found["connections_active"] == 0)
        assert found["connections_ended_total peer_ended"] == 2
        end(server)


def test_an_address_that_is_taken_is_told_before_any_worker_is_started(directory: Path) -> None:
    (directory / "app.py").write_text(APP)
    with AionetServer("echo", "--bind", "127.0.0.1:0") as taken:
        done = aionet(
            *("serve", "app:obey", "--bind", "127.0.0.1:0", "--workers", 2, "--metrics", taken.address),
            cwd=directory,
        )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"aionet: cannot listen on {taken.address}: Address already in use\n"


def test_check_shows_both(directory: Path) -> None:
    done = aionet("serve", "app:obey", "--workers", 2, "--metrics", ":9100", "--check", cwd=directory)
    assert done.returncode == 0
    assert 'metrics = ":9100"  # --metrics' in done.stdout.decode()
    assert "workers = 2  # --workers" in done.stdout.decode()
