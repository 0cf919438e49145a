"""Which group the key exchange uses: none that costs the server a hundred times as much as the client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers import require_program
from peers import PATIENCE

import aionet
from aionet import ServerTls, TlsFailure

from .authority import Authority

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

FFDHE2048, FFDHE8192, P256, X25519, GREASE = 0x0100, 0x0104, 23, 29, 0x0A0A
TOO_DEAR = 0.05  # seconds of CPU: with ffdhe8192 it was 0.15, with P-256 it is 0.001


class Serving:
    def __init__(self, port: int, spawner: Any) -> None:
        self.port, self.spawner = port, spawner

    async def answer_to(self, flight: bytes) -> tuple[bytes, float]:
        """Send `flight`; returns what comes back, and the CPU seconds of this process until then."""

        def talk() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as sock:
                sock.sendall(flight)
                return sock.recv(65536)

        began = time.process_time()
        answer = await asyncio.to_thread(talk)
        return answer, time.process_time() - began

    async def visit(self, *options: str) -> str:
        """Have ``openssl s_client`` do a handshake; returns what it prints."""
        command = [require_program("openssl"), "s_client", "-connect", f"127.0.0.1:{self.port}", *options]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done.stdout


@contextlib.asynccontextmanager
async def serving(tls: Any) -> AsyncIterator[Serving]:
    async def handle(sock: Any) -> None:
        await sock.read()

    spawner = aionet.ConnectionSpawner(handle)
    server = aionet.AsyncTcpConnectionServer("127.0.0.1:0", tls=tls)
    task = asyncio.create_task(spawner.serve(server))
    await asyncio.sleep(0)
    try:
        yield Serving(server.address.port, spawner)
    finally:
        await spawner.drain(0.0)
        await task


def hello(groups: list[int], shares: list[int]) -> bytes:
    """A ClientHello with a key share that cost nothing, for each of `shares`."""
    sizes = {FFDHE2048: 256, FFDHE8192: 1024, P256: 65, X25519: 32, GREASE: 1}
    entries = b"".join(share.to_bytes(2) + vector(b"\x05" * sizes[share]) for share in shares)
    extensions = {
        43: b"\x02\x03\x04",
        10: vector(b"".join(group.to_bytes(2) for group in groups)),
        13: vector(bytes.fromhex("0403 0503 0804 0805 0806")),
        51: vector(entries),
    }
    listed = b"".join(kind.to_bytes(2) + vector(content) for kind, content in extensions.items())
    body = (
        b"\x03\x03" + bytes(32) + b"\x00" + vector(bytes.fromhex("1301 1302")) + b"\x01\x00" + vector(listed)
    )
    return b"\x16\x03\x01" + vector(b"\x01" + len(body).to_bytes(3) + body)


def vector(content: bytes) -> bytes:
    return len(content).to_bytes(2) + content


@pytest.mark.parametrize(
    "flight",
    [
        hello([FFDHE8192], [FFDHE8192]),
        hello([FFDHE8192, X25519], [FFDHE8192]),
        hello([FFDHE8192, X25519, P256], [FFDHE8192, X25519]),
        hello([GREASE, FFDHE8192], [GREASE, FFDHE8192]),
        b"\x15\x03\x01\x00\x02\x01\x5a" + hello([FFDHE8192], [FFDHE8192]),
    ],
    ids=["only", "preferred", "with another share", "behind what is unknown", "behind an alert"],
)
async def test_a_client_does_not_get_the_server_to_do_dear_arithmetic(
    authority: Authority, flight: bytes
) -> None:
    async with serving(ServerTls(*authority.pair("server").files)) as server:
        answers = [await server.answer_to(flight) for _ in range(3)]
    assert min(seconds for _, seconds in answers) < TOO_DEAR
    assert all(answer[0] in (21, 22) for answer, _ in answers)  # an alert, or another group


async def test_a_client_without_elliptic_groups_is_refused_with_a_reason(authority: Authority) -> None:
    async with serving(ServerTls(*authority.pair("server").files)) as server:
        answer, _ = await server.answer_to(hello([FFDHE2048], [FFDHE2048]))
        assert answer[0] == 21
        assert server.spawner.stats.tls_failures == {TlsFailure.NO_COMMON_GROUP: 1}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "X25519"),
        (["-groups", "secp384r1:ffdhe2048"], "secp384r1"),
        (["-groups", "ffdhe2048:P-256"], "prime256v1"),
        (["-tls1_2"], "X25519"),
    ],
    ids=["any", "another curve", "finite-field first", "TLS 1.2"],
)
async def test_an_elliptic_group_is_used_where_there_is_one(
    authority: Authority, options: list[str], expected: str
) -> None:
    async with serving(ServerTls(*authority.pair("server").files)) as server:
        assert expected in await server.visit(*options)


async def test_finite_field_groups_can_be_allowed(authority: Authority) -> None:
    tls = ServerTls(*authority.pair("server").files, finite_field_groups=True)
    async with serving(tls) as server:
        assert "Temp Key: DH, 2048 bits" in await server.visit("-groups", "ffdhe2048")


async def test_a_context_of_the_callers_is_warned_of_once(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.pair("server")
    context, narrow = authority.server(pair), authority.server(pair)
    narrow.set_ecdh_curve("prime256v1")
    with caplog.at_level(logging.WARNING, "aionet.tls"):
        for tls in (context, context, narrow, ServerTls(*pair.files)):
            async with serving(tls):
                pass
    (record,) = caplog.records
    assert "finite-field" in record.getMessage()


async def test_a_context_that_is_chosen_is_warned_of_once(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.pair("server")
    context = authority.server(pair)
    async with serving(ServerTls(*pair.files, choose=lambda name: context)) as server:
        with caplog.at_level(logging.WARNING, "aionet.tls"):
            for _ in range(2):
                await server.visit()
    assert len(caplog.records) == 1
