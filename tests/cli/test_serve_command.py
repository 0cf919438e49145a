"""``aionet serve`` and ``aionet echo``: loading, binding, draining, and what is said of mistakes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import (
    PATIENCE,
    AionetServer,
    aionet,
    aionet_here,
    command,
    connect_raw,
    environment,
    receive_exactly,
    receive_to_end,
)
from helpers import require_program

LOCAL = "127.0.0.1:0"

APP = '''\
"""A user's module."""

import asyncio
import sys
from functools import partial


async def upper(socket):
    async for chunk in socket:
        await socket.write(chunk.upper())


async def loop_name(socket):
    await socket.write(type(asyncio.get_running_loop()).__module__.encode())


async def stubborn(socket):
    await socket.write(b"x")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


async def broken(socket):
    raise LookupError("a bug of the user's")


async def prefixed(prefix, socket):
    await socket.write(prefix)


class Service:
    async def greet(self, socket):
        await socket.write(b"greetings")

    async def __call__(self, socket):
        await socket.write(b"called")


service = Service()
hello = partial(prefixed, b"hello")
number = 7


def not_async(socket):
    pass


async def two(socket, other):
    pass


async def generator(socket):
    yield 1
'''


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A current directory with ``app.py`` and ``package/inner.py`` in it."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "inner.py").write_text(APP)
    return tmp_path


def reply(address: str, data: bytes = b"") -> bytes:
    with connect_raw(address) as sock:
        if data:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        return receive_to_end(sock)


# Serving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app:upper", b"DATA"),
        ("package.inner:upper", b"DATA"),
        ("app:service.greet", b"greetings"),
        ("app:service", b"called"),
        ("app:hello", b"hello"),
    ],
)
def test_a_handler_from_the_current_directory(directory: Path, name: str, expected: bytes) -> None:
    with AionetServer("serve", name, "--bind", LOCAL, cwd=directory) as server:
        assert reply(server.address, b"data" if expected == b"DATA" else b"") == expected
        server.signal()
        code, output, errors = server.ended()
    assert (code, errors) == (0, "")
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events] == ["draining", "drained"]


def test_the_installed_program_finds_the_current_directory_too(directory: Path) -> None:
    """A console script has its own directory as ``sys.path[0]``, not the current one."""
    script = directory / "bin" / "aionet"
    script.parent.mkdir()
    script.write_text("import sys; from aionet.cli.main import main; sys.exit(main())")
    done = subprocess.run(
        [sys.executable, script, "serve", "app:number"],
        cwd=directory,
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
    )
    assert done.stderr.decode().startswith("aionet: app:number is not callable")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_loop_that_was_asked_for(directory: Path, loop: str) -> None:
    with AionetServer("serve", "app:loop_name", "--bind", LOCAL, "--loop", loop, cwd=directory) as server:
        assert reply(server.address).decode().partition(".")[0] == loop


def test_several_addresses_of_several_kinds(directory: Path) -> None:
    binds = [LOCAL, ":0", f"unix:{directory}/sock"]
    arguments = [word for bind in binds for word in ("--bind", bind)]
    with AionetServer("serve", "app:upper", *arguments, cwd=directory) as server:
        assert server.addresses[0].startswith("127.0.0.1:")
        assert server.addresses[1].startswith("0.0.0.0:")
        assert server.addresses[-1] == binds[-1]
        for address in server.addresses:
            assert reply(address.replace("0.0.0.0", "127.0.0.1"), b"x") == b"X"
        server.signal()
        assert server.ended()[0] == 0
    assert not (directory / "sock").exists()


def test_the_default_address() -> None:
    help_text = aionet("serve", "--help").stdout.decode()
    assert "(default: 127.0.0.1:3000)" in help_text


def test_echo_for_people() -> None:
    """Without --json everything is on standard error."""
    with AionetServer("echo", "--bind", LOCAL, as_json=False) as server:
        assert reply(server.address, b"abc") == b"abc"
        server.signal(signal.SIGINT)
        code, output, errors = server.ended()
    assert (code, output) == (0, "")
    lines = errors.splitlines()
    assert lines[0] == "draining 0 connections for up to 30 s; another signal ends that"
    assert lines[1].startswith("drained: 0 finished, 0 cancelled, 0 aborted in 0.")


@pytest.mark.parametrize("program", ["nc", "socat"])
def test_echo_for_programs(program: str) -> None:
    path = require_program(program)
    data = bytes(range(256)) * 4096
    with AionetServer("echo", "--bind", LOCAL) as server:
        host, _, port = server.address.partition(":")
        client = [path, "-N", host, port] if program == "nc" else [path, "-t10", "-", f"TCP:{server.address}"]
        done = subprocess.run(client, input=data, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, data)


# Draining -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_handlers_finish(directory: Path, number: signal.Signals) -> None:
    with AionetServer("serve", "app:upper", "--bind", LOCAL, cwd=directory) as server:
        with connect_raw(server.address) as sock:
            sock.sendall(b"before")
            assert receive_exactly(sock, 6) == b"BEFORE"
            server.signal(number)
            assert server.next_event() == {"event": "draining", "connections": 1, "grace": 30.0}
            sock.sendall(b"after")
            assert receive_exactly(sock, 5) == b"AFTER"
            sock.shutdown(socket.SHUT_WR)
            assert receive_to_end(sock) == b""
        report = server.next_event()
        assert 0 <= report.pop("seconds") < 10
        counts = {"finished": 1, "cancelled": 0, "aborted": 0, "closing": 0}
        assert report == {"event": "drained", **counts, "stragglers": []}
        assert server.ended() == (0, "", "")


def test_the_grace_is_what_was_asked_for(directory: Path) -> None:
    with (
        AionetServer("serve", "app:upper", "--bind", LOCAL, "--drain-grace", 0.1, cwd=directory) as server,
        connect_raw(server.address) as sock,
    ):
        sock.sendall(b"x")
        assert receive_exactly(sock, 1) == b"X"
        server.signal()
        code, output, _ = server.ended()
    assert code == 0
    report = json.loads(output.splitlines()[-1])
    assert (report["finished"], report["cancelled"], report["aborted"]) == (0, 1, 0)
    assert 0.1 <= report["seconds"] < 2


def test_a_second_signal_ends_the_grace(directory: Path) -> None:
    with (
        AionetServer("serve", "app:upper", "--bind", LOCAL, cwd=directory) as server,
        connect_raw(server.address) as sock,
    ):
        sock.sendall(b"x")
        assert receive_exactly(sock, 1) == b"X"
        server.signal(signal.SIGTERM)
        assert server.next_event()["grace"] == 30
        server.signal(signal.SIGINT)
        assert server.next_event()["grace"] == 0
        report = server.next_event()
        assert (report["event"], report["cancelled"]) == ("drained", 1)
        assert server.ended()[0] == 0


def test_a_handler_that_does_not_end_is_aborted(directory: Path) -> None:
    with (
        AionetServer("serve", "app:stubborn", "--bind", LOCAL, "--drain-grace", 0, cwd=directory) as server,
        connect_raw(server.address) as sock,
    ):
        assert receive_exactly(sock, 1) == b"x"
        server.signal()
        assert server.next_event()["event"] == "draining"
        report = server.next_event()
        assert (report["event"], report["aborted"]) == ("drained", 1)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        code, _, errors = server.ended()
    assert code == 0
    assert "in stubborn\n    await asyncio.sleep(3600)\n" in errors  # where it was
    assert errors.endswith("1 handlers ignored their cancellation and are left behind\n")


def test_max_connections() -> None:
    with (
        AionetServer("echo", "--bind", LOCAL, "--max-connections", 1) as server,
        connect_raw(server.address) as first,
        connect_raw(server.address) as second,
    ):
        first.sendall(b"1")
        assert receive_exactly(first, 1) == b"1"
        second.sendall(b"2")
        second.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.recv(1)
        second.settimeout(PATIENCE)
        first.close()
        assert receive_exactly(second, 1) == b"2"


def test_a_handler_that_fails_is_logged_and_the_server_goes_on(directory: Path) -> None:
    with AionetServer("serve", "app:broken", "--bind", LOCAL, cwd=directory) as server:
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                reply(server.address)
        server.signal()
        code, _, errors = server.ended()
    assert code == 0
    assert errors.count("LookupError: a bug of the user's") == 2
    assert errors.count("ERROR aionet.server: handler for 127.0.0.1:") == 2


def test_the_log_level(directory: Path) -> None:
    arguments = ("serve", "app:broken", "--bind", LOCAL, "--log-level", "critical")
    with AionetServer(*arguments, cwd=directory) as server:
        with pytest.raises(ConnectionResetError):
            reply(server.address)
        server.signal()
        assert server.ended()[2] == ""


def test_a_handler_that_fails_may_end_its_connection_cleanly(directory: Path) -> None:
    arguments = ("serve", "app:broken", "--bind", LOCAL, "--on-unfinished", "close")
    with AionetServer(*arguments, cwd=directory) as server:
        assert reply(server.address) == b""


def test_a_reader_of_events_that_leaves_does_not_end_the_server() -> None:
    with AionetServer("echo", "--bind", LOCAL) as server:
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.process.stdout = None
        assert reply(server.address, b"still there") == b"still there"
        server.signal()
        code, _, errors = server.ended()
    assert code == 0
    assert "Traceback" not in errors
    assert "drained: " in errors


# Mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:handler", "there is no module 'nowhere'"),
        ("package.nowhere:handler", "there is no module 'package.nowhere'"),
        ("nowhere.inner:handler", "there is no module 'nowhere'"),
        ("app.py:upper", "a module is named without .py: app:upper"),
        ("app:nothing", "app:nothing: module 'app' has no attribute 'nothing'"),
        ("app:service.nothing", "has no attribute 'nothing'"),
        ("app:number", "app:number is not callable, but 7"),
        ("app:not_async", "app:not_async is not a coroutine function: expected `async def handler(socket)`"),
        ("app:Service", "app:Service is not a coroutine function"),
        ("app:generator", "app:generator is not a coroutine function"),
        ("app:two", "app:two does not take one argument (missing a required argument: 'other')"),
    ],
)
def test_a_handler_that_cannot_be_is_one_line(directory: Path, name: str, message: str) -> None:
    done = aionet("serve", name, "--bind", LOCAL, cwd=directory)
    assert (done.returncode, done.stdout) == (1, b"")
    errors = done.stderr.decode()
    assert errors.startswith("aionet: ")
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import json\nimport no_such_dependency\n", "ModuleNotFoundError: No module named 'no_such_dep"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def broken(:\n", "SyntaxError: "),
    ],
)
def test_an_error_in_the_users_module_shows_their_traceback(
    tmp_path: Path, source: str, expected: str
) -> None:
    (tmp_path / "bad.py").write_text(source)
    done = aionet("serve", "bad:handler", "--bind", LOCAL, cwd=tmp_path)
    assert done.returncode == 1
    errors = done.stderr.decode()
    assert expected in errors
    assert "bad.py" in errors
    assert "aionet/cli" not in errors
    assert "importlib" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve"], "module:handler"),
        (["serve", "app"], "argument module:handler: 'app': expected module:handler, as in 'app:handler'"),
        (["serve", "app:"], "'app:': expected module:handler"),
        (["serve", ":handler"], "':handler': expected module:handler"),
        (["serve", "app.py:handler()"], "expected module:handler"),
        (["serve", "./app.py:handler"], "a module is named without .py: app:handler"),
        (["serve", "package/app.py:a.b"], "a module is named without .py: package.app:a.b"),
        (["serve", "package/app.py"], "a module is named without .py: package.app:handler"),
        (["serve", "../app.py:handler"], "expected module:handler, as in 'app:handler'\n"),
        (
            ["echo", "--bind", "http://127.0.0.1:80"],
            "'http://127.0.0.1:80' is a URL: expected its host and port",
        ),
        (["echo", "--bind", "nonsense"], "argument --bind: 'nonsense' lacks a port"),
        (["echo", "--bind", "1.2.3.4.5:80"], "argument --bind: '1.2.3.4.5' is no host"),
        (["echo", "--bind", "127.0.0.1:99999"], "expected a port in 0..65535, got '99999'"),
        (["echo", "--bind", "unix:"], "'unix:' lacks a path"),
        (["echo", "--bind", "unix:/" + 200 * "x"], "expected at most 107"),
        (["echo", "--drain-grace", "soon"], "'soon': expected a number of seconds, 0 or more"),
        (["echo", "--drain-grace", "-1"], "'-1': expected a number of seconds, 0 or more"),
        (["echo", "--drain-grace", "inf"], "'inf': expected a number of seconds, 0 or more"),
        (["echo", "--max-connections", "0"], "'0': expected a whole number of connections, 1 or more"),
        (["echo", "--max-connections", "few"], "'few': expected a whole number of connections"),
        (["echo", "--loop", "trio"], "invalid choice: 'trio'"),
        (["echo", "--log-level", "loud"], "invalid choice: 'loud'"),
        (["echo", "surplus"], "unrecognized arguments: surplus"),
    ],
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    done = aionet_here(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_missing_uvloop_is_told(tmp_path: Path) -> None:
    """A directory that hides uvloop: ``sys.modules['uvloop'] = None`` before the command line starts."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'uvloop' else find(name, *rest)\n"
    )
    done = subprocess.run(
        command("echo", "--loop", "uvloop"),
        capture_output=True,
        timeout=PATIENCE,
        env=environment(PYTHONPATH=f"{tmp_path}:{environment()['PYTHONPATH']}"),
    )
    assert done.returncode == 2
    assert b"uvloop is not installed; try: pip install 'aionet-toolkit[uvloop]'" in done.stderr


def test_an_address_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = aionet("echo", "--bind", LOCAL, "--bind", address)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"aionet: cannot listen on {address}: Address already in use\n"


def test_a_unix_address_in_use_is_one_line(tmp_path: Path) -> None:
    with AionetServer("echo", "--bind", f"unix:{tmp_path}/sock") as server:
        done = aionet("echo", "--bind", server.address)
        assert done.returncode == 1
        assert done.stderr.decode().startswith(f"aionet: cannot listen on {server.address}: ")
        assert reply(server.address, b"mine") == b"mine"


def test_an_address_of_another_machine_is_one_line() -> None:
    done = aionet("echo", "--bind", "192.0.2.1:3000")
    assert done.returncode == 1
    assert (
        done.stderr.decode() == "aionet: cannot listen on 192.0.2.1:3000: Cannot assign requested address\n"
    )


def test_a_directory_that_is_gone_is_one_line(tmp_path: Path) -> None:
    shell = require_program("sh")
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd {gone} && rmdir {gone} && exec "$@"'
    done = subprocess.run(
        [shell, "-c", script, "sh", *command("serve", "app:handler")],
        capture_output=True,
        timeout=PATIENCE,
        env=environment(),
    )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["aionet: the current directory is gone"]
