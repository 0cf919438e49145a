"""Real, short runs through the runner, and what it makes of processes that fail."""

import dataclasses
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from aionet import implementation
from aionet.bench import BenchError, BenchPlan, BenchProgress, LatencyHistogram, run_bench, summarise
from aionet.bench.children import Child, module_command
from aionet.bench.generating import Target
from aionet.bench.peers import PEERS, Peer, peers_named
from aionet.bench.plan import Pinning
from aionet.bench.runner import NoObserver
from aionet.bench.workloads import WORKLOADS

EVERY_TURN = {
    *("workload", "peer", "engine", "loop", "connections", "size", "round", "seconds", "requests", "rate"),
    *("requests_per_cpu_second", "latency", "histogram", "open_loop_rate", "errors", "bytes_compared"),
}
BUSY_TURN = {
    *("server_cpu_seconds", "starved", "load_busy_share", "saturated", "listen_overflows", "listen_drops"),
}
MUST_RUN = ["accept", "echo", "bulk", "idle", "connect", "fairness"]


class Seen(NoObserver):
    """What a run told."""

    def __init__(self) -> None:
        self.progress: list[BenchProgress] = []

    def on_progress(self, progress: BenchProgress) -> None:
        self.progress.append(progress)


def plan(*workloads: str, peers: str = "aionet", **other: Any) -> BenchPlan:
    facts: dict[str, Any] = {"connections": (4,), "seconds": 0.2, "pinning": Pinning.apart()}
    return BenchPlan(
        workloads=[WORKLOADS[name] for name in workloads],
        peers=peers_named(peers.split(",")),
        **facts | other,
    )


@pytest.mark.parametrize(
    "loop", [pytest.param("aionet", marks=pytest.mark.slow), "aionet-asyncio", "aionet-uvloop"]
)
def test_short_runs(loop: str) -> None:
    if loop == "aionet-uvloop":
        pytest.importorskip("uvloop")
    workloads = MUST_RUN if loop == "aionet" else ["echo"]
    seen = Seen()
    record = run_bench(plan(*workloads, peers=loop), observer=seen, command=["aionet", "bench"])
    assert json.loads(json.dumps(record)) == record
    assert record["schema"] == 1
    assert record["skipped"] == {}
    assert record["failed"] == []
    assert record["messages"] == {}
    assert record["machine"].keys() == {"cpu", "cpus", "kernel", "memory"}
    assert record["python"].keys() == {"version", "build"}
    assert [turn["workload"] for turn in record["turns"]] == workloads
    for turn in record["turns"]:
        assert turn.keys() >= EVERY_TURN
        assert turn["engine"] == implementation()
        assert turn["errors"] == {}
        assert turn["requests"] > 0
        histogram = LatencyHistogram.from_json(turn["histogram"])
        if turn["workload"] == "bulk":
            begun_before = turn["connections"]  # chunks of which the warm-up took a part
            assert turn["bytes_compared"] >= (turn["requests"] - begun_before) * turn["size"]
            assert turn["bytes_per_second"] > 0
        else:
            assert histogram.count == turn["requests"]
            assert turn["latency"]["p50"] <= turn["latency"]["p99.9"] <= turn["latency"]["max"]
        if turn["workload"] == "idle":
            assert "private_bytes_per_connection" in turn
        else:
            assert turn.keys() >= BUSY_TURN
    assert {progress.turn.workload.name for progress in seen.progress} == set(workloads)
    assert {progress.turns for progress in seen.progress} == {len(workloads)}
    remaining = [progress.remaining for progress in seen.progress]
    assert min(remaining) >= 0


@pytest.mark.slow
def test_peers_take_turns_and_ratios_are_of_the_same_round() -> None:
    if reason := PEERS["asyncio-streams"].why_not(WORKLOADS["echo"]):
        pytest.skip(reason)
    record = run_bench(plan("echo", peers="asyncio-streams,c", rounds=2, seconds=0.05))
    peers = [name for name in ("c", "asyncio-streams") if name not in record["skipped"]]
    assert [(turn["round"], turn["peer"]) for turn in record["turns"]] == [
        (number, peer) for number in (1, 2) for peer in peers
    ]
    for row in summarise(record):
        assert row.rounds == 2
        assert row.errors == {}
        if row.peer == "asyncio-streams" and row.to_plain:
            assert (row.to_plain.lowest, row.to_plain.highest) == (1, 1)


@pytest.mark.slow
def test_a_turn_says_how_its_server_had_malloc() -> None:
    record = run_bench(plan("echo", peers="aionet-256k,aionet-256k-cold,c", seconds=0.05))
    found = {turn["peer"]: turn["malloc"] for turn in record["turns"]}
    assert found.items() >= {"aionet-256k": "settled", "aionet-256k-cold": "cold"}.items()
    assert found.get("c") is None


