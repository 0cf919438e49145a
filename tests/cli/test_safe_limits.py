"""What a command that serves bounds by itself, and what works while clients hold every descriptor."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import PATIENCE, AionetServer, command, connect_raw, environment, receive_to_end
from helpers import until
from processes import Process, children_of

from aionet.cli.main import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LOCAL = ("--bind", "127.0.0.1:0")
SOFT, HARD = 64, 96
USABLE = 72  # of HARD, less a quarter

APP = """\
async def echo(socket):
    async for chunk in socket:
        await socket.write(chunk)
"""

LIMIT = """\
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({}, {}))
os.execv(sys.argv[1], sys.argv[1:])
"""


def with_descriptors(soft: int, hard: int) -> list[str]:
    """The beginning of a command that runs with these limits."""
    return [sys.executable, "-c", LIMIT.format(soft, hard)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def soft_limit(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line)
    return int(line.split()[3])


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextmanager
def silent_clients(address: str, count: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            with suppress(ConnectionResetError):  # it may be turned away
                stack.enter_context(connect_raw(address))
        yield


# What is bounded ----------------------------------------------------------------------------------------


def test_the_defaults_and_how_to_give_them_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked(*words: object) -> dict[str, tuple[Any, str]]:
        assert main(["echo", "--check", "--json", *map(str, words)]) == 0
        found = json.loads(capsys.readouterr().out)
        return {name: (option["value"], option["source"]) for name, option in found.items()}

    found = checked()
    assert found["idle_timeout"] == (7440, "default")
    assert found["write_stall_timeout"] == (300, "default")
    assert found["on_full"] == ("evict_idle", "default")
    most, source = found["max_connections"]
    assert (source, most > 0) == ("default", True)

    assert checked("--max-connections", 5)["on_full"] == ("pause", "default")

    found = checked("--no-limits", "--write-stall-timeout", 5)
    assert found["no_limits"] == (True, "--no-limits")
    assert found["max_connections"] == found["idle_timeout"] == (None, "default")
    assert found["on_full"] == ("pause", "default")
    assert found["write_stall_timeout"] == (5, "--write-stall-timeout")

    (tmp_path / "app.toml").write_text('[serve]\nidle_timeout = "off"\nmax_connections = "off"\n')
    monkeypatch.chdir(tmp_path)
    assert main(["echo", "--config", "app.toml", "--check"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)["serve"]
    assert printed["idle_timeout"] == printed["max_connections"] == "off"  # so it can be given again
    monkeypatch.setenv("AIONET_WRITE_STALL_TIMEOUT", "off")
    found = checked("--config", "app.toml")
    assert found["idle_timeout"] == ("off", "app.toml")
    assert found["write_stall_timeout"] == ("off", "AIONET_WRITE_STALL_TIMEOUT")


def test_connections_are_a_share_of_the_descriptors(directory: Path) -> None:
    def printed(*words: object) -> Any:
        limited = [*with_descriptors(10, 1000), *command(*words)]
        done = subprocess.run(
            limited, cwd=directory, env=environment(), capture_output=True, timeout=PATIENCE, check=True
        )
        return json.loads(done.stdout)

    def most(*words: object) -> object:
        return printed(*words, "--check", "--json")["max_connections"]["value"]

    usable = 1000 - 64
    assert most("serve", "app:echo") == (usable - 68) // 2  # the other half is for what the handler opens
    assert most("serve", "app:echo", "--workers", 4) == (usable - 80) // 2
    assert printed("info", "--json")["limits"]["open_files"] == {
        "soft": 10,
        "hard": 1000,
        "serving": usable,
        "reserved": 64,
    }


@pytest.mark.parametrize("name", ["echo", pytest.param("relay", marks=pytest.mark.slow)])
def test_silent_clients_do_not_shut_others_out(name: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(AionetServer("echo", *LOCAL, prefix=with_descriptors(SOFT, HARD)))
        if name == "relay":
            target = stack.enter_context(AionetServer("echo", *LOCAL))
            relay = ("relay", "127.0.0.1:0", target.address)
            server = stack.enter_context(AionetServer(*relay, prefix=with_descriptors(SOFT, HARD)))
        stack.enter_context(silent_clients(server.address, 2 * HARD))
        for _ in range(3):
            with connect_raw(server.address) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
        assert soft_limit(server.process.pid) == USABLE


@pytest.mark.slow
def test_each_worker_has_its_descriptors(directory: Path) -> None:
    serve = ("serve", "app:echo", *LOCAL, "--workers", 2)
    with AionetServer(*serve, cwd=directory, prefix=with_descriptors(SOFT, HARD)) as server:
        assert [soft_limit(pid) for pid in children_of(server.process.pid)] == [USABLE, USABLE]
        with silent_clients(server.address, 4 * HARD), connect_raw(server.address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"


# Service connections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_full", ["pause", pytest.param("reset", marks=pytest.mark.slow), "evict_idle"])
def test_the_operator_is_served_while_clients_hold_all_descriptors(directory: Path, on_full: str) -> None:
    pytest.importorskip("prometheus_client")
    serve = ("serve", "app:echo", *LOCAL, "--no-limits", "--on-full", on_full)
    service = ("--metrics", "127.0.0.1:0", "--control", "control")
    limited = with_descriptors(SOFT, HARD)
    with (
        AionetServer(*serve, *service, cwd=directory, prefix=limited, stderr=subprocess.DEVNULL) as server,
        silent_clients(server.address, 2 * HARD),
    ):
        asyncio.run(until(lambda: descriptors(server.process.pid) >= USABLE))
        for _ in range(5):
            with connect_raw(server.metrics) as scraper:
                scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                reply = receive_to_end(scraper)
            assert reply.startswith(b"HTTP/1.1 200 ")
            assert b"aionet_listen_overflows_total" in reply
        with connect_raw(f"unix:{directory / 'control'}") as operator:
            operator.sendall(b'{"want": "status"}\n')
            assert json.loads(receive_to_end(operator))["pid"] == server.process.pid
        if on_full != "pause":  # the others would take as long as this one
            return
        server.signal(signal.SIGUSR2)
        while (event := server.next_event())["event"] != "listening":
            pass
        with Process(event["pid"]):
            pass
