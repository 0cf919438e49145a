"""The endpoint of metrics: HTTP as far as it goes, and nobody who abuses it harms anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h11
import pytest
import pytest_asyncio
from helpers import until
from peers import RawPeer

import aionet
from aionet.observing import metrics_endpoint
from aionet.observing.metrics import SpawnerCollector
from aionet.observing.metrics_endpoint import serve_metrics

from .conftest import Stage

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

Exchange = Callable[..., Any]


async def echo(sock: Any) -> None:
    async for chunk in sock:
        await sock.write(chunk)


def new_collector() -> SpawnerCollector:
    return SpawnerCollector(aionet.ConnectionSpawner(echo))


@pytest_asyncio.fixture
async def exchange() -> AsyncIterator[Exchange]:
    """A function that sends bytes to an endpoint, and returns all that comes back."""
    async with serve_metrics(0, new_collector()) as endpoint:

        async def exchange(data: bytes, *, half_close: bool = False) -> bytes:
            with await RawPeer.connect(endpoint.address.sockaddr()) as peer:
                sending = peer.in_thread(lambda sock: sock.sendall(data))
                with contextlib.suppress(ConnectionError):
                    await sending
                if half_close:
                    peer.half_close()
                return await peer.receive_to_end()

        yield exchange


def understood(reply: bytes, method: bytes = b"GET") -> tuple[h11.Response, bytes]:
    """The reply, as another implementation of HTTP understands it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/metrics", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(reply)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return response, body


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "request_",
    [
        GET,
        b"GET /metrics HTTP/1.0\r\n\r\n",
        b"GET /metrics?name=x HTTP/1.1\r\nHost: x\r\nX-Empty:\r\nX-Latin: \xe4\r\n\r\n",
        GET + b"GET /metrics HTTP/1.1\r\n",
    ],
)
async def test_a_scrape(exchange: Exchange, request_: bytes) -> None:
    response, body = understood(await exchange(request_))
    assert response.status_code == 200
    assert body.startswith(b"# HELP aionet_connections_accepted_total ")
    assert (b"connection", b"close") in response.headers


@pytest.mark.asyncio
async def test_a_head_without_a_body(exchange: Exchange) -> None:
    response, body = understood(await exchange(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), b"HEAD")
    assert response.status_code == 200
    assert body == b""
    assert int(dict(response.headers)[b"content-length"]) > 1000


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"\x00\xff\x16\x03\x01\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1 \r\n\r\n", 400),
        (b"GET /metrics HTTP/11\r\n\r\n", 400),
        (b"GET /met\xffrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nA: \x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metricsx HTTP/1.1\r\n\r\n", 404),
        (b"GET //metrics HTTP/1.1\r\n\r\n", 404),
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"OPTIONS /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 505),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 10_000 + b"\r\n\r\n", 431),
        (b"a" * 200_000, 431),
    ],
    ids=range(21),
)
async def test_what_is_no_scrape_is_told_so(exchange: Exchange, request_: bytes, status: int) -> None:
    response, body = understood(await exchange(request_))
    assert response.status_code == status
    assert body == b""
    assert ((b"allow", b"GET, HEAD") in response.headers) is (status == 405)
    assert (await exchange(GET)).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.asyncio
async def test_a_request_that_is_cut_short(exchange: Exchange) -> None:
    assert understood(await exchange(GET[:-2], half_close=True))[0].status_code == 400
    assert await exchange(b"", half_close=True) == b""


@pytest.mark.asyncio
async def test_whoever_is_slow_is_told_so(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_endpoint, "_SLOWEST_HEAD", 0.05)
    assert understood(await exchange(GET[:-1]))[0].status_code == 408


@pytest.mark.asyncio
async def test_those_who_only_wait_keep_nobody_out_and_delay_no_end(stage: Stage) -> None:
    spawner = aionet.ConnectionSpawner(echo)
    server = stage.tcp_server()
    await stage.serve(spawner, server)
    client = stage.client(server)
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as idle:
        async with serve_metrics(0, SpawnerCollector(spawner)) as endpoint:
            for _ in range(3 * metrics_endpoint._LIMITS.max_connections):  # type: ignore[operator]
                idle.enter_context(await RawPeer.connect(endpoint.address.sockaddr()))
            with await RawPeer.connect(endpoint.address.sockaddr()) as scraper:
                await scraper.send(GET)
                assert (await scraper.receive_to_end()).startswith(b"HTTP/1.1 200 OK\r\n")
            client.send_now(b"served as ever")
            assert await client.receive() == b"served as ever"
            assert spawner.stats.accepted == 1
            ending = loop.time()
        assert loop.time() - ending < 5
    with pytest.raises(ConnectionRefusedError):
        await RawPeer.connect(endpoint.address.sockaddr())


@pytest.mark.asyncio
async def test_a_collector_that_fails_fails_its_scrape_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = new_collector()
    monkeypatch.setattr(collector, "collect", lambda: 1 / 0)
    async with serve_metrics(0, collector) as endpoint:
        for _ in range(2):
            with await RawPeer.connect(endpoint.address.sockaddr()) as peer:
                await peer.send(GET)
                with pytest.raises(ConnectionResetError):
                    await peer.receive_to_end()
        await until(lambda: len(caplog.records) >= 2)
    assert caplog.text.count("ZeroDivisionError: ") == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("address", [0, ":0", "127.0.0.1:0"])
async def test_it_is_closed_to_others_unless_told_otherwise(address: Any) -> None:
    async with serve_metrics(address, new_collector()) as endpoint:
        assert endpoint.address.host == "127.0.0.1"
        assert len(endpoint.filenos()) == 1


@pytest.mark.asyncio
async def test_any_address_will_do(tmp_path: Path) -> None:
    async with serve_metrics("0.0.0.0:0", new_collector()) as endpoint:
        assert endpoint.address.host == "0.0.0.0"
    path = f"{tmp_path}/metrics"
    async with serve_metrics(f"unix:{path}", new_collector()):
        with await RawPeer.connect(path, socket.AF_UNIX) as peer:
            await peer.send(GET)
            assert (await peer.receive_to_end()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not Path(path).exists()


@pytest.mark.asyncio
async def test_an_address_that_is_taken() -> None:
    async with serve_metrics(0, new_collector()) as endpoint:
        with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1"):
            async with serve_metrics(endpoint.address, new_collector()):
                pass


@pytest.mark.asyncio
async def test_an_endpoint_whose_socket_breaks_costs_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with serve_metrics(0, new_collector()) as endpoint:
        endpoint.raw_sockets[0].shutdown(socket.SHUT_RDWR)
        await until(lambda: endpoint.closed)
    [record] = caplog.records
    expected = f"no more metrics: cannot accept on {endpoint.address}: Invalid argument"
    assert (record.levelname, record.getMessage()) == ("ERROR", expected)
