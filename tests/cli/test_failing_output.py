"""What a server says cannot be written: it serves, drains and exits as if it could."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    PATIENCE,
    AionetServer,
    command,
    connect_raw,
    environment,
    receive_exactly,
    receive_to_end,
)
from helpers import require_program, until

LOCAL = "127.0.0.1:0"

APP = """\
import asyncio


async def echo(socket):
    async for chunk in socket:
        await socket.write(chunk)


async def broken(socket):
    await socket.read()
    raise LookupError("a bug of the user's")


async def stubborn(socket):
    await socket.write(b"x")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""

SERVERS = {
    "echo": ("echo", "--bind"),
    "serve": ("serve", "app:echo", "--bind"),
    "workers": ("serve", "app:echo", "--workers", 2, "--bind"),
    "reload": ("serve", "app:echo", "--reload", "--bind"),
    "relay": ("relay",),
}
OFTEN = ("echo", "relay")
"""What is left of `SERVERS` is for the long tests: it takes several processes, or is much the same."""


def each_server(*kinds: str) -> list[Any]:
    """Parameters: the name of each server with each of `kinds`."""
    return [
        pytest.param(name, kind, marks=[] if name in OFTEN else pytest.mark.slow)
        for name in SERVERS
        for kind in kinds
    ]


OUTPUTS = [*each_server("full", "without a reader"), ("echo", "closed")]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@contextlib.contextmanager
def unwritable(kind: str) -> Iterator[int]:
    """A descriptor that cannot be written: of a full disk, or a pipe whose reader has ended."""
    if kind == "without a reader":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    try:
        yield writing
    finally:
        os.close(writing)


def without(number: int, kind: str) -> list[str]:
    """What comes before a command so that it has no descriptor `number`, where `kind` asks for that."""
    return [require_program("sh"), "-c", f'exec "$@" {number}>&-', "sh"] if kind == "closed" else []


@contextlib.contextmanager
def started(name: str, directory: Path, *more: object, **options: Any) -> Iterator[AionetServer]:
    """One of `SERVERS`, once it can be connected to: what it says is not read."""
    with contextlib.ExitStack() as stack:
        address = f"unix:{directory}/socket"
        arguments: list[object] = [*SERVERS[name], address, *more]
        if name == "relay":
            arguments.append(stack.enter_context(AionetServer("echo", "--bind", LOCAL)).address)
        server = AionetServer(*arguments, cwd=directory, **options)
        stack.callback(server.__exit__, None, None, None)
        server.addresses = [address]
        asyncio.run(until(lambda: not refuses(address), PATIENCE))
        yield server


def drains_and_ends_well(server: AionetServer) -> None:
    """A connection that is open at the first signal is served until its peer has finished."""
    with connect_raw(server.address) as sock:
        sock.sendall(b"before")
        assert receive_exactly(sock, 6) == b"before"
        server.signal()
        asyncio.run(until(lambda: refuses(server.address), PATIENCE))
        sock.sendall(b"during")
        assert receive_exactly(sock, 6) == b"during"
        sock.shutdown(socket.SHUT_WR)
        assert receive_to_end(sock) == b""
    assert server.process.wait(PATIENCE) == 0


def refuses(address: str) -> bool:
    try:
        connect_raw(address).close()
    except (ConnectionError, FileNotFoundError):  # a Unix server's file goes with it
        return True
    return False


@pytest.mark.parametrize(("name", "kind"), OUTPUTS)
def test_a_standard_error_that_cannot_be_written(directory: Path, name: str, kind: str) -> None:
    with (
        unwritable(kind) as output,
        started(name, directory, as_json=False, stderr=output, prefix=without(2, kind)) as server,
    ):
        drains_and_ends_well(server)


@pytest.mark.parametrize(("name", "kind"), OUTPUTS)
def test_a_standard_output_that_cannot_be_written(directory: Path, name: str, kind: str) -> None:
    """Events are lost. Where their reader has gone, or there is none, people read instead what happens."""
    with (
        unwritable(kind) as output,
        started(name, directory, stdout=output, prefix=without(1, kind)) as server,
    ):
        drains_and_ends_well(server)
        errors = server.ended()[2]
    assert "Traceback" not in errors
    if kind == "full":
        line = "aionet: cannot write events to standard output: No space left on device"
        assert errors.splitlines().count(line) == 1
    else:
        assert "drained: " in errors


@pytest.mark.parametrize("more", [(), ("--workers", 2)], ids=["alone", "workers"])
def test_handlers_that_fail_and_cannot_be_reported(directory: Path, more: tuple[object, ...]) -> None:
    arguments = ("serve", "app:broken", "--bind", LOCAL, *more)
    with unwritable("full") as output, AionetServer(*arguments, cwd=directory, stderr=output) as server:
        for _ in range(3):
            with connect_raw(server.address) as sock:
                sock.sendall(b"?")
                with pytest.raises(ConnectionResetError):
                    receive_to_end(sock)
        server.signal()
        assert server.ended()[0] == 0


def test_a_handler_that_is_left_behind_while_nothing_can_be_printed(directory: Path) -> None:
    arguments = ("serve", "app:stubborn", "--bind", LOCAL, "--drain-grace", 0)
    with (
        unwritable("without a reader") as output,
        AionetServer(*arguments, cwd=directory, stderr=output) as server,
        connect_raw(server.address) as sock,
    ):
        assert receive_exactly(sock, 1) == b"x"
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.process.stdout = None
        server.signal()
        assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(("name", "audience"), each_server("people", "programs"))
