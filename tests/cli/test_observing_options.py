"""``--access-log``, ``--access-log-file``, ``--metrics``, and the id in the log of a command that serves."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from command_line import PATIENCE, AionetServer, aionet, connect_raw, environment, receive_to_end
from helpers import until
from prometheus_client.parser import text_string_to_metric_families

LOCAL = "127.0.0.1:0"

APP = """\
import logging


async def handler(socket):
    order = await socket.read()
    logging.getLogger("app").info("told %s", order)
    if order == b"crash":
        raise LookupError("a bug of the user's")
    await socket.write(b"bye")
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def serving(directory: Path, *arguments: object) -> AionetServer:
    return AionetServer("serve", "app:handler", "--bind", LOCAL, *arguments, cwd=directory)


def talk(server: AionetServer, order: bytes = b"hello") -> bytes:
    with connect_raw(server.address) as sock:
        sock.sendall(order)
        return receive_to_end(sock)


def test_the_access_log_as_text_and_the_id_that_it_shares_with_the_log(directory: Path) -> None:
    with serving(directory, "--access-log", "text", "--log-level", "info") as server:
        assert talk(server) == b"bye"
        with pytest.raises(ConnectionResetError):
            talk(server, b"crash")
        server.signal()
        _, _, errors = server.ended()
    line = r"^[-0-9]+ [:,0-9]+ connection_id=(\S+) peer=127.*? cause=(\w+) "
    accesses = re.findall(line, errors, re.MULTILINE)
    assert [cause for _, cause in accesses] == ["completed", "failed"]
    told = re.findall(r"^[-0-9]+ [:,0-9]+ \[(.+)\] INFO app: told ", errors, re.MULTILINE)
    crashed = re.findall(r"^[-0-9]+ [:,0-9]+ \[(.+)\] ERROR aionet.server: ", errors, re.MULTILINE)
    assert told == [id for id, _ in accesses]
    assert crashed == told[1:]


def test_the_access_log_as_json_is_not_subject_to_the_log_level(directory: Path) -> None:
    with serving(directory, "--access-log", "json", "--log-level", "critical") as server:
        assert talk(server) == b"bye"
        server.signal()
        _, _, errors = server.ended()
    (line,) = map(json.loads, errors.splitlines())
    assert (line["cause"], line["bytes_read"], line["bytes_written"]) == ("completed", 5, 3)


@pytest.mark.parametrize("arguments", [(), ("--access-log", "off", "--access-log-file", "log")])
def test_without_it_there_is_none(directory: Path, arguments: tuple[str, ...]) -> None:
    with serving(directory, *arguments, "--log-level", "warning") as server:
        assert talk(server) == b"bye"
        server.signal()
        assert server.ended()[2] == ""
    assert not (directory / "log").exists()


def test_a_file_of_its_own_that_may_be_moved_away(directory: Path) -> None:
    log = directory / "access.log"
    with serving(directory, "--access-log-file", log, "--log-level", "warning") as server:
        assert talk(server) == b"bye"
        asyncio.run(until(log.read_text))  # the line comes after the connection's end
        log.rename(directory / "access.log.1")
        assert talk(server) == b"bye"
        server.signal()
        assert server.ended()[2] == ""
    for name in ("access.log", "access.log.1"):
        (line,) = (directory / name).read_text().splitlines()
        assert " cause=completed by=handler " in line


def test_a_file_that_cannot_be_written(directory: Path) -> None:
    done = aionet("echo", "--bind", LOCAL, "--access-log-file", directory / "missing" / "log")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"aionet: cannot write the access log to {directory}/missing/log: No such file or directory\n"
    )


def scraped(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as reply:
        text = reply.read().decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "cause" not in sample.labels
    }


def test_metrics(directory: Path) -> None:
    with serving(directory, "--metrics", ":0", "--log-level", "critical") as server:
        assert talk(server) == b"bye"
        with pytest.raises(ConnectionResetError):
            talk(server, b"crash")
        assert server.metrics.startswith("127.0.0.1:")
        asyncio.run(until(lambda: scraped(server.metrics)["aionet_connections_active"] == 0))
        samples = scraped(server.metrics)
        server.signal()
        assert server.ended()[0] == 0
    assert samples["aionet_connections_accepted_total"] == 2
    assert samples["aionet_handler_errors_total"] == 1
    assert (samples["aionet_bytes_read_total"], samples["aionet_bytes_written_total"]) == (10, 3)
    assert samples["aionet_accept_queue_depth"] == 0
    assert "aionet_loop_lag_seconds_count" in samples


def test_people_are_told_where_the_metrics_are() -> None:
    with AionetServer("echo", "--bind", LOCAL, "--metrics", LOCAL, as_json=False) as server:
        assert re.fullmatch(r"127\.0\.0\.1:\d+; metrics at 127\.0\.0\.1:\d+", server.addresses[0])
        server.signal()
        assert server.ended()[0] == 0


def test_metrics_at_an_address_that_is_taken() -> None:
    with AionetServer("echo", "--bind", LOCAL) as server:
        done = aionet("echo", "--bind", LOCAL, "--metrics", server.address)
    assert done.returncode == 1
    assert done.stderr.decode() == (f"aionet: cannot listen on {server.address}: Address already in use\n")


def test_metrics_without_the_library() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None;"
        "from aionet.cli.main import main; sys.exit(main(['echo', '--metrics', ':0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, env=environment()
    )
    assert done.returncode == 2
    assert (
        "metrics need prometheus-client; try: pip install 'aionet-toolkit[metrics]'" in done.stderr.decode()
    )
