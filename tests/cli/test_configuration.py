"""Configuration: flags, variables and a file as one, what ``--check`` prints, and every message."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import AionetServer, aionet, connect_raw, receive_exactly

from aionet.cli import arguments
from aionet.cli.arguments import byte_count, limits_from, per_second, seconds
from aionet.cli.configuration import ConfigurableParser, add_configuration_arguments
from aionet.cli.main import main
from aionet.cli.safe_limits import OF_HANDLERS, OF_RELAYS
from aionet.limiting.limits import ConnectionLimits

EXAMPLE = Path(__file__).parents[2] / "examples" / "deploy" / "aionet.toml"

GUIDE = EXAMPLE.parents[2] / "docs" / "guide.md"

APP = "async def upper(socket):\n    async for chunk in socket:\n        await socket.write(chunk.upper())\n"

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with ``app.py`` in it, and an environment without variables of ours."""
    for name in [name for name in os.environ if name.startswith("AIONET_") and name != "AIONET_ENGINE"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def write(place: Path) -> Write:
    """Writes ``app.toml``, with the table's header unless the text has one or a comment."""

    def write_file(text: str) -> Path:
        (place / "app.toml").write_text(text if text[0] in "[#" else f"[serve]\n{text}")
        return Path("app.toml")

    return write_file


class Checked:
    """What ``aionet echo --check`` made of its arguments."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: object) -> None:
        capsys.readouterr()
        self.code = main(["echo", "--check", *map(str, words)])
        self.output, errors = capsys.readouterr()
        self.problems = [line.removeprefix("aionet: ") for line in errors.splitlines()]

    @property
    def values(self) -> dict[str, Any]:
        assert (self.code, self.problems) == (0, [])
        table: dict[str, Any] = tomllib.loads(self.output)["serve"]
        return table

    def source(self, name: str) -> str:
        line = next(line for line in self.output.splitlines() if line.startswith(f"{name} = "))
        return line.rpartition("  # ")[2]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., Checked]:
    return lambda *words: Checked(capsys, *words)


Check = Callable[..., Checked]


# Layers -------------------------------------------------------------------------------------------------


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(
    check: Check, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*words: object) -> tuple[float, str]:
        checked = check(*words)
        return checked.values["drain_grace"], checked.source("drain_grace")

    assert found() == (30, "default")
    file = write("drain_grace = 1")
    assert found("--config", file) == (1, "app.toml")
    monkeypatch.setenv("AIONET_DRAIN_GRACE", "2.5")
    assert found("--config", file) == (2.5, "AIONET_DRAIN_GRACE")
    assert found("--config", file, "--drain-grace", 3) == (3, "--drain-grace")


def test_a_flag_goes_before_the_others_also_with_the_value_of_the_default(check: Check, write: Write) -> None:
    checked = check("--config", write('log_level = "debug"'), "--log-level", "info")
    assert (checked.values["log_level"], checked.source("log_level")) == ("info", "--log-level")


def test_an_empty_variable_and_an_empty_array_say_nothing(
    check: Check, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIONET_DRAIN_GRACE", "")
    checked = check("--config", write("bind = []"))
    assert checked.source("drain_grace") == checked.source("bind") == "default"


def test_a_variable_names_the_file_and_a_flag_another(
    check: Check, write: Write, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "other.toml").write_text("[serve]\ndrain_grace = 2\n")
    monkeypatch.setenv("AIONET_CONFIG", str(write("drain_grace = 1")))
    assert check().source("drain_grace") == "app.toml"
    assert check("--config", "other.toml").source("drain_grace") == "other.toml"


def test_several_addresses_from_each_layer(
    check: Check, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write('bind = [":1", "unix:/tmp/x"]')
    assert check("--config", file).values["bind"] == [":1", "unix:/tmp/x"]
    assert check("--config", write('bind = "127.0.0.1:1"')).values["bind"] == ["127.0.0.1:1"]
    monkeypatch.setenv("AIONET_BIND", ":2, [::1]:2 unix:/tmp/y,:3")
    assert check("--config", file).values["bind"] == [":2", "[::1]:2", "unix:/tmp/y", ":3"]
    checked = check("--config", file, "--bind", ":4", "--bind", ":5")
    assert (checked.values["bind"], checked.source("bind")) == ([":4", ":5"], "--bind")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False), ("False", False), ("no", False)],
)
def test_switches_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, value: bool
) -> None:
    monkeypatch.setenv("AIONET_JSON", text)
    assert main(["echo", "--check"]) == 0
    output = capsys.readouterr().out
    found = json.loads(output)["json"]["value"] if value else tomllib.loads(output)["serve"]["json"]
    assert found is value


def test_switches_in_the_file(capsys: pytest.CaptureFixture[str], write: Write) -> None:
    assert main(["echo", "--check", "--config", str(write("json = true"))]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["json"] == {"value": True, "source": "app.toml"}
    assert found["bind"] == {"value": ["127.0.0.1:3000"], "source": "default"}
    assert found["max_per_peer"] == {"value": None, "source": "default"}


def test_dashes_and_underscores_mean_the_same(check: Check, write: Write) -> None:
    assert check("--config", write("drain-grace = 4\nmax_connections = 1_000")).values["drain_grace"] == 4


@pytest.mark.parametrize("text", ["", "[serve]\n", "# nothing\n"])
def test_a_file_without_options(check: Check, place: Path, text: str) -> None:
    (place / "app.toml").write_text(text)
    assert check("--config", "app.toml").values["drain_grace"] == 30


# An option that is added to the parser is known everywhere ---------------------------------------------


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    """A parser with an option of every kind."""
    parser = ConfigurableParser(prog="aionet serve")
    parser.add_argument("--plain", default="none")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--timeout", type=seconds, dest="patience")
    parser.add_argument("--trusted", nargs="+", default=["::1"])
    parser.add_argument("--colour", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--no-delay", action="store_false", dest="delay")
    parser.add_argument("--mode", choices=["a", "b"], default="a")
    parser.add_argument("--proxy", nargs="?", type=str.upper, const="v2")
    parser.add_argument("--metrics", nargs="?", type=int, const=9000)
    add_configuration_arguments(parser)
    return parser


FILE = """
[serve]
plain = "text"
workers = 4
timeout = 1.5
trusted = ["10.0.0.0/8", "::1"]
colour = false
no_delay = true
mode = "b"
proxy = true
metrics = true
"""
VARIABLES = {
    "AIONET_PLAIN": "text",
    "AIONET_WORKERS": "4",
    "AIONET_TIMEOUT": "1.5",
    "AIONET_TRUSTED": "10.0.0.0/8,::1",
    "AIONET_COLOUR": "no",
    "AIONET_NO_DELAY": "yes",
    "AIONET_MODE": "b",
    "AIONET_PROXY": "true",
    "AIONET_METRICS": "true",
}
FLAGS = (
    "--plain text --workers 4 --timeout 1.5 --trusted 10.0.0.0/8 ::1 --no-colour --no-delay --mode b"
    " --proxy --metrics"
)
EXPECTED = {
    "plain": "text",
    "workers": 4,
    "patience": 1.5,
    "trusted": ["10.0.0.0/8", "::1"],
    "colour": False,
    "delay": False,
    "mode": "b",
    "proxy": "V2",
    "metrics": 9000,
}


@pytest.mark.parametrize("layer", ["file", "variables", "flags"])
def test_every_kind_of_option_from_every_layer(
    parser: argparse.ArgumentParser, write: Write, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    words = []
    if layer == "file":
        words = ["--config", str(write(FILE.lstrip()))]
    elif layer == "flags":
        words = FLAGS.split()
    else:
        for name, text in VARIABLES.items():
            monkeypatch.setenv(name, text)
    found = vars(parser.parse_args(words))
    assert {name: found[name] for name in EXPECTED} == EXPECTED


@pytest.mark.parametrize("layer", ["file", "variables", "flags"])
def test_an_option_that_may_lack_a_value_may_have_one(
    parser: argparse.ArgumentParser, write: Write, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    words = []
    if layer == "file":
        words = ["--config", str(write('proxy = "v1"\nmetrics = 1'))]
    elif layer == "flags":
        words = ["--proxy", "v1", "--metrics", "1"]
    else:
        monkeypatch.setenv("AIONET_PROXY", "v1")
        monkeypatch.setenv("AIONET_METRICS", "1")
    found = parser.parse_args(words)
    assert (found.proxy, found.metrics) == ("V1", 1)
    assert parser.parse_args(["--config", str(write("proxy = false"))]).proxy == (
        "V1" if layer == "variables" else None
    )


def test_every_kind_of_option_has_its_default(parser: argparse.ArgumentParser) -> None:
    found = vars(parser.parse_args([]))
    assert (found["plain"], found["workers"], found["patience"], found["trusted"]) == (
        "none",
        1,
        None,
        ["::1"],
    )
    assert (found["colour"], found["delay"], found["mode"], found["check"]) == (True, True, "a", False)


def test_a_plain_type_is_told_as_argparse_does(
    parser: argparse.ArgumentParser, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--config", str(write("workers = 1.5"))])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "aionet: app.toml: serve.workers = 1.5: invalid int value: '1.5'\n"


# Mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "max_connections = 0",
            "serve.max_connections = 0: expected a whole number of connections, 1 or more",
        ),
        ("max_connections = true", "serve.max_connections = true: expected a whole number of connections"),
        ("max_connections = 1.5", "serve.max_connections = 1.5: expected a whole number of connections"),
        ('drain-grace = "soon"', 'serve.drain-grace = "soon": expected a number of seconds, 0 or more'),
        ("drain_grace = nan", "serve.drain_grace = nan: expected a number of seconds, 0 or more"),
        ("drain_grace = 2026-01-01", "serve.drain_grace = 2026-01-01: expected a number of seconds"),
        ("drain_grace = [1]", "serve.drain_grace: expected a text or a number, not an array"),
        ("drain_grace.x = 1", "serve.drain_grace: expected a text or a number, not a table"),
        ("bind = [[1]]", "serve.bind: expected a text or a number, not an array"),
        ('bind = [":1", "x"]', "serve.bind = \"x\": 'x' lacks a port: expected 'host:port'"),
        ("bind = 70000", "serve.bind = 70000: "),
        ('log_level = "loud"', "serve.log_level = \"loud\": invalid choice: 'loud' (choose from"),
        ('json = "yes"', 'serve.json = "yes": expected true or false'),
        ("json = 1", "serve.json = 1: expected true or false"),
        ("max_conections = 1", "serve.max_conections: unknown key; did you mean max_connections?"),
        ("max-conections = 1", "serve.max-conections: unknown key; did you mean max_connections?"),
        ("xyzzy = 1", "serve.xyzzy: unknown key; there are "),
        ("reload = true", "serve.reload: --reload can be given as a flag only"),
        ('config = "x"', "serve.config: --config can be given as a flag only"),
        (
            "drain-grace = 1\ndrain_grace = 1",
            "serve.drain-grace: drain_grace is there, too, and means the same",
        ),
        ("[server]", "unknown table [server]; did you mean [serve]?"),
        ("[serve.bind]", "serve.bind: expected a text or a number, not a table"),
        ("[[serve]]", "serve = [{}]: expected a table, [serve]"),
        ("#\nserve = 1", "serve = 1: expected a table, [serve]"),
        ("#\nmax_connections = 1", "max_connections stands outside of the table [serve]"),
        ("#\nmax_conections = 1", "unknown key max_conections; did you mean max_connections?"),
        ("drain_grace =", "line 2, column 14: Invalid value"),
        ("drain_grace = 1\ndrain_grace = 2", "line 3, column 16: Cannot overwrite a value"),
        ('bind = ["x"', "line 2, column 12: Unclosed array"),
        pytest.param(
            "#\n[serve]\nworkers = 1" + 5000 * "0",
            "line 3, column 11: a number of more than 4300 digits",
            id="long number",
        ),
        pytest.param("bind = 0x1" + 5000 * "0", "serve.bind = 0x1000", id="long hexadecimal number"),
        ('access_log_file = ""', 'serve.access_log_file = "": expected the path of a file'),
        ('cert = ["a\\u0000"]', 'serve.cert = "a\\u0000": expected the path of a file'),
        ('log_level = "\\u0085\\u202e"', 'serve.log_level = "\\u0085\\u202e": invalid choice: '),
    ],
)
def test_a_mistake_in_the_file_is_one_line(check: Check, write: Write, text: str, problem: str) -> None:
    checked = check("--config", write(text))
    assert (checked.code, checked.output) == (2, "")
    assert len(checked.problems) == 1
    assert checked.problems[0].startswith(f"app.toml: {problem}")


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("MAX_CONNECTIONS", "x", "=x: expected a whole number of connections, 1 or more"),
        ("DRAIN_GRACE", "a\nb", "='a\\nb': expected a number of seconds, 0 or more"),
        ("BIND", ":1 x", "=:1 x: 'x' lacks a port"),
        ("JSON", "maybe", "=maybe: expected 1, true, yes or 0, false, no"),
        ("LOOP", "trio", "=trio: invalid choice: 'trio'"),
        ("MAX_CONECTIONS", "secret", ": unknown variable; did you mean AIONET_MAX_CONNECTIONS?"),
        ("BINDS", ":1", ": unknown variable; did you mean AIONET_BIND?"),
        ("ENGIN", "native", ": unknown variable; did you mean AIONET_ENGINE?"),
        ("CONFIGS", "x", ": unknown variable; did you mean AIONET_CONFIG?"),
        ("RELOAD", "1", ": --reload can be given as a flag only"),
    ],
)
def test_a_mistake_in_the_environment_is_one_line(
    check: Check, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, problem: str
) -> None:
    monkeypatch.setenv(f"AIONET_{variable}", text)
    checked = check()
    assert (checked.code, checked.output) == (2, "")
    assert len(checked.problems) == 1
    assert checked.problems[0].startswith(f"AIONET_{variable}{problem}")
    assert "secret" not in checked.problems[0]


def test_variables_of_others_are_let_be(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIONET_CHAOS_SEED", "AIONET_PURE_PYTHON", "AIONET_APP_TOKEN", "AIONETS_BINDS", "BINDS"):
        monkeypatch.setenv(name, "1")
    assert "bind" in check().values


NASTY = [
    '""',
    "0x" + 5000 * "f",
    f'"{5000 * "9"}"',
    "-1",
    "1e400",
    "1979-05-27",
    '[""]',
    '"a\\u0000b"',
    '"\\u0085\\u2028\\n"',
    '"٣"',
    '"unix:"',
    '"systemd:\\n"',
    '"[::1%\\u0000]:1"',
    "[[]]",
]


@pytest.mark.parametrize("value", NASTY, ids=range(len(NASTY)))
def test_no_value_of_any_option_raises(capsys: pytest.CaptureFixture[str], write: Write, value: str) -> None:
    """Each is accepted, or one line is about it."""
    assert main(["serve", "aionet.cli.echo:echo", "--check"]) == 0
    names = [line.lstrip("# ").split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(names) > 30
    for name in names:
        code = main(["serve", "aionet.cli.echo:echo", "--check", "--config", str(write(f"{name} = {value}"))])
        output, errors = capsys.readouterr()
        assert (code, bool(output), errors.count("\n")) in ((0, True, 0), (2, False, 1)), name
        assert "invalid " not in errors.replace("invalid choice", ""), name  # which is argparse's last resort


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing.toml", "cannot read missing.toml: No such file or directory"),
        (".", "cannot read .: Is a directory"),
        ("binary.toml", "binary.toml: line 2: this is not UTF-8"),
        ("deep.toml", "deep.toml: nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(check: Check, place: Path, name: str, problem: str) -> None:
    (place / "binary.toml").write_bytes(b"[serve]\nbind = '\xff'\n")
    (place / "deep.toml").write_text("x = " + 100_000 * "[")
    assert check("--config", name).problems == [problem]


def test_all_mistakes_of_all_layers_are_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("drain_grace = -1\nxyzzy = 1")
    words = ("--config", "app.toml", "--bind", "x", "--max-connections", 0, "--drain-grace", 1)
    for checking in ([], ["--check"]):
        done = aionet("serve", "app:nothing", *words, *checking, env={"AIONET_JSON": "maybe"})
        assert (done.returncode, done.stdout) == (2, b"")
        lines = done.stderr.decode().splitlines()
        assert lines[:2] == [
            "aionet: argument --bind: 'x' lacks a port: expected 'host:port', '[ipv6]:port' or ':port'",
            "aionet: argument --max-connections: '0': expected a whole number of connections, 1 or more,"
            " or off",
        ]
        assert lines[2].startswith("aionet: AIONET_JSON=maybe: ")
        assert lines[3] == "aionet: app.toml: serve.drain_grace = -1: expected a number of seconds, 0 or more"
        assert lines[4].startswith("aionet: app.toml: serve.xyzzy: unknown key")
        handler = ["aionet: app:nothing: module 'app' has no attribute 'nothing'"]
        assert lines[5:] == (handler if checking else [])


# --check ------------------------------------------------------------------------------------------------


def test_what_is_printed_can_be_given_again(write: Write, place: Path) -> None:
    write('handler = "app:upper"\nbind = [":0", "unix:/tmp/a \\"b\\""]\nmax_connections = 7')
    first = aionet(
        "serve", "--config", "app.toml", "--check", "--log-level", "debug", env={"AIONET_DRAIN_GRACE": "1.5"}
    )
    assert (first.returncode, first.stderr) == (0, b"")
    (place / "again.toml").write_bytes(first.stdout)
    second = aionet("serve", "--config", "again.toml", "--check")
    assert (second.returncode, second.stderr) == (0, b"")
    assert tomllib.loads(first.stdout.decode()) == tomllib.loads(second.stdout.decode())
    lines = first.stdout.decode().splitlines()
    assert lines[:4] == [
        "[serve]",
        'handler = "app:upper"  # app.toml',
        'bind = [":0", "unix:/tmp/a \\"b\\""]  # app.toml',
        "drain_grace = 1.5  # AIONET_DRAIN_GRACE",
    ]
    assert 'log_level = "debug"  # --log-level' in lines
    assert "max_connections = 7  # app.toml" in lines
    assert b"# max_per_peer is not set" in aionet("echo", "--check").stdout


def test_nothing_is_bound(place: Path) -> None:
    assert aionet("serve", "app:upper", "--bind", f"unix:{place}/sock", "--check").returncode == 0
    assert not (place / "sock").exists()


@pytest.mark.parametrize(
    ("source", "handler", "problem"),
    [
        (APP, "app:lower", "aionet: app:lower: module 'app' has no attribute 'lower'"),
        (APP, "nowhere:upper", "aionet: there is no module 'nowhere'"),
        ("number = 7", "app:number", "aionet: app:number is not callable, but 7"),
        ("def f(socket): pass", "app:f", "aionet: app:f is not a coroutine function"),
        ("1 / 0", "app:f", "aionet: importing app failed, as shown above"),
        (APP, "app", "aionet: AIONET_HANDLER=app: expected module:handler, as in 'app:handler'"),
        (
            APP,
            "",
            "aionet: module:handler is missing: give it as an argument, as AIONET_HANDLER, or as handler",
        ),
    ],
)
def test_a_handler_that_cannot_be_had(place: Path, source: str, handler: str, problem: str) -> None:
    (place / "app.py").write_text(source)
    done = aionet("serve", "--check", env={"AIONET_HANDLER": handler})
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines()[-1].startswith(problem)
    assert (b"ZeroDivisionError" in done.stderr) == (source == "1 / 0")


def test_limits_that_do_not_go_together(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**limits: object) -> None:
        raise ValueError("these do not go together")

    monkeypatch.setattr(arguments, "ConnectionLimits", refuse)
    monkeypatch.setattr(arguments, "_limits", list)
    checked = check()
    assert (checked.code, checked.problems) == (2, ["these do not go together"])


def test_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    done = aionet("serve", "--config", "deploy/aionet.toml", "--check")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (
        tomllib.loads(done.stdout.decode())["serve"].items()
        >= tomllib.loads(EXAMPLE.read_text())["serve"].items()
    )


def test_the_guide(place: Path) -> None:
    guide = GUIDE.read_text().partition("## Configuration\n")[2]
    (place / "app.toml").write_text(guide.partition("```toml\n")[2].partition("```")[0])
    (place / "app.py").write_text(APP.replace("upper", "handler", 1))
    command, *printed = guide.partition("```console\n$ ")[2].partition("```")[0].splitlines()
    variable, _, *words = command.split()
    done = aionet(*words, env=dict([variable.split("=")]))
    assert set(printed) <= set(done.stdout.decode().splitlines())


# Serving ------------------------------------------------------------------------------------------------


def test_a_server_from_a_file_alone(write: Write, place: Path) -> None:
    write(f'handler = "app:upper"\nbind = ["127.0.0.1:0", "unix:{place}/sock"]\njson = true')
    with AionetServer("serve", "--config", "app.toml") as server:
        assert server.addresses[1] == f"unix:{place}/sock"
        for address in server.addresses:
            with connect_raw(address) as sock:
                sock.sendall(b"data")
                assert receive_exactly(sock, 4) == b"DATA"
        server.signal()
        assert server.ended()[0] == 0


def test_options_stand_on_either_side_of_the_handler(check: Check) -> None:
    for words in (["--json", "app:upper", "--bind", ":1"], ["--bind", ":1", "--json", "app:upper"]):
        done = aionet("serve", *words, "--check")
        assert json.loads(done.stdout)["handler"] == {"value": "app:upper", "source": "command line"}


# Limits -------------------------------------------------------------------------------------------------


def test_every_limit_has_an_option() -> None:
    assert {field.name for field in dataclasses.fields(ConnectionLimits)} <= set(arguments._LIMITS)


def test_the_limits_are_those_of_the_options() -> None:
    parser = argparse.ArgumentParser()
    arguments.add_server_arguments(parser, OF_RELAYS)
    assert limits_from(parser.parse_args(["--no-limits"])) == ConnectionLimits()
    assert limits_from(parser.parse_args(["--max-connections", "3"])) == ConnectionLimits(max_connections=3)
    found = limits_from(parser.parse_args([]))
    assert found == ConnectionLimits(max_connections=found.max_connections, on_full="evict_idle")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllLimits:
    max_connections: int | None = None
    on_full: str = "pause"
    max_per_peer: int | None = None
    accept_rate: float | None = None
    handshake_timeout: float | None = 10.0
    idle_timeout: float | None = None
    read_stall_timeout: float | None = None
    write_stall_timeout: float | None = None
    handler_timeout: float | None = None
    max_pending_bytes: int | None = None
    on_peer_gone: str = "ignore"


def test_an_option_for_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "ConnectionLimits", AllLimits)
    parser = argparse.ArgumentParser()
    arguments.add_server_arguments(parser, OF_HANDLERS)
    words = (
        "--max-connections 1 --on-full evict_idle --max-per-peer 2 --accept-rate 0.5 --handshake-timeout 1"
        " --idle-timeout 2 --read-stall-timeout 3 --write-stall-timeout 4 --handler-timeout 5"
        " --max-pending-bytes 64MiB --on-peer-gone cancel"
    )
    expected = AllLimits(
        max_connections=1,
        on_full="evict_idle",
        max_per_peer=2,
        accept_rate=0.5,
        handshake_timeout=1,
        idle_timeout=2,
        read_stall_timeout=3,
        write_stall_timeout=4,
        handler_timeout=5,
        max_pending_bytes=64 << 20,
        on_peer_gone="cancel",
    )
    assert limits_from(parser.parse_args(words.split())) == expected
    assert limits_from(parser.parse_args(["--no-limits"])) == AllLimits()
    assert "(default: 10.0)" in parser.format_help()


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("10k", 10_000), ("10kB", 10_000), ("64MiB", 64 << 20), ("2 gib", 2 << 30), ("3G", 3 * 10**9)],
)
def test_a_number_of_bytes(text: str, number: int) -> None:
    assert byte_count(text) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5k", "k", "1x", "1 2", "٣"])
def test_what_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match="expected a number of bytes, 1 or more, as in 10k or"
    ):
        byte_count(text)


@pytest.mark.parametrize("text", ["0", "-1", "inf", "often"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number per second, more than 0"):
        per_second(text)
