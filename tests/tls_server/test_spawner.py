"""Servers with TLS: whose handshake goes on where, what becomes of those that fail, and who is told.

The peers are raw sockets and the standard library's `ssl`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from helpers import until
from peers import PATIENCE, RawPeer

import aionet
from aionet import (
    AsyncTcpConnectionServer,
    AsyncUnixConnectionServer,
    CloseCause,
    ConnectionLimits,
    ConnectionSpawner,
    ProxyProtocol,
    ServerTls,
    TlsFailure,
)
from aionet.limiting import handshakes

from .authority import Authority

pytestmark = pytest.mark.asyncio

SHORT = 0.2


class Service:
    """An echo server with TLS, and what it has counted and told."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.pair = authority.pair("server")
        self.reasons: list[aionet.CloseReason] = []
        self.infos: list[Any] = []
        self.spawner: ConnectionSpawner[Any] = ConnectionSpawner(self.echo)
        self.servers: list[Any] = []
        self._serving: asyncio.Task[None] | None = None
        self._peers: list[socket.socket] = []

    async def echo(self, sock: Any) -> None:
        self.infos.append(sock.tls)
        async for data in sock:
            await sock.write(data)

    async def begin(
        self,
        tls: Any = None,
        *,
        unix: Path | None = None,
        also: tuple[Any, ...] = (),
        limits: ConnectionLimits | None = None,
        preface: Any = None,
    ) -> None:
        tls = tls or ServerTls(*self.pair.files)
        first: Any = AsyncTcpConnectionServer("127.0.0.1:0", tls=tls)
        if unix is not None:
            first.close()
            first = AsyncUnixConnectionServer(unix, tls=tls)
        self.servers = [first, *also]
        self.spawner = ConnectionSpawner(
            self.echo,
            limits=limits,
            preface=preface,
            on_close=lambda connection, reason: self.reasons.append(reason),
        )
        self._serving = asyncio.create_task(self.spawner.serve(*self.servers))
        await asyncio.sleep(0)

    async def end(self) -> None:
        for sock in self._peers:
            sock.close()
        if self._serving is not None:
            await self.spawner.drain(0.0)
            await self._serving

    def raw(self, server: Any = None, host: str = "127.0.0.1") -> socket.socket:
        """A client at `host` that has connected and said nothing."""
        address = (server or self.servers[0]).address
        unix = isinstance(address, aionet.UnixAddress)
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        sock.settimeout(PATIENCE)
        if not unix:
            sock.bind((host, 0))
        sock.connect(address.path if unix else ("127.0.0.1", address.port))
        self._peers.append(sock)
        return sock

    async def shaken(
        self,
        context: ssl.SSLContext | None = None,
        first: bytes = b"",
        server: Any = None,
        host: str = "127.0.0.1",
    ) -> ssl.SSLSocket:
        """A client whose handshake is done, after it has sent `first`."""
        sock = self.raw(server, host)
        sock.sendall(first)
        context = context or self.authority.client()
        wrapped = await asyncio.to_thread(context.wrap_socket, sock, server_hostname="localhost")
        self._peers.append(wrapped)
        return wrapped

    async def spoken_to(self, sock: ssl.SSLSocket) -> bool:
        """Whether it is served."""
        await asyncio.to_thread(sock.sendall, b"hello")
        return await asyncio.to_thread(sock.recv, 100) == b"hello"

    async def reason(self) -> aionet.CloseReason:
        """That of the one connection that ends."""
        await until(lambda: self.reasons)
        (reason,) = self.reasons
        return reason


@pytest_asyncio.fixture
async def service(authority: Authority) -> AsyncIterator[Service]:
    service = Service(authority)
    yield service
    await service.end()


def first_flight(authority: Authority) -> bytes:
    """What a client says first."""
    sent = ssl.MemoryBIO()
    client = authority.client().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


# Serving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize("kind", ["ServerTls", "SSLContext"])
async def test_serving(service: Service, tmp_path: Path, transport: str, kind: str) -> None:
    tls = ServerTls(*service.pair.files) if kind == "ServerTls" else service.authority.server(service.pair)
    await service.begin(tls, unix=tmp_path / "s" if transport == "unix" else None)
    client = await service.shaken()
    assert await service.spoken_to(client)
    (info,) = service.infos
    assert (info.version, info.alpn_protocol, info.peer_certificate) == ("TLSv1.3", None, None)
    if kind == "ServerTls":
        assert info.server_name == "localhost"
    await asyncio.to_thread(client.unwrap)
    reason = await service.reason()
    assert (reason.cause, reason.phase, reason.tls_failure) == (CloseCause.PEER_ENDED, "serving", None)
    stats = service.spawner.stats
    assert (stats.tls_handshakes, stats.tls_failures, stats.completed) == (1, {}, 1)


