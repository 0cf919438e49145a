"""``aionet bench``: its output, its exit codes and its bad input."""

import argparse
import dataclasses
import io
import json
import os
import pty
import resource
import signal
import subprocess
import sys

import pytest

from aionet.bench import BenchError, BenchPlan, BenchProgress, BenchResult, command, report

RESULT = BenchResult(
    workload="echo",
    engine="portable",
    loop="asyncio",
    python="CPython 3.11.7 (PGO, LTO, static)",
    kernel="Linux 6.18",
    cpu="a processor, 2 cpus",
    connections=64,
    size=1024,
    seconds=10.0,
    requests=500_000,
    rate=50_000.0,
    p50=0.000_9,
    p99=0.001_5,
    p99_9=2.0,
    errors={},
    bytes_compared=512_000_000,
    server_cpu_seconds=9.5,
    requests_per_cpu_second=52_631.6,
    load_busy_share=0.5,
    closed_loop=True,
    pinned=True,
    spinning=True,
    server_messages="",
)


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aionet bench")
    command.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[BenchPlan]:
    """What would have been measured; every measurement gives `RESULT`."""
    asked: list[BenchPlan] = []

    def run_bench(plan: BenchPlan, **_: object) -> BenchResult:
        asked.append(plan)
        return dataclasses.replace(RESULT, workload=plan.workload)

    monkeypatch.setattr(command, "run_bench", run_bench)
    return asked


def test_without_a_workload_both_are_measured(plans: list[BenchPlan]) -> None:
    assert command.run(parse("--quick")) == 0
    assert [plan.workload for plan in plans] == ["echo", "accept"]
    assert sum(plan.seconds + plan.warm_up for plan in plans) < 10


def test_every_argument_arrives(plans: list[BenchPlan]) -> None:
    arguments = ["echo", "--connections", "7", "--size", "9", "--duration", "1.5", "--loop", "asyncio"]
    assert command.run(parse(*arguments)) == 0
    assert plans == [BenchPlan(workload="echo", connections=7, size=9, seconds=1.5, loop="asyncio")]


def test_json_is_a_list_and_nothing_else(plans: list[BenchPlan], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(parse("--json")) == 0
    output, errors = capsys.readouterr()
    assert [result["workload"] for result in json.loads(output)] == ["echo", "accept"]
    assert errors == ""


def test_counted_errors_give_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = dataclasses.replace(RESULT, errors={"mismatch": 2})
    monkeypatch.setattr(command, "run_bench", lambda plan, **_: wrong)
    assert command.run(parse("echo")) == 1
    assert "echo: 2 x mismatch" in capsys.readouterr().out


def test_a_failed_process_gives_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(plan: BenchPlan, **_: object) -> BenchResult:
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
        (["echo", "--size", "-5"], "-5 is not from 1 to"),
        (["echo", "--duration", "inf"], "inf is not above 0"),
        (["echo", "--duration", "1", "--quick"], "not allowed with"),
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


def test_a_size_makes_no_sense_for_accept(plans: list[BenchPlan], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(parse("accept", "--size", "5")) == 2
    assert "--size 5 is for echo" in capsys.readouterr().err
    assert plans == []


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


def test_the_plain_table_is_aligned_and_complete() -> None:
    lines = report.plain_table(
        [RESULT, dataclasses.replace(RESULT, workload="accept", p50=None)]
    ).splitlines()
    assert len({len(line) for line in lines}) == 1
    text = "\n".join(lines)
    for expected in ("50,000", "900 us", "1.50 ms", "2.00 s", "52,632", "portable, asyncio", "9.50", "-"):
        assert expected in text


def test_what_limits_a_figure_is_said() -> None:
    said = "\n".join(
        report.notes(
            [dataclasses.replace(RESULT, load_busy_share=0.99, spinning=False, server_messages="a warning")]
        )
    )
    for expected in ("closed loop", "may have limited", "one cpu", "a warning"):
        assert expected in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rich", [True, False])
def test_progress_and_table_on_a_terminal(rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if rich:
        pytest.importorskip("rich")
    monkeypatch.setattr(report, "_has_rich", lambda: rich)
    stream = Terminal()
    with report.ProgressDisplay(stream) as display:
        for phase, elapsed in (("opening", 0.0), ("warm-up", 0.5), ("measuring", 2.0)):
            display.show(
                BenchProgress(
                    workload="echo", phase=phase, elapsed=elapsed, seconds=4, requests=100, errors=2
                )
            )
    assert "50 requests/s, 2 errors" in stream.getvalue()
    report.print_report([RESULT], stream)
    assert "50,000" in stream.getvalue()


def test_progress_is_silent_where_nobody_watches() -> None:
    stream = io.StringIO()
    with report.ProgressDisplay(stream) as display:
        display.show(
            BenchProgress(workload="echo", phase="measuring", elapsed=1, seconds=4, requests=1, errors=0)
        )
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
