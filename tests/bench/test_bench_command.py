"""``aionet bench``: its output, its exit codes and its bad input."""

import argparse
import io
import json
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from records import record, turn

from aionet.bench import BenchError, BenchPlan, BenchProgress, command, progress, report
from aionet.bench.facts import usable_cpus
from aionet.bench.generating import Target
from aionet.bench.peers import PEERS
from aionet.bench.plan import Pinning

FACTS = {"cpu": "a processor", "cpus": 2, "kernel": "Linux 6.18", "memory": 8 << 30}
TURN: dict[str, Any] = {
    "requests_per_cpu_second": 52_631.6,
    "rate": 50_000.0,
    "requests": 500_000,
    "load_busy_share": 0.5,
    "latency": {"p50": 0.000_9, "p90": 0.001, "p99": 0.001_5, "p99.9": 2.0, "p99.99": 2.0, "max": 2.0},
}


def one_turn(workload: str = "echo", peer: str = "aionet", **other: Any) -> dict[str, Any]:
    size = {"size": 1024} if workload == "echo" else {}
    return turn(peer, 1, 1, **{"workload": workload, "loop": "aionet", **size, **TURN, **other})


def a_record(*turns: dict[str, Any], **other: Any) -> dict[str, Any]:
    facts = {"machine": FACTS, "python": {"version": "CPython 3.11.7", "build": ["PGO", "static"]}}
    facts |= {"spinning": True, "interrupted": False, "failed": [], "messages": {}}
    return record(*turns, **facts | other)


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aionet bench")
    command.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[BenchPlan]:
    """What would have been measured; every measurement gives one turn for each workload."""
    asked: list[BenchPlan] = []

    def run_bench(plan: BenchPlan, **_: object) -> dict[str, Any]:
        asked.append(plan)
        return a_record(*(one_turn(workload.name) for workload in plan.workloads))

    monkeypatch.setattr(command, "run_bench", run_bench)
    return asked


def test_without_a_workload_both_are_measured(plans: list[BenchPlan]) -> None:
    assert command.run(parse("--quick")) == 0
    (plan,) = plans
    assert [workload.name for workload in plan.workloads] == ["echo", "accept"]
    assert [peer.name for peer in plan.peers] == ["aionet"]
    assert sum(turn.expected_seconds for turn in plan.turns()) < 10


def test_every_argument_arrives(plans: list[BenchPlan]) -> None:
    cpu = usable_cpus()[0] if usable_cpus() else 0
    arguments = ["echo", "tls", "--connections", "7,8", "--size", "9", "--seconds", "1.5", "--rounds", "4"]
    arguments += ["--against", "threads,c", "--loop", "asyncio", "--cold-malloc"]
    arguments += ["--pin", f"{cpu},{cpu}"] if usable_cpus() else []
    assert command.run(parse(*arguments)) == 0
    (plan,) = plans
    assert [workload.name for workload in plan.workloads] == ["echo", "tls-echo", "tls-accept"]
    assert [peer.name for peer in plan.peers] == ["c", "aionet-asyncio", "threads"]
    assert (plan.connections, plan.sizes, plan.seconds, plan.rounds) == ((7, 8), (9,), 1.5, 4)
    assert plan.cold_malloc
    if usable_cpus():
        assert plan.pinning == Pinning(cpu, cpu)


