"""`serve`: signals, threads, and the end of the process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import begin, give_turns, until

import aionet
from aionet.process_signals import on_signals

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(aionet.__file__).parent.parent)}

LOOPS = ["asyncio", "uvloop"]

PROGRAM = """
import asyncio, signal, sys
import aionet

if sys.argv[1] == "uvloop":
    import uvloop
    new_loop = uvloop.new_event_loop
else:
    new_loop = asyncio.SelectorEventLoop

async def handler(sock):
    request = await sock.read_line()
    if request == b"interrupt\\n":
        raise KeyboardInterrupt
    if request == b"exit\\n":
        raise SystemExit(3)
    if request == b"wait\\n":
        await asyncio.Event().wait()
    await sock.write(b"began\\n")
    await asyncio.sleep(0.2)
    await sock.write(bytes(4 << 20) + b"end")

async def main(grace):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    print(server.address.port, flush=True)
    report = await aionet.serve(handler, server, drain_grace=grace)
    print(report.finished, report.cancelled, report.aborted, flush=True)
    print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before, flush=True)

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main(float(sys.argv[2])))
"""


class Program:
    """The program above in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stdout is not None
        self._port = int(process.stdout.readline())

    def ask(self, request: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        try:
            client.sendall(request + b"\n")
        except OSError:
            client.close()
            raise
        return client

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, list[str], str]:
        """Wait for the end; return the exit code, what it printed and its complaints."""
        out, err = self._process.communicate(timeout=20)
        return self._process.returncode, out.decode().splitlines(), err.decode()


@contextmanager
def running(loop: str, grace: float) -> Iterator[Program]:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), loop, str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        try:
            yield Program(process)
        finally:
            if process.poll() is None:
                process.kill()


def until_refused(program: Program) -> None:
    with suppress(ConnectionError):  # reset where it was about to be accepted
        while True:
            program.ask(b"nothing").close()


def receive_all(client: socket.socket) -> bytes:
    received = bytearray()
    with client:
        while data := client.recv(1 << 20):
            received += data
    return bytes(received)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_no_reply_is_cut_short(loop: str, number: signal.Signals) -> None:
    with running(loop, 20.0) as program:
        clients = [program.ask(b"reply") for _ in range(10)]
        for client in clients:
            assert client.recv(6) == b"began\n"
        program.signal(number)
        replies = [receive_all(client) for client in clients]
        assert program.end() == (0, ["10 0 0", "True"], "")
    assert replies == [bytes(4 << 20) + b"end"] * 10


@pytest.mark.parametrize("loop", LOOPS)
def test_a_second_signal_ends_the_grace(loop: str) -> None:
    with running(loop, 3600.0) as program:
        client = program.ask(b"wait")
        other = program.ask(b"reply")
        assert other.recv(6) == b"began\n"
        program.signal(signal.SIGTERM)
        until_refused(program)  # the first signal has arrived when the server is closed
        program.signal(signal.SIGINT)
        assert receive_all(client) == b""
        receive_all(other)
        code, printed, complaints = program.end()
    assert (code, printed[1:], complaints) == (0, ["True"], "")
    finished, cancelled, aborted = map(int, printed[0].split())
    assert cancelled >= 1
    assert aborted == 0
    assert finished + cancelled >= 2


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("request_", "code"), [(b"interrupt", -signal.SIGINT), (b"exit", 3)])
def test_a_handler_that_ends_the_program_ends_it(loop: str, request_: bytes, code: int) -> None:
    with running(loop, 20.0) as program:
        bystander = program.ask(b"wait")
        client = program.ask(request_)
        for sock in (client, bystander):
            try:
                assert receive_all(sock) == b""
            except ConnectionResetError:
                pass
        ended, printed, complaints = program.end()
    assert ended == code
    assert printed == []
    assert "never awaited" not in complaints
    assert "was destroyed" not in complaints
    assert "ResourceWarning" not in complaints


async def greet(sock: Any) -> None:
    await sock.write(b"hello")


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
async def test_signal_handlers_are_put_back(number: signal.Signals) -> None:
    received = []
    original = signal.signal(number, lambda *args: received.append(args))
    try:
        mine = signal.getsignal(number)
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        serving = await begin(aionet.serve(greet, server, signals=(number,)))
        assert signal.getsignal(number) is not mine
        os.kill(os.getpid(), number)
        report = await serving
        assert (report.finished, report.cancelled, report.aborted) == (0, 0, 0)
        assert received == []
        assert signal.getsignal(number) is mine
        os.kill(os.getpid(), number)
        await until(lambda: len(received) == 1)
    finally:
        signal.signal(number, original)