def test_one_case_comes_after_the_other_and_rounds_within_it() -> None:
    asked = plan("accept", "echo", peers="c,aionet", rounds=2, connections=(1, 3), sizes=(5, 6))
    turns = [
        (turn.workload.name, turn.connections, turn.size, turn.round, turn.name) for turn in asked.turns()
    ]
    cases = [("accept", connections, 1) for connections in (1, 3)]
    cases += [("echo", connections, size) for connections in (1, 3) for size in (5, 6)]
    assert turns == [(*case, number, peer) for case in cases for number in (1, 2) for peer in ("c", "aionet")]


def test_the_peers_of_a_round_are_measured_side_by_side() -> None:
    def heats(workload: str, **other: Any) -> list[list[str]]:
        asked = plan(workload, peers="c,aionet", rounds=2, **other)
        return [[turn.name for turn in heat] for heat in asked.heats()]

    assert heats("echo") == heats("accept", seconds=20) == [["c", "aionet"]] * 2
    assert heats("connect", connections=(10_000,)) == [["c", "aionet"]] * 2
    alone = [["c"], ["aionet"]] * 2
    assert heats("idle") == alone  # no time is measured
    assert heats("echo", connections=(10_001,)) == alone  # too many connections to be open at a time


def test_the_seconds_of_a_turn_are_cut_where_others_have_theirs_between() -> None:
    asked = plan("echo", peers="c,aionet", seconds=2.0)
    both = next(asked.heats())
    assert asked.slices(both) == [0.25] * 8
    assert asked.slices(both[:1]) == [2.0]
    assert dataclasses.replace(asked, seconds=0.1).slices(both) == [0.1]


@pytest.mark.slow
def test_slices_take_turns_and_are_one_turn_in_the_record() -> None:
    seen = Seen()
    record = run_bench(plan("echo", peers="aionet,aionet-asyncio", seconds=0.75), observer=seen)
    assert [turn["peer"] for turn in record["turns"]] == ["aionet", "aionet-asyncio"]
    for turn in record["turns"]:
        assert 0.75 <= turn["seconds"] < 2
        assert turn["errors"] == {}
        assert LatencyHistogram.from_json(turn["histogram"]).count == turn["requests"]
    told = [(each.number, each.phase) for each in seen.progress]
    order = [
        number for number, _ in itertools.groupby(number for number, phase in told if phase == "measuring")
    ]
    assert order == [1, 2] * 3
    assert all(0 <= each.share <= 1 for each in seen.progress)


@pytest.mark.slow
def test_one_that_dies_does_not_end_the_heat() -> None:
    class Killer(NoObserver):
        def on_progress(self, progress: BenchProgress) -> None:
            if progress.phase == "measuring" and progress.number == 1 and not killed:
                killed.append(min(children_of_this_process("server_process")))
                os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    record = run_bench(plan("echo", peers="aionet,aionet-asyncio", seconds=0.75), observer=Killer())
    assert [failure["peer"] for failure in record["failed"]] == ["aionet"]
    assert "killed by signal 9" in record["failed"][0]["reason"]
    assert [turn["peer"] for turn in record["turns"]] == ["aionet-asyncio"]
    assert record["turns"][0]["errors"] == {}
    assert children_of_this_process("aionet.bench") == []


def test_an_open_loop_is_in_the_record() -> None:
    asked = plan("echo", rate=500.0)
    (turn,) = run_bench(asked)["turns"]
    warm_up = next(asked.turns()).warm_up
    assert turn["open_loop_rate"] == 500.0
    assert turn["requests"] <= 500 * (turn["seconds"] + warm_up + 5)  # some may be late from the warm-up


def test_even_the_shortest_run_tells_of_itself() -> None:
    seen = Seen()
    run_bench(plan("echo", connections=(1,), sizes=(1,), seconds=0.001), observer=seen)
    assert "measuring" in {progress.phase for progress in seen.progress}


def test_a_target_is_measured_where_it_is() -> None:
    with Child("server", module_command("aionet.bench.server_process")) as server:
        ready = server.next_record(20)
        assert ready is not None
        target = Target("127.0.0.1", int(str(ready["port"])))
        record = run_bench(plan("accept", target=target, target_pid=server.pid))
    (turn,) = record["turns"]
    assert turn["peer"] == "target"
    assert turn["errors"] == {}
    assert turn["requests"] > 0
    assert turn["server_cpu_seconds"] is None or turn["server_cpu_seconds"] > 0