async def test_plain_and_tls_side_by_side(service: Service) -> None:
    plain = AsyncTcpConnectionServer("127.0.0.1:0")
    await service.begin(also=(plain,))
    assert await service.spoken_to(await service.shaken())
    sock = service.raw(plain)
    sock.sendall(b"plain")
    assert await asyncio.to_thread(sock.recv, 100) == b"plain"
    assert service.spawner.stats.tls_handshakes == 1


async def test_clients_certificates(service: Service) -> None:
    await service.begin(ServerTls(*service.pair.files, client_ca=service.authority.file))
    mine = service.authority.pair("client", "me@example.org")
    assert await service.spoken_to(await service.shaken(service.authority.client(mine)))
    assert service.infos[0].peer_certificate_der == mine.serial
    assert service.infos[0].peer_certificate["subjectAltName"] == (("email", "me@example.org"),)


async def test_nobody_waits_for_a_client_that_says_nothing(service: Service) -> None:
    await service.begin()
    silent = [service.raw() for _ in range(5)]
    assert await service.spoken_to(await service.shaken())
    assert [connection.phase for connection in service.spawner.connections].count("handshake") == len(silent)


@pytest.mark.parametrize("header", [b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"])
async def test_a_proxy_header_and_the_client_hello_in_one_segment(service: Service, header: bytes) -> None:
    await service.begin(ServerTls(*service.pair.files, alpn=["x"]), preface=ProxyProtocol())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = service.authority.client(alpn=("x",)).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    sock = service.raw()
    sock.sendall(header + outgoing.read())
    while True:
        incoming.write(await asyncio.to_thread(sock.recv, 65536))
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
    client.write(b"hello")
    sock.sendall(outgoing.read())
    await until(lambda: service.infos)
    (connection,) = service.spawner.connections
    assert str(connection.socket.peer_address) == "192.0.2.7:56324"


async def test_a_drain_ends_handshakes(service: Service) -> None:
    await service.begin()
    service.raw().sendall(first_flight(service.authority)[:50])
    await until(lambda: service.spawner.connections)
    report = await service.spawner.drain(0.0)
    assert (report.cancelled, report.aborted) == (1, 0)
    reason = await service.reason()
    assert (reason.cause, reason.phase, reason.tls_failure) == (CloseCause.DRAINED, "handshake", None)
    assert service.spawner.stats.tls_failures == {}


# Failing ----------------------------------------------------------------------------------------------


async def send(service: Service, data: bytes) -> None:
    sock = service.raw()
    sock.sendall(data)
    assert b"Traceback" not in await asyncio.to_thread(sock.recv, 1000)


async def speak_plainly(service: Service) -> None:
    await send(service, b"GET / HTTP/1.1\r\n\r\n")


async def speak_another_protocol(service: Service) -> None:
    await send(service, b"SSH-2.0-OpenSSH_9.6\r\n")


async def offer_another_protocol(service: Service) -> None:
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        await service.shaken(service.authority.client(alpn=("spdy", "x\n")))


async def come_without_certificate(service: Service) -> None:
    context = service.authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 the client hears of it later
    with pytest.raises(ssl.SSLError, match="alert"):
        await service.shaken(context)


async def come_with_an_expired_certificate(service: Service) -> None:
    mine = service.authority.pair("client", "me@example.org", valid=(-9, -2))
    client = await service.shaken(service.authority.client(mine))
    with pytest.raises(ssl.SSLError, match="certificate expired"):
        await asyncio.to_thread(client.recv, 1)


async def come_with_another_authoritys_certificate(service: Service) -> None:
    elsewhere = service.authority.directory / "elsewhere"
    elsewhere.mkdir()
    context = service.authority.client(Authority(elsewhere).pair("client", "me@example.org"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        await service.shaken(context)


async def distrust_the_server(service: Service) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await service.shaken(ssl.create_default_context())


async def insist_on_an_old_version(service: Service) -> None:
    context = service.authority.client()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="protocol version"):
        await service.shaken(context)


async def hang_up(service: Service) -> None:
    sock = service.raw()
    sock.sendall(first_flight(service.authority)[:100])
    sock.shutdown(socket.SHUT_WR)


async def reset(service: Service) -> None:
    peer = RawPeer(service.raw())
    peer.send_now(first_flight(service.authority)[:100])
    await until(lambda: service.spawner.connections)
    peer.reset()


async def say_nothing(service: Service) -> None:
    sock = service.raw()
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(sock.recv, 1)


FAILURES = {
    speak_plainly: TlsFailure.PLAINTEXT,
    speak_another_protocol: TlsFailure.PLAINTEXT,
    offer_another_protocol: TlsFailure.NO_COMMON_PROTOCOL,
    come_without_certificate: TlsFailure.CERTIFICATE_MISSING,
    come_with_an_expired_certificate: TlsFailure.CERTIFICATE_EXPIRED,
    come_with_another_authoritys_certificate: TlsFailure.CERTIFICATE_UNTRUSTED,
    distrust_the_server: TlsFailure.CERTIFICATE_UNTRUSTED,
    insist_on_an_old_version: TlsFailure.NO_COMMON_VERSION,
    hang_up: TlsFailure.ENDED,
    reset: TlsFailure.RESET,
    say_nothing: TlsFailure.TIMEOUT,
}


CASES = [(fail, True) for fail in FAILURES] + [(fail, False) for fail in (speak_plainly, hang_up, reset)]


@pytest.mark.parametrize(("fail", "alpn"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))
async def test_a_failure_has_a_name(
    service: Service, caplog: pytest.LogCaptureFixture, fail: Any, alpn: bool
) -> None:
    caplog.set_level(logging.DEBUG, "aionet")
    mutual = fail.__name__.startswith("come")
    tls = ServerTls(
        *service.pair.files,
        client_ca=service.authority.file if mutual else None,
        alpn=["h2", "http/1.1"] if alpn else [],
    )
    await service.begin(tls, limits=ConnectionLimits(handshake_timeout=SHORT if fail is say_nothing else 10))
    await fail(service)
    reason, failure = await service.reason(), FAILURES[fail]
    late = fail is say_nothing
    assert reason.cause is (CloseCause.HANDSHAKE_TIMEOUT if late else CloseCause.HANDSHAKE_FAILED)
    assert (reason.phase, reason.tls_failure) == ("handshake", failure)
    assert str(failure) in str(reason)
    stats = service.spawner.stats
    assert stats.tls_failures == {failure: 1}
    assert (stats.tls_handshakes, stats.cut, stats.failed) == (0, 1, 0)
    assert service.infos == []
    told = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert [record.levelname for record in told] == ["INFO"]
    assert all(record.exc_info is None for record in caplog.records)
    assert "\n" not in told[0].getMessage()
    assert late or str(failure) in told[0].getMessage()


async def test_plaintext_behind_a_proxy_header(service: Service) -> None:
    await service.begin(preface=ProxyProtocol())
    await send(service, b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nEHLO me\r\n")
    assert (await service.reason()).tls_failure is TlsFailure.PLAINTEXT


async def test_a_bad_proxy_header_is_no_failure_of_tls(service: Service) -> None:
    await service.begin(preface=ProxyProtocol())
    sock = service.raw()
    sock.sendall(first_flight(service.authority))
    reason = await service.reason()
    assert (reason.cause, reason.tls_failure) == (CloseCause.HANDSHAKE_FAILED, None)
    assert service.spawner.stats.tls_failures == {}


async def test_a_stream_that_is_cut_short_is_no_crash(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    await service.begin()
    client = await service.shaken()
    assert await service.spoken_to(client)
    socket.socket(fileno=client.detach()).close()  # an end without close_notify
    assert (await service.reason()).cause is CloseCause.PEER_LOST
    assert caplog.records == []


# Limits -----------------------------------------------------------------------------------------------


async def test_the_deadline_is_of_everything_before_the_handler(service: Service) -> None:
    await service.begin(limits=ConnectionLimits(handshake_timeout=SHORT), preface=ProxyProtocol())
    sock = service.raw()
    sock.sendall(b"PROXY UNKNOWN\r\n" + first_flight(service.authority))
    reason = await service.reason()
    assert (reason.cause, reason.tls_failure) == (CloseCause.HANDSHAKE_TIMEOUT, TlsFailure.TIMEOUT)
    assert reason.age >= SHORT


async def test_no_more_handshakes_than_may_be(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "MIN_AGE", 1000.0)
    plain = AsyncTcpConnectionServer("127.0.0.1:0")
    await service.begin(limits=ConnectionLimits(max_handshakes=3, handshake_timeout=60), also=(plain,))
    silent = [service.raw() for _ in range(3)]
    await until(lambda: service.servers[0].paused)
    assert len(service.spawner.connections) == 3
    waiting = asyncio.create_task(service.shaken())
    other = service.raw(plain)  # has no handshake, and waits for none
    other.sendall(b"x")
    assert await asyncio.to_thread(other.recv, 1) == b"x"
    assert not waiting.done()
    silent.pop().close()
    client = await waiting
    assert await service.spoken_to(client)  # and whoever is served is in no handshake any more
    assert await service.spoken_to(await service.shaken())
    silent.pop().close()
    await until(lambda: service.spawner.stats.tls_failures == {TlsFailure.ENDED: 2})
    assert not service.servers[0].paused


async def test_the_limit_holds_for_those_who_fail_at_once(service: Service) -> None:
    await service.begin(limits=ConnectionLimits(max_handshakes=1))
    for _ in range(3):
        await send(service, b"hello?")
    assert await service.spoken_to(await service.shaken())
    assert service.spawner.stats.tls_failures == {TlsFailure.PLAINTEXT: 3}


async def test_a_few_addresses_do_not_hold_all_places(service: Service) -> None:
    await service.begin(limits=ConnectionLimits(max_handshakes=40, handshake_timeout=60))
    silent = [service.raw(host=f"127.0.0.{2 + number % 3}") for number in range(90)]
    await until(lambda: service.spawner.stats.accepted == 90)
    assert not service.servers[0].paused
    assert await service.spoken_to(await service.shaken())
    stats = service.spawner.stats
    assert stats.causes == {CloseCause.TOO_MANY_HANDSHAKES: 90 - (stats.active - 1)}
    assert stats.active < 40
    for sock in silent:
        sock.close()


async def test_so_many_handshakes_of_one_peer(service: Service) -> None:
    await service.begin(limits=ConnectionLimits(max_handshakes_per_peer=2))
    silent = [service.raw() for _ in range(3)]
    assert await service.spoken_to(await service.shaken(host="127.0.0.2"))
    assert service.spawner.stats.causes == {CloseCause.TOO_MANY_HANDSHAKES: 1}
    silent[0].close()
    await until(lambda: service.spawner.stats.cut == 1)
    assert await service.spoken_to(await service.shaken())
    assert await service.spoken_to(await service.shaken())  # who is served is in no handshake


@pytest.mark.parametrize("prefaced", [False, True])
async def test_the_oldest_handshake_gives_way(
    service: Service, prefaced: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aionet")
    monkeypatch.setattr(handshakes, "MIN_AGE", 0.05)
    preface = ProxyProtocol() if prefaced else None
    header = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n" if prefaced else b""
    await service.begin(limits=ConnectionLimits(max_handshakes=2, handshake_timeout=60), preface=preface)
    silent = [service.raw() for _ in range(2)]
    await until(lambda: service.servers[0].paused)
    for _ in range(2):
        assert await service.spoken_to(await service.shaken(first=header))
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(silent[0].recv, 1)
    assert service.spawner.stats.causes == {CloseCause.HANDSHAKE_EVICTED: 1}
    assert (service.reasons[0].phase, service.reasons[0].by) == ("handshake", "server")
    assert service.reasons[0].tls_failure is None
    assert service.spawner.stats.tls_failures == {}
    assert "cut: handshake evicted" in caplog.text


async def test_clients_behind_a_proxy_are_peers_of_their_own(service: Service) -> None:
    """Before its header a connection is of no peer; after it, it is the client's."""
    limits = ConnectionLimits(max_handshakes_per_peer=1, handshake_timeout=60)
    await service.begin(limits=limits, preface=ProxyProtocol())
    silent = [service.raw() for _ in range(5)]
    await until(lambda: service.spawner.stats.active == 5)
    for sock in silent[:2]:
        sock.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n")
    await until(lambda: service.spawner.stats.rejected == 1)
    assert service.spawner.stats.causes == {CloseCause.TOO_MANY_HANDSHAKES: 1}
    other = b"PROXY TCP4 192.0.2.8 198.51.100.1 56324 443\r\n"
    assert await service.spoken_to(await service.shaken(first=other))


async def test_too_many_of_a_peer_are_turned_away_before_the_handshake(service: Service) -> None:
    await service.begin(limits=ConnectionLimits(max_per_peer=1))
    assert await service.spoken_to(await service.shaken())
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(service.raw().recv, 1)
    assert service.spawner.stats.causes == {CloseCause.TOO_MANY_OF_PEER: 1}
    assert service.spawner.stats.tls_failures == {}


async def test_the_limits_of_those_who_are_served(service: Service) -> None:
    """An idle one ends in good order; who has left is known though nobody reads."""
    await service.begin(limits=ConnectionLimits(idle_timeout=SHORT))
    client = await service.shaken()
    assert await service.spoken_to(client)
    assert await asyncio.to_thread(client.recv, 1) == b""  # after a close_notify
    assert (await service.reason()).cause is CloseCause.IDLE


async def test_a_peer_that_leaves_is_noticed(service: Service) -> None:
    gone = asyncio.Event()

    async def watch(sock: Any) -> None:
        await sock.peer_gone.wait()
        gone.set()

    service.echo = watch  # type: ignore[method-assign]
    await service.begin(limits=ConnectionLimits(on_peer_gone="event"))
    (await service.shaken()).close()
    async with asyncio.timeout(PATIENCE):
        await gone.wait()


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("3", TypeError), (True, TypeError)])
async def test_bad_limits(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_handshakes must be"):
        ConnectionLimits(max_handshakes=value)
