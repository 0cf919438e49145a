"""Real, short runs through the runner, and what it makes of processes that fail."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from aionet import implementation
from aionet.bench import BenchError, BenchPlan, BenchProgress, BenchResult, run_bench
from aionet.bench.children import Child
from aionet.bench.runner import Workload

WORKLOADS: list[Workload] = ["accept", "echo"]


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_short_run(workload: Workload, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    seen: list[BenchProgress] = []
    plan = BenchPlan(workload=workload, connections=4, size=100, seconds=0.3, loop=loop)  # type: ignore[arg-type]
    result = run_bench(plan, on_progress=seen.append)
    assert result.errors == {}
    assert result.requests > 0
    assert result.bytes_compared >= result.requests
    assert result.engine == implementation()
    assert result.loop == loop
    assert result.server_messages == ""
    assert result.p50 is not None
    assert result.p99 is not None
    assert result.p99_9 is not None
    assert result.p50 <= result.p99 <= result.p99_9
    assert {progress.workload for progress in seen} == {workload}
    as_json = json.loads(json.dumps(result.as_json()))
    assert as_json.keys() == {field.name for field in dataclasses.fields(BenchResult)}
    assert as_json["closed_loop"] is True


def test_even_the_shortest_run_tells_of_itself() -> None:
    seen: list[BenchProgress] = []
    run_bench(BenchPlan(workload="echo", connections=1, size=1, seconds=0.001), on_progress=seen.append)
    assert seen[0].phase == "measuring"


@pytest.mark.parametrize(
    "wrong", [{"connections": 0}, {"size": 0}, {"seconds": 0}, {"workload": "dance"}, {"loop": "trio"}]
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        BenchPlan(**{"workload": "echo", **wrong})  # type: ignore[arg-type]


def test_a_server_that_dies_meanwhile_is_reported() -> None:
    killed: list[int] = []

    def kill_the_server(progress: BenchProgress) -> None:
        if not killed:
            killed.extend(children_of_this_process("server_process"))
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(BenchError, match=r"the server process was killed by signal 9"):
        run_bench(BenchPlan(workload="echo", connections=2, seconds=20), on_progress=kill_the_server)
    assert children_of_this_process("aionet.bench") == []


def test_a_server_that_cannot_start_is_reported_with_what_it_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIONET_ENGINE", "steam")
    with pytest.raises(BenchError, match=r"(?s)the server process ended with status 1:.*steam"):
        run_bench(BenchPlan(workload="echo", connections=2, seconds=1))


def test_both_processes_are_gone_after_an_interrupt() -> None:
    def interrupt(progress: BenchProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bench(BenchPlan(workload="accept", connections=2, seconds=20), on_progress=interrupt)
    assert children_of_this_process("aionet.bench") == []


def test_the_server_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
                import time
                from aionet.bench.children import Child
                child = Child("server", "aionet.bench.server_process", ["--workload", "echo"])
                print(child.next_record(20)["pid"], flush=True)
                time.sleep(60)
            """),
        ],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    with parent:
        server = int(parent.stdout.readline())
        watched = os.pidfd_open(server) if hasattr(os, "pidfd_open") else None
        parent.kill()
    if watched is not None:
        import select

        assert select.select([watched], [], [], 20)[0], "the server outlived its parent"
        os.close(watched)


def test_a_child_that_ignores_being_asked_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aionet.bench.children._PATIENCE", 0.1)
    with Child("timing", "timeit", ["-n", "1", "import time, signal; time.sleep(60)"]) as child:
        assert child.next_record(0) is None
        assert child.end() == -signal.SIGTERM


def children_of_this_process(named: str) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if named in line]
