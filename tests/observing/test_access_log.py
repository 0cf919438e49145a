"""The access log: one line for every connection, with the right facts, whatever peers do."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from peers import RawPeer

import aionet
from aionet.observing import AccessLog

from .conftest import Records, Stage

LOGGER = logging.getLogger("test.access")

NAMES = ["connection_id", "peer", "local", "cause", "by", "phase", "errno", "bytes_read", "bytes_written"]
NAMES += ["unacknowledged", "age", "idle", "tls", "tls_failure"]

BIG = bytes(16 << 20)


def parsed(line: str) -> dict[str, str | None]:
    """A line of text, taken apart by another rule than the one it is made by."""
    pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |$)', line)
    assert " ".join(f"{name}={value}" for name, value in pairs) == line
    return {
        name: None if value == "-" else json.loads(value) if value.startswith('"') else value
        for name, value in pairs
    }


async def obey(sock: Any) -> None:
    """Do what the client orders."""
    order = await sock.read()
    if order == b"crash":
        raise ZeroDivisionError
    if order == b"exhaust":
        raise aionet.ResourceExhaustedError(errno.EMFILE, "no descriptors", operation="read")
    if order == b"wait":
        await asyncio.Event().wait()
    elif order == b"stubborn":
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await until(lambda: sock.closed)
    elif order == b"reset":
        sock.abort()
    elif order == b"flood":
        await sock.write(BIG)
    elif order == b"more":
        await sock.read_exactly(100)
    elif order:
        await sock.write(b"bye")


async def refuse(sock: Any) -> None:
    raise aionet.ProxyProtocolError("no header")


async def read_header(sock: Any) -> None:
    await sock.read_exactly(10)


@dataclass
class Case:
    """How a connection comes to a certain end."""

    by: str
    send: bytes = b""
    then: Callable[[Any], Any] = lambda scene: None
    limits: dict[str, Any] = field(default_factory=dict)
    preface: Any = None
    bytes: tuple[int, int | None] | None = None  # None: as many as were sent, and none; or some of a flood
    errno: str | None = None
    phase: str = "serving"


@dataclass
class Scene:
    stage: Stage
    server: Any
    spawner: aionet.ConnectionSpawner[Any]
    client: RawPeer

    @property
    def connection(self) -> Any:
        (connection,) = self.spawner.connections
        return connection

    def connect_another(self) -> None:
        self.stage.client(self.server)


NO_ROOM = {"max_connections": 1, "on_full": "reset"}

CASES = {
    "completed": Case("handler", b"hello", bytes=(5, 3)),
    "peer_ended": Case("peer", then=lambda scene: scene.client.half_close()),
    "peer_lost": Case("peer", b"more", lambda scene: scene.client.reset(), errno="ECONNRESET"),
    "reset": Case("handler", b"reset"),
    "closed": Case("server", b"more", lambda scene: scene.connection.socket.abort()),
    "failed": Case("handler", b"crash"),
    "exhausted": Case("server", b"exhaust", errno="EMFILE"),
    "cancelled": Case("handler", b"wait", lambda scene: scene.connection.task.cancel()),
    "drained": Case("server", b"wait", lambda scene: scene.spawner.drain(0.0)),
    "aborted": Case("server", b"stubborn", lambda scene: scene.spawner.drain(0.0, hard=0.0)),
    "handshake_failed": Case("peer", preface=refuse, phase="handshake"),
    "handshake_timeout": Case(
        "server", b"PRO", limits={"handshake_timeout": 0.05}, preface=read_header, phase="handshake"
    ),
    "idle": Case("server", b"wait", limits={"idle_timeout": 0.05}),
    "read_stalled": Case("server", b"more", limits={"read_stall_timeout": 0.05}),
    "write_stalled": Case("server", b"flood", limits={"write_stall_timeout": 0.05}, bytes=(5, None)),
    "handler_timeout": Case("server", b"wait", limits={"handler_timeout": 0.05}),
    "peer_gone": Case(
        "peer", b"wait", lambda scene: scene.client.half_close(), limits={"on_peer_gone": "cancel"}
    ),
    "evicted": Case(
        "server", b"wait", Scene.connect_another, limits={"max_connections": 1, "on_full": "evict_idle"}
    ),
    "pending_bytes": Case("server", b"flood", limits={"max_pending_bytes": 1 << 20}, bytes=(5, None)),
    "full": Case("server", b"wait", Scene.connect_another, limits=NO_ROOM, bytes=(0, 0)),
    "too_many_of_peer": Case(
        "server", b"wait", Scene.connect_another, limits={"max_per_peer": 1}, bytes=(0, 0)
    ),
    "too_fast_of_peer": Case(
        "server", b"wait", Scene.connect_another, limits={"accept_rate_per_peer": 0.001}, bytes=(0, 0)
    ),
}


ELSEWHERE = {
    "reset_early",  # tests/spawner/test_overload.py: it has to come before the server
    "handshake_evicted",  # tests/tls_server/test_spawner.py: they take TLS
    "too_many_handshakes",
    "tls_record_flood",  # tests/tls/test_record_floods.py
}


def test_every_cause_is_provoked() -> None:
    assert set(CASES) | ELSEWHERE == {cause.name.lower() for cause in aionet.CloseCause}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", CASES)
async def test_one_line_for_every_connection(stage: Stage, records: Records, name: str) -> None:
    case = CASES[name]
    spawner = aionet.ConnectionSpawner(
        obey,
        limits=aionet.ConnectionLimits(**case.limits),
        preface=case.preface,
        on_close=AccessLog("json", logger=LOGGER),
    )
    server = stage.tcp_server()
    serving = await stage.serve(spawner, server)
    client = stage.client(server)
    name_of_client = f"127.0.0.1:{client.sock.getsockname()[1]}"
    await until(lambda: spawner.connections or records.lines)
    if case.send:
        client.send_now(case.send)
        await until(lambda: records.lines or spawner.connections[0].socket.bytes_read)
    doing = case.then(Scene(stage, server, spawner, client))
    if asyncio.iscoroutine(doing):
        await doing

    await until(lambda: any(json.loads(line)["cause"] == name for line in records.lines))
    (line,) = [line for line in map(json.loads, records.lines) if line["cause"] == name]
    assert list(line) == ["time", *NAMES]
    assert (line["by"], line["phase"], line["errno"]) == (case.by, case.phase, case.errno)
    read, written = case.bytes or (len(case.send), 0)
    assert line["bytes_read"] == read
    if written is not None:
        assert line["bytes_written"] == written
    else:
        assert 0 < line["bytes_written"] < len(BIG)
    assert line["local"] == str(server.address)
    assert (line["peer"] == name_of_client) is (case.bytes != (0, 0))  # else it is of the other one
    assert 0 <= line["age"] < 10
    assert line["idle"] is None or 0 <= line["idle"] <= line["age"] + 0.1

    client.close()
    await spawner.drain(0.0)
    await serving
    ids = [json.loads(line)["connection_id"] for line in records.lines]
    assert len(set(ids)) == len(ids) == spawner.stats.accepted


@pytest.mark.asyncio
@pytest.mark.parametrize("bind", ["127.0.0.1:0", ":0"])
async def test_text_has_the_same_facts(stage: Stage, records: Records, bind: str) -> None:
    """On every interface too, where a connection's own end is not known beforehand."""
    both: list[Any] = [AccessLog(logger=LOGGER), AccessLog("json", logger=LOGGER)]
    spawner = aionet.ConnectionSpawner(obey, on_close=lambda *args: [log(*args) for log in both])
    server = aionet.AsyncTcpConnectionServer(bind)
    await stage.serve(spawner, server)
    client = stage.client(server)
    client.send_now(b"hello")
    assert await client.receive_to_end() == b"bye"
    await until(lambda: len(records.lines) == 2)
    text, from_json = parsed(records.lines[0]), json.loads(records.lines[1])
    assert list(text) == NAMES
    del from_json["time"]
    for name, value in from_json.items():
        expected = f"{value:.6f}" if isinstance(value, float) else None if value is None else str(value)
        assert text[name] == expected
    assert text["local"] == f"127.0.0.1:{server.address.port}"
    assert [record.access for record in records.records] == [from_json, from_json]  # type: ignore[attr-defined]


