"""No failure to log changes what a server does: connections end as they would, and a drain drains."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from peers import RawPeer

import aionet
from aionet import announcing
from aionet.observing import AccessLog
from aionet.process_signals import on_signals

pytestmark = pytest.mark.asyncio


class Broken(logging.Handler):
    """Raises whatever is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        raise LookupError("a bug of the handler's")


@pytest.fixture(autouse=True)
def broken_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that aionet logs, DEBUG included, meets a handler that raises."""
    monkeypatch.setattr(announcing, "_failed", set())
    logger, broken = logging.getLogger("aionet"), Broken()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(broken)
    yield
    logger.removeHandler(broken)
    logger.setLevel(level)


async def crash(sock: Any) -> None:
    await sock.read()
    raise LookupError("a bug of the user's")


async def lose(sock: Any) -> None:
    while await sock.read():
        pass


def fail(*_: Any) -> None:
    raise LookupError("a bug of the callback's")


@pytest.mark.parametrize("handler", [crash, lose])
async def test_a_connection_ends_as_it_would(handler: Any, capsys: pytest.CaptureFixture[str]) -> None:
    closed: list[aionet.CloseCause] = []
    access_log = AccessLog("json")

    def on_close(connection: Any, reason: aionet.CloseReason) -> None:
        closed.append(reason.cause)
        access_log(connection, reason)
        fail()

    spawner = aionet.ConnectionSpawner(handler, on_error=fail, on_close=on_close)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = asyncio.create_task(spawner.serve(server))
    for _ in range(3):
        peer = await RawPeer.connect(("127.0.0.1", server.address.port))
        peer.send_now(b"x")
        if handler is lose:
            peer.reset()
        else:
            with pytest.raises(ConnectionResetError):
                await peer.receive(1)
        peer.stop()
    while len(closed) < 3:
        await asyncio.sleep(0)
    await spawner.drain(0)
    await serving
    cause = aionet.CloseCause.FAILED if handler is crash else aionet.CloseCause.PEER_LOST
    assert closed == [cause] * 3
    assert spawner.stats.active == 0
    lost = "log records are lost: LookupError: a bug of the handler's"
    lines = sorted(capsys.readouterr().err.splitlines())
    assert lines == [f"aionet.access: {lost}", f"aionet.server: {lost}"]


async def test_a_limit_cuts_and_a_signal_drains() -> None:
    """Both are logged before, or while, they take effect."""
    servers: list[Any] = []
    handling = asyncio.Event()

    async def wait(sock: Any) -> None:
        handling.set()
        await asyncio.sleep(3600)

    serving = asyncio.create_task(
        aionet.serve(
            wait,
            ("127.0.0.1", 0),
            limits=aionet.ConnectionLimits(idle_timeout=0.05),
            on_listening=servers.append,
            signals=[signal.SIGUSR1],
            drain_grace=0.0,
        )
    )
    while not servers:
        await asyncio.sleep(0)
    peer = await RawPeer.connect(("127.0.0.1", servers[0].address.port))
    assert await peer.receive(1) == b""
    peer.stop()
    handling.clear()
    peer = await RawPeer.connect(("127.0.0.1", servers[0].address.port))
    await handling.wait()
    signal.raise_signal(signal.SIGUSR1)
    report = await serving
    peer.stop()
    assert report.aborted == 0


async def test_a_handler_of_a_signal_that_fails_keeps_no_other_from_its_turn() -> None:
    """Its error is logged by asyncio, which lets out what the log raises."""
    called, logger, broken = asyncio.Event(), logging.getLogger("asyncio"), Broken()
    loop = asyncio.get_running_loop()
    ledger = loop.get_exception_handler()
    loop.set_exception_handler(None)
    logger.addHandler(broken)
    try:
        with on_signals([signal.SIGUSR1], fail), on_signals([signal.SIGUSR1], called.set):
            signal.raise_signal(signal.SIGUSR1)
            async with asyncio.timeout(30):
                await called.wait()
    finally:
        logger.removeHandler(broken)
        loop.set_exception_handler(ledger)
