"""``aionet serve --workers``: replaced when they end, renewed at SIGHUP, drained at SIGTERM."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    PATIENCE,
    AionetServer,
    aionet,
    command,
    connect_raw,
    environment,
    receive_exactly,
    receive_to_end,
    starting,
)

APP = """\
import asyncio, os, time
VERSION = 1

async def version(socket):
    await socket.write(f"{VERSION} {os.getpid()}".encode())

async def upper(socket):
    async for chunk in socket:
        await socket.write(chunk.upper())

async def deadly(socket):
    os._exit(7)

async def stuck_once_told(socket):
    async for order in socket:
        if order == b"hang":
            time.sleep(1000)
        await socket.write(str(os.getpid()).encode())

async def stuck(socket):
    await socket.write(b"x")
    time.sleep(1000)
"""

SLOW_IN_WORKERS = """\
import time
from aionet.workers.settings import in_worker

async def version(socket):
    pass

if in_worker():
    print("importing", flush=True)
    time.sleep(1000)
"""

WAITING_IN_WORKERS = """\
import os, time
from aionet.workers.settings import in_worker

async def version(socket):
    pass

if in_worker():
    print("importing", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def serving(directory: Path, handler: str, *more: object, workers: int = 2) -> AionetServer:
    arguments = ("serve", f"app:{handler}", "--bind", "127.0.0.1:0", "--workers", workers)
    return AionetServer(*arguments, "--control", directory / "control", *more, cwd=directory)


def status(directory: Path) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(directory / "control"))
        sock.sendall(b'{"want": "status"}\n')
        found: dict[str, Any] = json.loads(receive_to_end(sock))
        return found


def pids(directory: Path) -> list[int]:
    return [worker["pid"] for worker in status(directory)["workers"]]


def versions(server: AionetServer, connections: int = 20) -> set[str]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect_raw(server.address)) for _ in range(connections)]
        return {receive_to_end(sock).decode().split()[0] for sock in socks}


def end(server: AionetServer) -> str:
    server.signal()
    code, output, errors = server.ended()
    assert code == 0, errors
    assert [json.loads(line)["event"] for line in output.splitlines()] == ["draining", "drained"]
    return errors


def test_the_counters_of_all_workers(directory: Path) -> None:
    with serving(directory, "version") as server:
        versions(server, 30)
        deadline = time.monotonic() + PATIENCE
        while (found := status(directory))["counters"].get("completed") != 30:
            assert time.monotonic() < deadline, found
        assert sum(worker["counters"].get("accepted", 0) for worker in found["workers"]) == 30
        assert (found["restarts"], found["pid"]) == (0, server.process.pid)
        assert end(server) == ""


def test_a_worker_that_is_killed_is_replaced(directory: Path) -> None:
    with serving(directory, "version") as server:
        first, second = pids(directory)
        os.kill(first, signal.SIGKILL)
        server.expect(f"worker 0 (process {first}) was killed by signal 9")
        server.expect(f"takes the place of {first}")
        after = pids(directory)
        assert after[1] == second
        assert first not in after
        assert versions(server) == {"1"}
        end(server)