INJECTION = 'x" id=0\n2000-01-01 id=fake peer=nobody\r\x1b[31m\u2028\u0085\\ = \x7f'


@pytest.mark.asyncio
@pytest.mark.usefixtures("records")
@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("name", [INJECTION.encode(), b"\xff\xfe\n", b" ", b"-", b"a=b"])
async def test_no_peer_can_break_a_line(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any, name: bytes
) -> None:
    """The path of a Unix client is of its own choice, and so is a name without a file."""
    monkeypatch.chdir(tmp_path)
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    LOGGER.addHandler(handler)
    spawner = aionet.ConnectionSpawner(obey, on_close=AccessLog(format, logger=LOGGER))
    server = stage.unix_server()
    await stage.serve(spawner, server)
    for path in (name, b"\0" + name + b"%d" % os.getpid()):  # others use names without a file, too
        with socket.socket(socket.AF_UNIX) as client:
            client.bind(path)
            client.connect(server.address.path)
            bound_to = str(aionet.UnixAddress.from_sockaddr(client.getsockname()))
        await until(written.getvalue)
        text = written.getvalue()
        assert text.isascii()
        (line,) = text.splitlines()
        assert all(" " <= character <= "~" for character in line)
        facts = json.loads(line) if format == "json" else parsed(line)
        assert [name for name in facts if name != "time"] == NAMES
        assert facts["peer"] == bound_to
        written.seek(0)
        written.truncate()
    LOGGER.removeHandler(handler)


@pytest.mark.asyncio
async def test_a_level_that_is_off_costs_no_line(stage: Stage, records: Records) -> None:
    LOGGER.setLevel(logging.WARNING)
    spawner = aionet.ConnectionSpawner(obey, on_close=AccessLog(logger=LOGGER))
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    client = stage.client(server)
    client.send_now(b"hello")
    assert await client.receive_to_end() == b"bye"
    await until(lambda: spawner.stats.completed)
    assert records.lines == []


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'xml'"):
        AccessLog("xml")  # type: ignore[arg-type]