@pytest.mark.parametrize(
    "wrong",
    [{"connections": (0,)}, {"sizes": (0,)}, {"seconds": 0}, {"rounds": 0}, {"rate": -1.0}, {"peers": ()}],
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(plan("echo"), **wrong)


def test_who_cannot_run_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("aionet.bench.peers.CHECKOUT", tmp_path)
    record = run_bench(plan("echo", peers="aionet,trio,c", seconds=0.05))
    assert {turn["peer"] for turn in record["turns"]} == {"aionet"}
    assert "a checkout of the project is needed" in record["skipped"]["trio"]
    with pytest.raises(BenchError, match=r"c: a checkout"):
        run_bench(plan("echo", peers="c"))


def test_a_server_that_dies_meanwhile_is_reported() -> None:
    killed: list[int] = []

    class Killer(NoObserver):
        def on_progress(self, progress: BenchProgress) -> None:
            if not killed and progress.phase != "starting":
                killed.extend(children_of_this_process("server_process"))
                os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(BenchError, match=r"the server process was killed by signal 9"):
        run_bench(plan("echo", seconds=20), observer=Killer())
    assert children_of_this_process("aionet.bench") == []


def test_a_turn_that_fails_does_not_end_the_run() -> None:
    broken = dataclasses.replace(PEERS["aionet-asyncio"], arguments=("--loop", "steam"))
    record = run_bench(dataclasses.replace(plan("echo", seconds=0.05), peers=(broken, PEERS["aionet"])))
    (failure,) = record["failed"]
    assert failure["peer"] == "aionet-asyncio"
    assert "steam" in failure["reason"]
    assert [turn["peer"] for turn in record["turns"]] == ["aionet"]


def test_a_server_that_cannot_start_is_reported_with_what_it_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIONET_ENGINE", "steam")
    with pytest.raises(BenchError, match=r"(?s)the server process ended with status 1:.*steam"):
        run_bench(plan("echo"))


STUBBORN = """
import json, os, socketserver

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)

socketserver.ThreadingTCPServer.daemon_threads = True
with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
    print(json.dumps({"port": server.server_address[1], "pid": os.getpid()}), flush=True)
    server.serve_forever()
"""


def test_what_a_server_showed_counts_though_it_has_to_be_told_to_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    monkeypatch.setattr("aionet.bench.peers.CHECKOUT", tmp_path)
    monkeypatch.setattr("aionet.bench.children._PATIENCE", 0.5)
    stubborn = Peer("stubborn", "threads", "stubborn.py", tls=False)
    record = run_bench(dataclasses.replace(plan("echo", seconds=0.05), peers=(stubborn,)))
    assert record["failed"] == []
    assert record["turns"][0]["requests"] > 0
    assert children_of_this_process("stubborn.py") == []


def test_both_processes_are_gone_after_an_interrupt() -> None:
    class Interrupt(NoObserver):
        def on_progress(self, progress: BenchProgress) -> None:
            if progress.phase != "starting":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bench(plan("accept", seconds=20), observer=Interrupt())
    assert children_of_this_process("aionet.bench") == []


def test_an_interrupted_run_leaves_what_was_over() -> None:
    class InterruptLater(NoObserver):
        def on_progress(self, progress: BenchProgress) -> None:
            if progress.number == 2 and progress.phase != "starting":
                raise KeyboardInterrupt

    record = run_bench(plan("echo", seconds=0.05, rounds=3), observer=InterruptLater())
    assert record["interrupted"]
    assert [turn["round"] for turn in record["turns"]] == [1]
    assert children_of_this_process("aionet.bench") == []


@pytest.mark.slow
def test_an_interrupted_heat_leaves_what_was_measured() -> None:
    class InterruptLater(NoObserver):
        def on_progress(self, progress: BenchProgress) -> None:
            if progress.phase == "measuring" and progress.number == 2:
                raise KeyboardInterrupt

    record = run_bench(plan("echo", peers="aionet,aionet-asyncio", seconds=5), observer=InterruptLater())
    assert record["interrupted"]
    (turn,) = record["turns"]  # the other one had no slice yet
    assert turn["peer"] == "aionet"
    assert 0 < turn["seconds"] < 5
    assert turn["requests"] > 0
    assert children_of_this_process("aionet.bench") == []


def test_the_server_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
                import time
                from aionet.bench.children import Child, module_command
                child = Child("server", module_command("aionet.bench.server_process"))
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
        assert select.select([watched], [], [], 20)[0], "the server outlived its parent"
        os.close(watched)


def test_a_child_that_ignores_being_asked_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aionet.bench.children._PATIENCE", 0.1)
    command = module_command("timeit", "-n", "1", "import time, signal; time.sleep(60)")
    with Child("timing", command) as child:
        assert child.next_record(0) is None
        assert child.end() == -signal.SIGTERM


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins nothing")
def test_a_child_is_born_where_it_is_to_stay() -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    program = "import os, json; print(json.dumps({'cpus': sorted(os.sched_getaffinity(0))}))"
    with Child("pinned", [sys.executable, "-c", program], cpu=cpu) as child:
        assert child.next_record(20) == {"cpus": [cpu]}
    assert os.sched_getaffinity(0) == before


def children_of_this_process(named: str) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if named in line]
