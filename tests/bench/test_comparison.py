"""The comparison in ``benchmarks/``: it runs, stores what a table needs, and notices a wrong byte."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not installed"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
    pytest.mark.skipif(
        not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="two cpus are needed"
    ),
]


@pytest.mark.slow
def test_a_comparison_runs_and_is_stored(tmp_path: Path) -> None:
    stored = tmp_path / "results.json"
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--rounds", "2", "--seconds", "0.4"]
    command += ["--workloads", "echo-64x1KiB,accept", "--servers", "asyncio-streams,aionet-asyncio"]
    done = subprocess.run([*command, "--json", str(stored)], capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    results = json.loads(stored.read_text())
    assert {(row["workload"], row["server"]) for row in results["summary"]} == {
        (workload, server)
        for workload in ("echo-64x1KiB", "accept")
        for server in ("c-epoll", "asyncio-streams", "aionet-asyncio")
    }
    for row in results["summary"]:
        assert row["errors"] == 0
        assert row["rounds"] == 2
        assert row["to_c_spread"][0] <= row["to_c"] <= row["to_c_spread"][1]
    assert {turn["engine"] for turn in results["turns"] if turn["server"] == "aionet-asyncio"} <= {
        "native",
        "portable",
    }
    assert results["machine"].keys() == {"cpu", "kernel", "python"}
    assert str(BENCHMARKS.parent) not in stored.read_text()
    assert "| aionet-asyncio (" in done.stdout


@pytest.mark.slow
def test_a_comparison_over_tls_runs_beside_the_tls_reference(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--rounds", "1", "--seconds", "0.4"]
    command += ["--workloads", "tls-4x16KiB,tls-accept", "--servers", "c-epoll,asyncio-streams-tls"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "json")], capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "json").read_text())["summary"]
    assert {(row["workload"], row["server"]) for row in rows} == {
        (workload, server)
        for workload in ("tls-4x16KiB", "tls-accept")
        for server in ("c-epoll-tls", "asyncio-streams-tls")
    }
    assert all(row["to_c"] for row in rows)


def test_the_generator_notices_a_wrong_byte(tmp_path: Path) -> None:
    generator = tmp_path / "load_generator"
    subprocess.run(["cc", "-O2", "-o", generator, BENCHMARKS / "load_generator.c"], check=True)

    def answer_wrongly() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    if data := connection.recv(100):
                        connection.sendall(data[:-1] + bytes([data[-1] ^ 1]))
                        connection.recv(100)
                except OSError:
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_wrongly)
        thread.start()
        port = listener.getsockname()[1]
        arguments = ["echo", port, 1, 100, 1, 0, os.getpid()]
        done = subprocess.run(
            [str(generator), *map(str, arguments)], capture_output=True, text=True, timeout=30
        )
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "mismatch" in done.stderr