def test_a_rate_and_a_target_arrive(plans: list[BenchPlan]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # localhost may be ::1, too, which is not meant
        port = listener.getsockname()[1]
        arguments = ["accept", "--rate", "2e3", "--target", f"localhost:{port}", "--target-pid", "7"]
        assert command.run(parse(*arguments, "--pin", "none")) == 0
    (plan,) = plans
    assert plan.rate == 2000
    assert plan.target == Target("127.0.0.1", port)
    assert plan.target_pid == 7
    assert plan.pinning == Pinning()
    assert {turn.name for turn in plan.turns()} == {"target"}


def test_all_stands_for_all_that_people_compare(plans: list[BenchPlan]) -> None:
    assert command.run(parse("accept", "--against", "all")) == 0
    names = [peer.name for peer in plans[0].peers]
    assert names[:2] == ["c", "aionet"]
    assert {"asyncio-streams", "uvloop-protocol", "trio", "anyio", "go", "threads"} <= set(names)


def test_json_is_a_record_and_nothing_else(
    plans: list[BenchPlan], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(parse("--json")) == 0
    output, errors = capsys.readouterr()
    assert [turn["workload"] for turn in json.loads(output)["turns"]] == ["echo", "accept"]
    assert errors == ""


def test_a_record_is_stored_compared_and_reported(
    plans: list[BenchPlan],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "write_report", lambda record, directory: directory / "index.html")
    monkeypatch.setattr(command.plots, "why_not", lambda: None)
    stored = tmp_path / "run.json"
    assert command.run(parse("echo", "--record", str(stored), "--report", "out")) == 0
    assert json.loads(stored.read_text())["schema"] == 1
    assert "report: out/index.html" in capsys.readouterr().out
    assert command.run(parse("echo", "--baseline", str(stored))) == 0
    assert "beside" in capsys.readouterr().out


def test_what_repeats_a_run_is_stored_without_the_places_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["--record", "a.json", "--report=out", "--baseline", "b.json", "--json"]
    monkeypatch.setattr(sys, "argv", ["aionet", "bench", "accept", *files, "--rounds", "3"])
    assert command._command() == ["aionet", "bench", "accept", "--rounds", "3"]


def test_counted_errors_give_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = a_record(one_turn(errors={"mismatch": 2}))
    monkeypatch.setattr(command, "run_bench", lambda plan, **_: wrong)
    assert command.run(parse("echo")) == 1
    assert "echo aionet: 2 x mismatch" in capsys.readouterr().out


def test_a_failed_turn_gives_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"workload": "echo", "peer": "trio", "round": 2, "reason": "it fell over"}
    monkeypatch.setattr(command, "run_bench", lambda plan, **_: a_record(one_turn(), failed=[failed]))
    assert command.run(parse("echo")) == 1
    assert "failed: echo trio, round 2: it fell over" in capsys.readouterr().out


def test_a_failed_process_gives_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(plan: BenchPlan, **_: object) -> dict[str, Any]:
        raise BenchError("the server process ended with status 3")

    monkeypatch.setattr(command, "run_bench", fail)
    assert command.run(parse("echo")) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert "the server process ended with status 3" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["echo", "--connections", "0"], "--connections: 0 is not from 1 to 1,000,000"),
        (["echo", "--connections", "many"], "'many' is not a whole number"),
        (["echo", "--connections", "64,"], "'' is not a whole number"),
        (["echo", "--size", "-5"], "-5 is not from 1 to"),
        (["echo", "--duration", "inf"], "inf is not above 0"),
        (["echo", "--seconds", "1", "--quick"], "not allowed with"),
        (["echo", "--rate", "fast"], "'fast' is not a number"),
        (["echo", "--rounds", "0"], "0 is not from 1 to 1,000"),
        (["echo", "--against", "trio,steam"], "'steam' is not one of all, c, aionet"),
        (["echo", "--against", "all", "--target", "localhost:1"], "not allowed with"),
        (["echo", "--target", "localhost"], "'localhost' lacks a port"),
        (["echo", "--pin", "zero"], "'zero' is neither two cpus"),
        (["dance"], "'dance'"),
    ],
)
def test_bad_usage_names_the_value(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["accept", "--size", "5"], "--size 5 is for echo"),
        (["bulk", "--rate", "10"], "--rate 10 is for accept, connect, echo and fairness, not for bulk"),
        (["echo", "--target-pid", "10"], "--target-pid 10 is the process of a --target"),
        (["tls", "--target", "127.0.0.1:1"], "cannot be measured of a target"),
        (["idle", "--target", "127.0.0.1:1"], "idle needs --target-pid"),
        (["echo", "--baseline", "/nowhere/run.json"], "/nowhere/run.json"),
        (["echo", "--record", "/nowhere/run.json"], "there is no directory /nowhere"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_runs(
    plans: list[BenchPlan], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(parse(*arguments)) == 2
    assert message in capsys.readouterr().err
    assert plans == []


def test_a_target_that_takes_no_connection_is_told(
    plans: list[BenchPlan], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert command.run(parse("echo", "--target", f"127.0.0.1:{port}")) == 2
    assert f"--target 127.0.0.1:{port}: " in capsys.readouterr().err
    assert plans == []


def test_server_and_load_on_one_cpu_do_not_spin() -> None:
    if len(usable_cpus()) < 2:
        pytest.skip("there are no two cpus to choose from")
    one = usable_cpus()[0]
    assert not command.plan_from(parse("echo", "--pin", f"{one},{one}")).spinning
    assert command.plan_from(parse("echo")).spinning


def test_too_few_files_are_told(
    plans: list[BenchPlan], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    assert command.run(parse("echo", "--connections", "5000")) == 2
    assert "at most --connections 4032" in capsys.readouterr().err
    assert plans == []


def test_the_soft_limit_of_files_is_raised(plans: list[BenchPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: raised.append(limits))
    assert command.run(parse("echo", "--connections", "3000")) == 0
    assert raised == [(3064, 4096)]


def test_the_table_of_one_peer_is_aligned_and_complete() -> None:
    nothing = dict.fromkeys(TURN["latency"])
    (table,) = report.tables_of(a_record(one_turn(), one_turn("accept", latency=nothing)))
    text = report.plain_table(table)
    assert len({len(line) for line in text.splitlines()}) == 1
    for expected in ("50,000", "900 µs", "1.50 ms", "2.00 s", "52,632", "native, aionet", "-"):
        assert expected in text


def test_peers_stand_beside_each_other_with_their_share_of_c() -> None:
    turns = [
        one_turn(peer=peer, requests_per_cpu_second=figure, round=number)
        for number in (1, 2)
        for peer, figure in (("c", 100_000.0), ("trio", 10_000.0 + number * 2000), ("aionet", 80_000.0))
    ]
    idle = one_turn("idle", peer="c", requests_per_cpu_second=None, private_bytes_per_connection=12.0)
    first, second = report.tables_of(a_record(*turns, idle))
    assert first.title.startswith("echo, 64 connections, 1 KiB: requests per CPU second")
    assert [row[0] for row in first.cells[1:]] == ["c", "aionet", "trio"]
    assert [row[2] for row in first.cells[1:]] == ["1.00", "0.80", "0.13"]
    assert first.cells[3][3] == "0.12-0.14"
    assert second.cells[1][:2] == ["c", "12"]


def test_a_narrow_terminal_gets_fewer_columns_and_whole_cells() -> None:
    turns = [one_turn(peer=peer, errors={"mismatch": 7}) for peer in ("c", "aionet-portable")]
    (table,) = report.tables_of(a_record(*turns))
    wide, narrow = report.narrowed(table, 200), report.narrowed(table, 70)
    assert wide == table
    assert set(narrow.cells[0]) < set(table.cells[0])
    assert {"peer", "of c", "p99"} <= set(narrow.cells[0])
    assert max(map(len, report.plain_table(report.Table("", narrow.cells)).splitlines())) <= 70


def test_what_limits_a_figure_is_said() -> None:
    told = one_turn(saturated=True, starved=3, overdue=9, listen_drops=5, generator="python")
    said = "\n".join(
        report.notes(
            a_record(told, spinning=False, messages={"aionet": "a warning"}, skipped={"go": "no compiler"})
        )
    )
    for expected in (
        "closed loop",
        "limited the rate",
        "one cpu",
        "a warning",
        "3 connections had less than a tenth",
        "9 requests were due",
        "no room for 5",
        "plain Python",
        "skipped: go: no compiler",
    ):
        assert expected in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def where(phase: str, elapsed: float) -> BenchProgress:
    plan = command.plan_from(parse("echo", "--seconds", "4"))
    return BenchProgress(
        turn=next(plan.turns()),
        number=2,
        turns=5,
        phase=phase,
        elapsed=elapsed,
        seconds=4,
        requests=100,
        errors=2,
        share=0.25,
        remaining=75.0,
    )


@pytest.mark.parametrize("rich", [True, False])
def test_progress_and_table_on_a_terminal(rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if rich:
        pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "120")
    for module in (progress, report):
        monkeypatch.setattr(module, "has_rich", lambda: rich)
    stream = Terminal()
    with progress.ProgressDisplay(stream) as display:
        for phase, elapsed in (("opening", 0.0), ("warm-up", 0.5), ("measuring", 2.0)):
            display.on_progress(where(phase, elapsed))
        display.on_turn(one_turn(saturated=True))
        display.on_turn(one_turn("idle", requests_per_cpu_second=None, private_bytes_per_connection=1e3))
        display.on_failure(where("opening", 0).turn, BenchError("it fell over\nand more"))
    shown = stream.getvalue()
    assert "50 requests/s, 2 errors" in shown
    assert "2/5" in shown
    assert "1:15 min left" in shown
    assert "52.6 k requests per CPU second, load saturated" in shown
    assert "1,000 bytes per connection" in shown
    assert "failed: it fell over" in shown
    report.print_report(a_record(one_turn()), stream)
    assert "50,000" in stream.getvalue()


def test_progress_is_silent_where_nobody_watches() -> None:
    stream = io.StringIO()
    with progress.ProgressDisplay(stream) as display:
        display.on_progress(where("measuring", 1))
        display.on_turn(one_turn())
        display.on_failure(where("opening", 0).turn, BenchError("it fell over"))
    assert stream.getvalue() == ""


def test_control_c_ends_with_130() -> None:
    parent, child = pty.openpty()
    arguments = [sys.executable, "-m", "aionet.bench", "echo", "--connections", "2", "--duration", "60"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=child, start_new_session=True)
    os.close(child)
    os.read(parent, 1)  # progress: both processes are at work
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    os.close(parent)
    assert process.returncode == 130
    assert output == b""


def test_control_c_shows_and_stores_what_was_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_bench", lambda plan, **_: a_record(one_turn(), interrupted=True))
    assert command.run(parse("echo", "--record", str(tmp_path / "record.json"))) == 130
    shown = capsys.readouterr()
    assert "50,000" in shown.out
    assert shown.err == "bench: interrupted; turns that were over: 1\n"
    assert len(json.loads((tmp_path / "record.json").read_text())["turns"]) == 1


def test_a_help_that_names_every_peer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert [name for name in PEERS if name not in shown] == []
