"""However many connections fail, the log has few lines of them, and no count is wrong for that."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from helpers import until

import aionet
from aionet import announcing
from aionet.line_limit import LINES, SECONDS
from aionet.observing import AccessLog

from .conftest import Stage

MANY = 40


async def refuse(sock: Any) -> None:
    raise aionet.ProxyProtocolError("no header")


async def crash(sock: Any) -> None:
    raise ZeroDivisionError


async def wait(sock: Any) -> None:
    await asyncio.Event().wait()


FLOODS: dict[str, tuple[Callable[..., Any], dict[str, Any], aionet.CloseCause, str]] = {
    "handshakes": (wait, {"preface": refuse}, aionet.CloseCause.HANDSHAKE_FAILED, "handshake with"),
    "crashes": (crash, {}, aionet.CloseCause.FAILED, "handler for"),
    "cuts": (
        wait,
        {"limits": aionet.ConnectionLimits(handler_timeout=0.05)},
        aionet.CloseCause.HANDLER_TIMEOUT,
        "connection from",
    ),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("flood", FLOODS)
async def test_few_lines_of_many_connections(
    stage: Stage, flood: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, options, cause, beginning = FLOODS[flood]
    now = 0.0
    monkeypatch.setattr(announcing._Lines, "clock", lambda _: now)
    caplog.set_level(logging.INFO)
    spawner = aionet.ConnectionSpawner(handler, on_close=AccessLog("json"), **options)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    for _ in range(MANY):
        stage.client(server)
    await until(lambda: spawner.stats.causes.get(cause) == MANY)
    now += SECONDS
    stage.client(server)
    await until(lambda: spawner.stats.causes[cause] == MANY + 1)
    texts = [record.getMessage() for record in caplog.records if record.name == "aionet.server"]
    assert len(texts) == LINES + 2
    assert texts[LINES] == (f"... and {MANY - LINES} more like this in the last second: {texts[LINES - 1]}")
    del texts[LINES]
    assert all(text.startswith(beginning) for text in texts)
    access = [json.loads(record.getMessage()) for record in caplog.records if record.name == "aionet.access"]
    assert [line["cause"] for line in access] == [cause.name.lower()] * (MANY + 1)  # which is its contract
