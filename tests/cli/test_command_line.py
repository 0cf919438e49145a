"""The program itself: help, version, ``info``, and how commands are found."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys

import pytest
from command_line import PATIENCE, aionet, aionet_here, command, environment

import aionet as package
from aionet.cli.main import main

COMMANDS = ["serve", "echo", "connect", "relay", "bench", "info"]


def test_without_a_command_there_is_help() -> None:
    done = aionet()
    assert (done.returncode, done.stderr) == (2, b"")
    help_text = done.stdout.decode()
    assert help_text.startswith("usage: aionet ")
    assert "examples:" in help_text
    for name in COMMANDS:
        assert f"    {name} " in help_text


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_has_examples(arguments: list[str]) -> None:
    done = aionet_here(*arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    usage, _, examples = done.stdout.decode().partition("examples:\n")
    assert usage.startswith(f"usage: {' '.join(['aionet', *arguments[:-1]])} ")
    name = arguments[0] if len(arguments) > 1 else COMMANDS[0]
    assert f"  aionet {name} " in examples


def test_the_version() -> None:
    done = aionet("--version")
    assert (done.returncode, done.stdout.decode()) == (0, f"aionet {package.__version__}\n")


def test_an_unknown_command() -> None:
    done = aionet("dance")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"aionet: error: unknown command 'dance'\n" in done.stderr
    assert b"aionet: error: unknown command 'serv'; did you mean serve?\n" in aionet("serv").stderr


def test_an_unknown_option() -> None:
    done = aionet("--dance", "info")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--dance" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["echo", "--drian-grace", "5"], "unknown option --drian-grace; did you mean --drain-grace?"),
        (["echo", "--drian"], "unknown option --drian; did you mean --drain-grace?"),
        (["relay", "--tmieout=2s", ":1", ":2"], "unknown option --tmieout; did you mean --timeout?"),
        (["connect", "--tmieout", "2s", ":80"], "unknown option --tmieout; did you mean --timeout?"),
        (["info", "--yaml"], "unknown option --yaml"),
        (["info", "-j"], "unrecognized arguments: -j"),
        (["relay", ":1"], "the following arguments are required: TARGET"),
        (["serve", "app:x", "--drain-grace"], "argument --drain-grace: expected one argument"),
        (
            ["bench", "ehco"],
            "argument WORKLOAD: 'ehco': expected accept, echo, bulk, idle, connect, tls or fairness;"
            " did you mean echo?",
        ),
    ],
)
def test_a_mistake_is_one_line_and_then_the_usage_in_one(arguments: list[str], message: str) -> None:
    done = aionet_here(*arguments)
    first, second = done.stderr.decode().splitlines()
    program = f"aionet {arguments[0]}"
    assert (done.returncode, first) == (2, f"{program}: error: {message}")
    assert second.startswith(f"usage: {program} ")
    assert second.endswith(f"; {program} --help has more")


def test_an_option_may_be_shortened_and_an_argument_may_look_like_one() -> None:
    assert aionet("echo", "--drain-g", "5", "--check").returncode == 0
    done = aionet("connect", "--", "--nonsense")
    assert b"'--nonsense' lacks a port" in done.stderr


def test_each_default_is_what_happens() -> None:
    text = " ".join(aionet("echo", "--help").stdout.decode().split())
    assert "those who are left are cancelled (default: all at once)" in text
    assert "connections from one address at a time; further ones are reset (default: no limit)" in text
    assert "(default: as many as the descriptors, less some)" in text
    assert "without a byte in either direction (default: 7440)" in text


def test_main_returns_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == package.__version__
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert main(["info", "--nonsense"]) == 2


@pytest.mark.parametrize("name", ["serve", "echo", "connect", "relay"])
def test_a_command_does_not_pay_for_the_benchmark(name: str) -> None:
    code = (
        "import sys; from aionet.cli.main import main; code = main(sys.argv[1:]);"
        "sys.exit(code or any(name.startswith('aionet.bench') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, "--help"], capture_output=True, env=environment(), timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_is_no_cause_for_words() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command("info"), stdout=writing, stderr=subprocess.PIPE, env=environment(), timeout=PATIENCE
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_benchmark_is_mounted() -> None:
    done = aionet("bench", "accept", "--size", "5")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--size 5 is for echo" in done.stderr


# info ---------------------------------------------------------------------------------------------------


def test_info_as_json() -> None:
    done = aionet("info", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    facts = json.loads(done.stdout)
    assert facts["version"] == package.__version__
    assert facts["engine"] == package.implementation()
    assert facts["loops"]["asyncio"] == platform.python_version()
    assert facts["python"]["version"] == platform.python_version()
    assert platform.python_version() in facts["python"]["build"]
    assert facts["kernel"] == f"{platform.system()} {platform.release()}"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert facts["limits"]["open_files"].items() >= {"soft": soft, "hard": hard}.items()
    assert set(facts["limits"]) == {"open_files", "somaxconn", "ip_local_port_range", "tcp_rmem", "tcp_wmem"}
    assert all(isinstance(works, bool) for works in facts["features"].values())


@pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's")
def test_info_on_linux() -> None:
    facts = json.loads(aionet("info", "--json").stdout)
    for name in ("epoll", "tcp_info", "acknowledgement_events", "sendfile"):
        assert facts["features"][name] is True
    assert facts["limits"]["somaxconn"] > 0
    assert len(facts["limits"]["tcp_rmem"]) == len(facts["limits"]["tcp_wmem"]) == 3
    low, high = facts["limits"]["ip_local_port_range"]
    assert 0 < low < high


def test_info_as_a_table() -> None:
    lines = aionet("info").stdout.decode().splitlines()
    table = dict(line.split(maxsplit=1) for line in lines)
    assert table["version"] == package.__version__
    assert table["engine"] == package.implementation()
    assert table["features.epoll"] in ("yes", "no")
    assert len({line.index(value) for line, value in zip(lines, table.values(), strict=True)}) <= 2  # aligned