@pytest.mark.asyncio
async def test_signal_handlers_are_put_back_when_it_is_cancelled() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = await begin(aionet.serve(greet, server))
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert server.closed
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.asyncio
async def test_two_signals_together_end_the_grace_too() -> None:
    served = asyncio.Event()

    async def handler(sock: Any) -> None:
        served.set()
        await asyncio.Event().wait()

    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    signals = (signal.SIGUSR1, signal.SIGUSR2)
    serving = await begin(aionet.serve(handler, server, signals=signals, drain_grace=3600.0))
    with socket.create_connection(("127.0.0.1", server.address.port)):
        await served.wait()
        for number in signals:
            os.kill(os.getpid(), number)
        async with asyncio.timeout(0.5):
            report = await serving
    assert report.cancelled == 1


@pytest.mark.asyncio
async def test_cancelled_while_it_drains_it_leaves_nothing() -> None:
    served = asyncio.Event()

    async def handler(sock: Any) -> None:
        served.set()
        await asyncio.Event().wait()

    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = await begin(aionet.serve(handler, server, signals=(signal.SIGUSR1,), drain_grace=3600.0))
    with socket.create_connection(("127.0.0.1", server.address.port)):
        await served.wait()
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: server.closed)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await give_turns(10)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.asyncio
async def test_it_returns_when_somebody_else_closes_the_server() -> None:
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = await begin(aionet.serve(greet, server, signals=()))
    with socket.create_connection(("127.0.0.1", server.address.port)) as client:
        assert await asyncio.to_thread(client.recv, 100) == b"hello"
    await server.aclose()
    assert isinstance(await serving, aionet.DrainReport)


@pytest.mark.asyncio
async def test_it_listens_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "server"
    serving = await begin(aionet.serve(greet, f"unix:{path}", signals=()))
    await until(path.exists)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert await asyncio.to_thread(client.recv, 100) == b"hello"
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not path.exists()


@pytest.mark.asyncio
async def test_bad_arguments_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(ValueError, match="drain_grace"):
        await aionet.serve(greet, ("127.0.0.1", 0), drain_grace=-1.0)
    with pytest.raises(TypeError, match="handler"):
        await aionet.serve("greet", ("127.0.0.1", 0))  # type: ignore[arg-type]


def in_thread(loop_name: str, main: Any) -> None:
    """Run coroutine function `main` on a loop of another thread; raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        if loop_name == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        else:
            factory = asyncio.SelectorEventLoop
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


@pytest.mark.parametrize("loop", LOOPS)
def test_in_another_thread_without_signals(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")

    async def main() -> None:
        async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
            serving = await begin(aionet.serve(greet, server, signals=()))
            with socket.create_connection(("127.0.0.1", server.address.port)) as client:
                assert await asyncio.to_thread(client.recv, 100) == b"hello"
            serving.cancel()
            await asyncio.wait([serving])

    in_thread(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_in_another_thread_with_signals_it_says_what_to_do(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def main() -> None:
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        with pytest.raises(RuntimeError, match=r"signals=\(\)"):
            await aionet.serve(greet, server)
        assert server.closed

    in_thread(loop, main)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.asyncio
@pytest.mark.parametrize("first_ends", [0, 1])
async def test_a_signal_drains_every_server_of_the_loop(first_ends: int) -> None:
    """A second one ends the grace of those that are left, whichever has ended before."""
    before = signal.getsignal(signal.SIGUSR1)
    served = [asyncio.Event(), asyncio.Event()]

    def handler_of(event: asyncio.Event) -> Any:
        async def handler(sock: Any) -> None:
            event.set()
            await sock.read()

        return handler

    servers = [aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) for _ in served]
    servings = [
        await begin(aionet.serve(handler_of(event), server, signals=(signal.SIGUSR1,), drain_grace=3600.0))
        for event, server in zip(served, servers, strict=True)
    ]
    clients = [socket.create_connection(("127.0.0.1", server.address.port)) for server in servers]
    for event in served:
        await event.wait()
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(lambda: all(server.closed for server in servers))
    clients[first_ends].close()
    assert (await servings[first_ends]).finished == 1
    os.kill(os.getpid(), signal.SIGUSR1)
    assert (await servings[1 - first_ends]).cancelled == 1
    clients[1 - first_ends].close()
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.asyncio
async def test_what_fails_at_a_signal_keeps_nothing_from_draining(loop_complaints: list[str]) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    serving = None
    with on_signals([signal.SIGUSR1], fail):
        serving = await begin(aionet.serve(greet, ("127.0.0.1", 0), signals=(signal.SIGUSR1,)))
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (await serving).aborted == 0
    assert "ZeroDivisionError" in loop_complaints.pop()