def answered(server: AionetServer, connections: int = 40) -> list[str]:
    """What so many connections that are open at once are answered."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect_raw(server.address)) for _ in range(connections)]
        return [receive_to_end(sock).decode() for sock in socks]


@pytest.mark.parametrize("workers", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_the_queue_of_a_dead_worker_is_taken_over_by_a_living_one(directory: Path, workers: int) -> None:
    """However often its replacement fails; and it is given back when one succeeds."""
    with serving(directory, "version", workers=workers) as server:
        *dead, living = pids(directory)
        (directory / "app.py").write_text("1 / 0\n")
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        for _ in dead:
            server.expect("was killed by signal 9")
        assert answered(server) == [f"1 {living}"] * 40
        for _ in range(9 if workers > 2 else 1):  # one more than ends a service without workers
            server.expect("ended before it was ready")
        assert answered(server) == [f"1 {living}"] * 40
        (directory / "app.py").write_text(APP.replace("VERSION = 1", "VERSION = 2"))
        for _ in dead:
            server.expect("takes the place of")
        deadline = time.monotonic() + PATIENCE
        while {answer[0] for answer in answered(server)} != {"1", "2"}:  # until the substitute has left
            assert time.monotonic() < deadline
        end(server)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_drains_by_itself_is_replaced_at_once(directory: Path, workers: int) -> None:
    """Its connections finish meanwhile, and new ones are served by others."""
    with serving(directory, "upper", workers=workers) as server, connect_raw(server.address) as sock:
        sock.sendall(b"a")
        assert receive_exactly(sock, 1) == b"A"
        for pid in pids(directory):
            os.kill(pid, signal.SIGTERM)
        for _ in range(workers):
            server.expect("takes the place of")
        for _ in range(20):
            with connect_raw(server.address) as other:
                other.sendall(b"b")
                assert receive_exactly(other, 1) == b"B"
        sock.sendall(b"c")
        assert receive_exactly(sock, 1) == b"C"
        sock.close()
        end(server)


def test_a_handler_that_ends_its_process_does_not_end_the_service(directory: Path) -> None:
    with serving(directory, "deadly", workers=1) as server:
        for _ in range(3):
            with connect_raw(server.address) as sock, contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
            server.expect("ended with status 7")
            server.expect("takes the place of")
        end(server)


def test_a_single_worker_drains_at_its_own_sigterm(directory: Path) -> None:
    with serving(directory, "upper", workers=1) as server, connect_raw(server.address) as sock:
        sock.sendall(b"a")
        assert receive_exactly(sock, 1) == b"A"
        (pid,) = pids(directory)
        os.kill(pid, signal.SIGTERM)
        sock.sendall(b"b")
        assert receive_exactly(sock, 1) == b"B"
        sock.close()
        server.expect(f"takes the place of {pid}")
        end(server)


def test_sighup_renews_the_workers_and_lets_the_old_ones_finish(directory: Path) -> None:
    with serving(directory, "upper") as server, connect_raw(server.address) as sock:
        sock.sendall(b"a")
        assert receive_exactly(sock, 1) == b"A"
        before = pids(directory)
        (directory / "app.py").write_text(APP.replace("chunk.upper()", "chunk * 2"))
        server.signal(signal.SIGHUP)
        server.expect("reloaded: 2 new workers")
        assert not set(before) & set(pids(directory))
        with connect_raw(server.address) as other:
            other.sendall(b"b")
            assert receive_exactly(other, 2) == b"bb"
        sock.sendall(b"c")
        assert receive_exactly(sock, 1) == b"C"
        sock.close()
        end(server)


def test_sighup_reads_the_configuration_again(directory: Path) -> None:
    file = directory / "app.toml"
    file.write_text('[serve]\nhandler = "app:version"\n')
    arguments = ("serve", "--config", file, "--bind", "127.0.0.1:0", "--workers", 1)
    with AionetServer(*arguments, cwd=directory) as server:
        assert versions(server) == {"1"}
        file.write_text('[serve]\nhandler = "app:upper"\nno_such_key = 1\n')
        server.signal(signal.SIGHUP)
        server.expect("no_such_key")
        server.expect("not reloaded, going on as before: the configuration has mistakes")
        assert versions(server) == {"1"}
        file.write_text('[serve]\nhandler = "app:upper"\naccess_log = "text"\n')
        server.signal(signal.SIGHUP)
        server.expect("reloaded: 1 new workers")
        with connect_raw(server.address) as sock:
            sock.sendall(b"b")
            assert receive_exactly(sock, 1) == b"B"
        server.expect("127.0.0.1:")  # the new worker's access log
        end(server)


def test_a_reload_that_fails_changes_nothing(directory: Path) -> None:
    with serving(directory, "version") as server:
        before = pids(directory)
        (directory / "app.py").write_text("1 / 0\n")
        server.signal(signal.SIGHUP)
        server.expect("ZeroDivisionError")
        server.expect("not reloaded, going on as before")
        assert pids(directory) == before
        assert versions(server) == {"1"}
        end(server)


@pytest.mark.slow
def test_a_worker_that_is_not_ready_in_time(directory: Path) -> None:
    with serving(directory, "version", "--start-timeout", 5) as server:
        (directory / "app.py").write_text("import time\ntime.sleep(1000)\n")
        before = pids(directory)
        server.signal(signal.SIGHUP)
        server.expect("was not ready after 5 s")
        assert pids(directory) == before
        end(server)


def test_workers_that_cannot_be_started_again_end_the_service(directory: Path) -> None:
    with serving(directory, "version", "--log-level", "critical", workers=4) as server:
        (directory / "app.py").write_text("raise SystemExit(3)\n")
        for pid in pids(directory):
            os.kill(pid, signal.SIGKILL)
        code, _, errors = server.ended()
    assert code == 1
    assert errors.splitlines()[-1].startswith("aionet: gave up after 8 failed starts: worker ")


@pytest.mark.slow
def test_a_worker_that_is_stuck_is_killed_at_the_end(directory: Path) -> None:
    with (
        serving(directory, "stuck", "--drain-grace", 0, workers=1) as server,
        connect_raw(server.address) as sock,
    ):
        assert receive_exactly(sock, 1) == b"x"
        assert "was killed by signal 9" in end(server)


def test_a_worker_that_hangs_is_reported_and_replaced(directory: Path) -> None:
    with serving(directory, "stuck_once_told", "--worker-timeout", 1, workers=1) as server:
        with connect_raw(server.address) as sock:
            (pid,) = pids(directory)
            sock.sendall(b"hang")
            server.expect(f"worker 0 (process {pid}) hangs: no sign of life for 1 s")
            server.expect("in stuck_once_told")  # where it was
            server.expect(f"worker 0 (process {pid}) was killed by signal 6")
            server.expect(f"takes the place of {pid}")
        with connect_raw(server.address) as sock:
            sock.sendall(b"who")
            assert int(sock.recv(100)) == pids(directory)[0] != pid
        end(server)


def test_a_timeout_for_workers_needs_workers(directory: Path) -> None:
    for more in ([], ["--check"]):
        done = aionet("serve", "app:upper", "--worker-timeout", 1, *more, cwd=directory)
        assert done.returncode == (2 if more else 1)
        assert done.stderr.decode() == (
            "aionet: --worker-timeout needs --workers: one process alone has no use for it\n"
        )


def test_a_second_signal_ends_the_grace(directory: Path) -> None:
    with serving(directory, "upper") as server, connect_raw(server.address) as sock:
        sock.sendall(b"a")
        assert receive_exactly(sock, 1) == b"A"
        server.signal()
        assert server.next_event()["grace"] == 30
        server.signal(signal.SIGINT)
        assert server.next_event()["grace"] == 0
        report = server.next_event()
        assert (report["event"], report["cancelled"] + report["aborted"]) == ("drained", 1)
        assert server.ended()[0] == 0


def test_a_signal_to_the_whole_group_leaves_the_grace(directory: Path) -> None:
    """As service managers send it: it reaches a worker by itself, and as an order of the supervisor."""
    with serving(directory, "upper") as server, connect_raw(server.address) as sock:
        sock.sendall(b"a")
        assert receive_exactly(sock, 1) == b"A"  # it is accepted
        workers = pids(directory)
        server.signal()
        assert server.next_event()["event"] == "draining"  # the workers have their order
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        for _ in range(20):  # turns of the worker's loop
            sock.sendall(b"a")
            assert receive_exactly(sock, 1) == b"A"
        sock.shutdown(socket.SHUT_WR)
        assert receive_to_end(sock) == b""
        report = server.next_event()
        assert (report["event"], report["finished"]) == ("drained", 1)
        assert server.ended()[0] == 0


def test_signals_while_workers_are_starting_wait(directory: Path) -> None:
    """SIGUSR1 means nothing, and a reload comes once there are workers to replace."""
    (directory / "app.py").write_text(WAITING_IN_WORKERS)
    arguments = ("serve", "app:version", "--bind", "127.0.0.1:0", "--workers", "1", "--json")
    with starting(*arguments, cwd=directory) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == b"importing\n"
            for number in (signal.SIGUSR1, signal.SIGHUP):
                os.killpg(process.pid, number)
            (directory / "go").touch()
            assert json.loads(process.stdout.readline())["event"] == "listening"
            assert process.stdout.readline() == b"importing\n"  # in the worker that replaces the first one
            while b"reloaded: 1 new workers" not in process.stderr.readline():
                pass
            process.terminate()
            output, _ = process.communicate(timeout=PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert b'"drained"' in output
    assert process.returncode == 0


def test_a_signal_while_workers_are_starting(directory: Path) -> None:
    (directory / "app.py").write_text(SLOW_IN_WORKERS)
    arguments = ("serve", "app:version", "--bind", "127.0.0.1:0", "--workers", "1", "--json")
    with subprocess.Popen(
        command(*arguments), cwd=directory, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.terminate()
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, b"")
    assert b'"drained"' in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "'0': expected a whole number of processes, 1 or more"),
        (["--workers", "many"], "'many': expected a whole number of processes, 1 or more"),
        (["--start-timeout", "0"], "'0': expected more than 0 seconds"),
        (["--worker-timeout", "0"], "'0': expected more than 0 seconds"),
    ],
)
def test_bad_usage(directory: Path, arguments: list[str], message: str) -> None:
    done = aionet("serve", "app:upper", *arguments, cwd=directory)
    assert done.returncode == 2
    assert message in done.stderr.decode()
