"""A peer whose path has a newline, bound or said by a PROXY header, begins no line of its own in a log."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from helpers import begin, until

import aionet
from aionet import AsyncUnixConnectionServer, ConnectionSpawner, ProxyHeader, ProxyProtocol, UnixAddress
from aionet.observing import AccessLog

pytestmark = pytest.mark.asyncio

FORGED = "\n2026-11-30 12:00:00 [-] INFO aionet.server: all is well\x1b[0m"
SHOWN = r"\x0a2026-11-30 12:00:00 [-] INFO aionet.server: all is well\x1b[0m"


async def obey(sock: Any) -> None:
    if await sock.read() == b"crash":
        raise ArithmeticError
    await asyncio.Event().wait()


@pytest.mark.parametrize("order", ["crash", "wait"])
@pytest.mark.parametrize("by_header", [False, True], ids=["bound", "header"])
async def test_every_line_of_the_log_is_ours(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    order: str,
    by_header: bool,
) -> None:
    caplog.set_level(logging.DEBUG, "aionet")
    monkeypatch.chdir(tmp_path)
    spawner = ConnectionSpawner[Any](
        obey,
        limits=aionet.ConnectionLimits(idle_timeout=0.1),
        on_close=AccessLog("text"),
        preface=ProxyProtocol(trusted=("unix",)) if by_header else None,
    )
    serving = await begin(spawner.serve(AsyncUnixConnectionServer("server")))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        if not by_header:
            client.bind(FORGED)
        client.connect("server")
        if by_header:
            header = ProxyHeader(source=UnixAddress(FORGED), destination=UnixAddress("server"))
            client.sendall(header.to_bytes())
        client.sendall(order.encode())
        await until(lambda: spawner.stats.accepted and not spawner.stats.active)
    await spawner.drain(grace=1)
    await serving
    messages = [record.getMessage() for record in caplog.records]
    assert any(SHOWN in message or SHOWN.replace("\\", "\\\\") in message for message in messages)
    assert [message for message in messages if not message.isprintable()] == []