def test_control_c_ends_the_reader_of_the_log_too(directory: Path, name: str, audience: str) -> None:
    """``aionet echo 2>&1 | tee log``: tee ends first, and the connection is served to its end."""
    require_program("tee")
    address = f"unix:{directory}/socket"
    keyboard, terminal = pty.openpty()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, keyboard)
        stack.callback(os.close, terminal)
        arguments: list[object] = [*SERVERS[name], address]
        if name == "relay":
            arguments.append(stack.enter_context(AionetServer("echo", "--bind", LOCAL)).address)
        if audience == "programs":
            arguments.append("--json")
        words = shlex.join(command(*arguments))
        shell = subprocess.Popen(
            [require_program("sh"), "-c", f"{{ trap : INT; {words}; echo $? >code; }} 2>&1 | tee log"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=directory,
            env=environment(),
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # it becomes the session's
        )
        stack.callback(end_group, shell)
        asyncio.run(until(lambda: not refuses(address), PATIENCE))
        with connect_raw(address) as sock:
            sock.sendall(b"before")
            assert receive_exactly(sock, 6) == b"before"
            os.write(keyboard, b"\x03")
            asyncio.run(until(lambda: refuses(address), PATIENCE))
            sock.sendall(b"during")
            assert receive_exactly(sock, 6) == b"during"
        code = directory / "code"
        asyncio.run(until(lambda: code.exists() and code.read_text(), PATIENCE))
        assert code.read_text() == "0\n"


def end_group(shell: subprocess.Popen[bytes]) -> None:
    """End what a shell has started, should it still be there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()


HOSTILE = """\
import asyncio
import logging


class Raising(logging.Handler):
    def emit(self, record):
        raise LookupError("a bug of the log's")


logging.getLogger().addHandler(Raising())


def raise_in_callback():
    raise LookupError("a bug of the callback's")


async def handler(socket):
    asyncio.get_running_loop().call_soon(raise_in_callback)
    await asyncio.sleep(0)
    await socket.write(b"x")
    await socket.read()
    raise LookupError("a bug of the handler's")
"""


@pytest.mark.parametrize("more", [(), ("--loop", "asyncio"), ("--loop", "uvloop"), ("--workers", 2)])
def test_a_log_that_raises(tmp_path: Path, more: tuple[object, ...]) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    with AionetServer("serve", "hostile:handler", "--bind", LOCAL, *more, cwd=tmp_path) as server:
        for _ in range(3):
            with connect_raw(server.address) as sock:
                assert receive_exactly(sock, 1) == b"x"
                sock.sendall(b"?")
                with pytest.raises(ConnectionResetError):
                    receive_to_end(sock)
        server.signal()
        code, _, errors = server.ended()
    assert code == 0
    lost = [line.partition(":")[0] for line in errors.splitlines() if "a bug of the log's" in line]
    assert {"asyncio", "aionet.server"} <= set(lost)
    if not more:  # of several workers each says it once
        assert len(lost) == len(set(lost)) == len(errors.splitlines())


# The access log -----------------------------------------------------------------------------------------


def serve_three(server: AionetServer) -> str:
    """Serve three connections, and end; what was said."""
    for _ in range(3):
        with connect_raw(server.address) as sock:
            sock.shutdown(socket.SHUT_WR)
            assert receive_to_end(sock) == b""
    server.signal()
    code, _, errors = server.ended()
    assert code == 0
    return errors


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_access_log_on_a_full_disk_is_one_line(format: str) -> None:
    arguments = ("--access-log", format, "--access-log-file", "/dev/full")
    with AionetServer("echo", "--bind", LOCAL, *arguments) as server:
        errors = serve_three(server)
    assert errors == "aionet: cannot write the access log to /dev/full: No space left on device\n"


def test_an_access_log_that_cannot_be_opened_again_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "access.log"
    with AionetServer("echo", "--bind", LOCAL, "--access-log-file", log) as server:
        (tmp_path / "logs").rename(tmp_path / "old")
        errors = serve_three(server)
    assert errors == f"aionet: cannot write the access log to {log}: No such file or directory\n"


def test_an_access_log_on_a_standard_error_that_cannot_be_written() -> None:
    with (
        unwritable("full") as output,
        AionetServer("echo", "--bind", LOCAL, "--access-log", "json", stderr=output) as server,
    ):
        assert serve_three(server) == ""


# Commands that end by themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("info",), ("echo", "--check"), ("--help",), ("echo", "--help")])
def test_an_output_that_cannot_be_written_is_one_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*arguments), stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=PATIENCE
        )
    assert done.returncode == 1
    assert done.stderr == b"aionet: cannot write standard output: No space left on device\n"


@pytest.mark.parametrize(("arguments", "code"), [(("connect", "127.0.0.1:1"), 1), (("echo", "--lop"), 2)])
def test_a_mistake_that_cannot_be_printed_has_its_exit_code(arguments: tuple[str, ...], code: int) -> None:
    with unwritable("full") as output:
        done = subprocess.run(
            command(*arguments), stdout=subprocess.PIPE, stderr=output, env=environment(), timeout=PATIENCE
        )
    assert (done.returncode, done.stdout) == (code, b"")


def test_a_module_that_fails_and_cannot_be_shown(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0\n")
    with unwritable("full") as output:
        arguments = command("serve", "bad:handler", "--bind", LOCAL)
        done = subprocess.run(arguments, stderr=output, env=environment(), timeout=PATIENCE, cwd=tmp_path)
    assert done.returncode == 1
