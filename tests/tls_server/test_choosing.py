"""`choose`: the context that it returns is the one that holds, whatever the client says first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from helpers import begin, require_program, until
from peers import PATIENCE, RawPeer

import aionet
from aionet import CloseCause, ConnectionLimits, ServerTls, SocketClosedError, TlsError, TlsFailure, TlsInfo

from .authority import Authority, Pair, handshake_in_memory

pytestmark = pytest.mark.asyncio

LAX, STRICT = "lax.example", "strict.example"
by_version = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


class Hosts:
    """Two hosts behind one server: one asks its clients for a certificate, the other does not."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.pair = authority.pair("server", LAX, STRICT)
        self.mine = authority.pair("client", "me@example.org")
        self.strict = authority.server(self.pair)
        self.strict.load_verify_locations(cafile=authority.file)
        self.strict.verify_mode = ssl.CERT_REQUIRED
        self.asked: list[str | None] = []
        self.served: list[TlsInfo] = []
        self.spawner: Any = None

    def choose(self, name: str | None) -> ssl.SSLContext | None:
        self.asked.append(name)
        return self.strict if name == STRICT else None

    async def choose_slowly(self, name: str | None) -> ssl.SSLContext | None:
        await asyncio.sleep(0)
        return self.choose(name)

    async def greet(self, sock: Any) -> None:
        self.served.append(sock.tls)
        await sock.write(b"hello")
        await sock.read()

    def tls(self, choose: Any = None, **options: Any) -> ServerTls:
        return ServerTls(*self.pair.files, choose=choose or self.choose, **options)

    @contextlib.asynccontextmanager
    async def serving(self, tls: ServerTls | None = None, **limits: Any) -> AsyncIterator[int]:
        """Serve, and yield the port."""
        server = aionet.AsyncTcpConnectionServer("127.0.0.1:0", tls=tls or self.tls())
        self.spawner = aionet.ConnectionSpawner(self.greet, limits=ConnectionLimits(**limits))
        serving = asyncio.create_task(self.spawner.serve(server))
        try:
            await asyncio.sleep(0)
            yield server.address.port
        finally:
            await self.spawner.drain(0.0)
            await serving

    def client(
        self, certificate: Pair | None = None, version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        context = self.authority.client(certificate)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    @property
    def failures(self) -> dict[TlsFailure, int]:
        failures: dict[TlsFailure, int] = self.spawner.stats.tls_failures
        return failures


@pytest.fixture
def hosts(authority: Authority) -> Hosts:
    return Hosts(authority)


async def visit(
    port: int, context: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None = None
) -> tuple[bool | None, ssl.SSLSession | None]:
    """Be served at `port` as a client that asks for the host `name`.

    Returns whether the session was resumed, and the new one. Raises `ssl.SSLError`.
    """

    def talk() -> tuple[bool | None, ssl.SSLSession | None]:
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE) as sock,
            context.wrap_socket(sock, server_hostname=name, session=session) as wrapped,
        ):
            assert wrapped.recv(100) == b"hello"
            resumed, new = wrapped.session_reused, wrapped.session
            wrapped.unwrap().close()
            return resumed, new

    return await asyncio.to_thread(talk)


def first_flight(
    context: ssl.SSLContext, name: str | None
) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A client that has said its first words into the second of its two buffers."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return client, incoming, outgoing


async def served_after(port: int, context: ssl.SSLContext, name: str, send: Callable[..., Any]) -> bool:
    """Whether a client is served whose first flight `send(peer, flight)` sends."""
    client, incoming, outgoing = first_flight(context, name)
    with await RawPeer.connect(("127.0.0.1", port)) as peer:
        await send(peer, outgoing.read())
        while True:
            data = await peer.receive()
            if not data:
                return False
            incoming.write(data)
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
            finally:
                await peer.send(outgoing.read())
            while True:
                try:
                    return client.read(100) == b"hello"
                except ssl.SSLWantReadError:
                    incoming.write(await peer.receive())
                except ssl.SSLError:
                    return False


# What holds -------------------------------------------------------------------------------------------


@by_version
@pytest.mark.parametrize("slowly", [False, True])
async def test_a_certificate_that_the_chosen_context_requires(
    hosts: Hosts, version: ssl.TLSVersion, slowly: bool
) -> None:
    async with hosts.serving(hosts.tls(hosts.choose_slowly if slowly else None)) as port:
        with pytest.raises(ssl.SSLError, match="alert"):
            await visit(port, hosts.client(version=version), STRICT)
        await until(lambda: hosts.failures)
        assert hosts.failures == {TlsFailure.CERTIFICATE_MISSING: 1}
        assert hosts.served == []
        await visit(port, hosts.client(version=version), LAX)
        await visit(port, hosts.client(hosts.mine, version), STRICT)
        assert [info.server_name for info in hosts.served] == [LAX, STRICT]
        assert [info.peer_certificate_der for info in hosts.served] == [None, hosts.mine.serial]
    assert hosts.asked == [STRICT, LAX, STRICT]


async def test_the_versions_of_the_chosen_context(hosts: Hosts) -> None:
    modern = hosts.authority.server(hosts.pair)
    modern.minimum_version = ssl.TLSVersion.TLSv1_3
    async with hosts.serving(hosts.tls(lambda name: modern if name == STRICT else None)) as port:
        old = hosts.client(version=ssl.TLSVersion.TLSv1_2)
        with pytest.raises(ssl.SSLError, match="protocol version"):
            await visit(port, old, STRICT)
        await visit(port, old, LAX)
        await visit(port, hosts.client(), STRICT)
        assert [info.version for info in hosts.served] == ["TLSv1.2", "TLSv1.3"]
        assert hosts.failures == {TlsFailure.NO_COMMON_VERSION: 1}


@by_version
@pytest.mark.parametrize("tickets", [True, False])
async def test_a_session_of_another_context_is_not_resumed(
    hosts: Hosts, version: ssl.TLSVersion, tickets: bool
) -> None:
    stranger = hosts.client(version=version)
    if not tickets:
        stranger.options |= ssl.OP_NO_TICKET
    async with hosts.serving() as port:
        _, session = await visit(port, stranger, LAX)
        resumed, session = await visit(port, stranger, LAX, session)
        assert resumed
        stranger.check_hostname = False  # an ssl.SSLContext of a client looks at names only
        with pytest.raises(ssl.SSLError, match="alert"):
            await visit(port, stranger, STRICT, session)
        await until(lambda: hosts.failures)
        assert hosts.failures == {TlsFailure.CERTIFICATE_MISSING: 1}
        known = hosts.client(hosts.mine, version)
        _, session = await visit(port, known, STRICT)
        resumed, _ = await visit(port, known, STRICT, session)
        assert resumed
        assert hosts.served[-1].peer_certificate_der == hosts.mine.serial


async def test_the_names_of_the_certificates_when_nothing_is_chosen(authority: Authority) -> None:
    first, second = authority.pair("1", "a.example"), authority.pair("2", "b.example")
    tls = ServerTls(*first.files, also=[second.files], choose=lambda name: None)
    seen = []
    async with aionet.AsyncTcpConnectionServer("127.0.0.1:0", tls=tls) as server:
        for name in ("a.example", "b.example"):
            client = aionet.AsyncTcpSocket()
            connecting = await begin(
                client.connect_to(server.address, tls=authority.client(), server_hostname=name)
            )
            async with await server.accept() as sock:
                await connecting
                seen.append((sock.tls.server_name, client.tls.peer_certificate_der))  # type: ignore[union-attr]
                client.abort()
    assert seen == [("a.example", first.serial), ("b.example", second.serial)]


# Programs that others wrote ---------------------------------------------------------------------------


def is_greeted(command: list[Any]) -> bool:
    """Whether a program that talks to the server is greeted by it."""
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = b""
        while b"hello" not in said and (data := process.stdout.read1(65536)):  # type: ignore[attr-defined]
            said += data
        try:
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return b"hello" in said


def openssl(hosts: Hosts, port: int, name: str, version: str, *more: Any) -> list[Any]:
    where = ["-connect", f"127.0.0.1:{port}", "-servername", name, "-CAfile", hosts.authority.file]
    return [require_program("openssl"), "s_client", *where, f"-tls{version.replace('.', '_')}", *more]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_openssl_is_asked_for_its_certificate(hosts: Hosts, version: str) -> None:
    session = hosts.authority.directory / "session"
    mine = ["-cert", hosts.mine.certificate, "-key", hosts.mine.key]
    async with hosts.serving() as port:
        for name, more, expected in (
            (LAX, ["-sess_out", session], True),
            (STRICT, [], False),
            (STRICT, ["-sess_in", session], False),
            (STRICT, mine, True),
        ):
            command = openssl(hosts, port, name, version, *more)
            assert await asyncio.to_thread(is_greeted, command) is expected, (name, more)
        assert session.exists()
        assert hosts.failures == {TlsFailure.CERTIFICATE_MISSING: 2}


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_gnutls_is_asked_for_its_certificate(hosts: Hosts, version: str) -> None:
    program = [require_program("gnutls-cli"), "127.0.0.1", f"--x509cafile={hosts.authority.file}"]
    priority = f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
    mine = [f"--x509certfile={hosts.mine.certificate}", f"--x509keyfile={hosts.mine.key}"]
    async with hosts.serving() as port:
        for name, more, expected in ((LAX, [], True), (STRICT, [], False), (STRICT, mine, True)):
            names = [f"--sni-hostname={name}", f"--verify-hostname={name}"]
            command = [*program, f"--port={port}", priority, *names, *more]
            assert await asyncio.to_thread(is_greeted, command) is expected, (name, more)
        assert hosts.failures == {TlsFailure.CERTIFICATE_MISSING: 1}


# What clients say first -------------------------------------------------------------------------------


async def test_a_client_that_names_no_host(hosts: Hosts) -> None:
    async with hosts.serving(hosts.tls(lambda name: hosts.choose(name) or hosts.strict)) as port:
        context = hosts.client()
        context.check_hostname = False
        with pytest.raises(ssl.SSLError, match="alert"):
            await visit(port, context, None)
        await until(lambda: hosts.failures)
        assert (hosts.asked, hosts.served) == ([None], [])


async def byte_by_byte(peer: RawPeer, flight: bytes) -> None:
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(len(flight)):
        await peer.send(flight[number : number + 1])


def in_records_of(size: int) -> Callable[..., Any]:
    async def send(peer: RawPeer, flight: bytes) -> None:
        header, message = flight[:3], flight[5:]
        pieces = [message[at : at + size] for at in range(0, len(message), size)]
        await peer.send(b"".join(header + len(piece).to_bytes(2) + piece for piece in pieces))

    return send


@pytest.mark.parametrize(
    "send", [byte_by_byte, in_records_of(2), in_records_of(60)], ids=["bytes", "2", "60"]
)
async def test_a_client_hello_in_pieces(hosts: Hosts, send: Callable[..., Any]) -> None:
    async with hosts.serving() as port:
        assert not await served_after(port, hosts.client(), STRICT, send)
        await until(lambda: hosts.failures)
        assert await served_after(port, hosts.client(hosts.mine), STRICT, send)
        assert await served_after(port, hosts.client(), LAX, send)
        assert (hosts.asked, hosts.failures) == ([STRICT, STRICT, LAX], {TlsFailure.CERTIFICATE_MISSING: 1})


async def test_protocols_in_a_client_hello_in_pieces(hosts: Hosts) -> None:
    async with hosts.serving(hosts.tls(alpn=["h2"])) as port:
        context = hosts.client()
        context.set_alpn_protocols(["x"])
        assert not await served_after(port, context, LAX, in_records_of(60))
        await until(lambda: hosts.failures)
        assert hosts.failures == {TlsFailure.NO_COMMON_PROTOCOL: 1}
        assert hosts.asked == []  # it is refused whatever would be chosen


async def test_a_hello_retry_request(hosts: Hosts) -> None:
    """The client's key share is of no use to the server, and so it says hello twice."""
    hosts.strict.set_ecdh_curve("secp521r1")
    async with hosts.serving() as port:
        with pytest.raises(ssl.SSLError, match="alert"):
            await visit(port, hosts.client(version=ssl.TLSVersion.TLSv1_3), STRICT)
        await visit(port, hosts.client(hosts.mine, ssl.TLSVersion.TLSv1_3), STRICT)
        assert hosts.asked == [STRICT, STRICT]
        assert [info.peer_certificate_der for info in hosts.served] == [hosts.mine.serial]


async def test_what_is_no_client_hello_is_one_without_a_name(hosts: Hosts) -> None:
    async with hosts.serving() as port:
        with await RawPeer.connect(("127.0.0.1", port)) as peer:
            await peer.send(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00")
            assert (await peer.receive())[:1] == b"\x15"
        await until(lambda: hosts.failures)
        assert (hosts.asked, hosts.failures) == ([None], {TlsFailure.PROTOCOL: 1})


async def test_a_name_that_is_not_ascii(hosts: Hosts) -> None:
    """OpenSSL's callback for names raises there, which cannot be caught."""
    async with hosts.serving() as port:
        flight = first_flight(hosts.client(), LAX)[2].read()
        with await RawPeer.connect(("127.0.0.1", port)) as peer:
            await peer.send(flight.replace(LAX.encode(), b"l\xffx.example"))
            assert (await peer.receive())[:1] == b"\x16"  # it is served with the first certificate
        assert hosts.asked == ["l\\xffx.example"]


# Where the choice fails -------------------------------------------------------------------------------


def fail(name: str | None) -> None:
    raise KeyError(name)


async def fail_slowly(name: str | None) -> None:
    await asyncio.sleep(0)
    raise TimeoutError("the store does not answer")


async def await_what_was_cancelled(name: str | None) -> None:
    """As a fetch is that several connections share, and that another one has cancelled."""
    shared = asyncio.get_running_loop().create_future()
    shared.cancel()
    await shared


def cancelled_at_once(name: str | None) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        (await_what_was_cancelled, "asyncio.exceptions.CancelledError"),
        (cancelled_at_once, "asyncio.exceptions.CancelledError"),
        (fail, "KeyError: 'lax.example'"),
        (fail_slowly, "the store does not answer"),
        (lambda name: "lax.pem", "choose must return an ssl.SSLContext or None, not 'lax.pem'"),
        (lambda name: ssl.create_default_context(), "a context for clients"),
    ],
    ids=[
        "awaits a cancelled future",
        "raises CancelledError",
        "raises",
        "raises later",
        "another type",
        "a client's",
    ],
)
async def test_a_choice_that_fails(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, choose: Any, says: str
) -> None:
    async with hosts.serving(hosts.tls(choose)) as port:
        with pytest.raises(ssl.SSLError, match="alert internal error"):
            await visit(port, hosts.client(), LAX)
        await until(lambda: hosts.failures)
        assert (hosts.failures, hosts.served) == ({TlsFailure.UNKNOWN_NAME: 1}, [])
    assert "the choice of a certificate for 'lax.example' failed" in caplog.text
    assert says in caplog.text


class Endless:
    """A choice that never comes to an end."""

    def __init__(self) -> None:
        self.began, self.ended = asyncio.Event(), asyncio.Event()

    async def __call__(self, name: str | None) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def say_hello(hosts: Hosts, port: int, context: ssl.SSLContext | None = None) -> RawPeer:
    peer = await RawPeer.connect(("127.0.0.1", port))
    await peer.send(first_flight(context or hosts.client(), LAX)[2].read())
    return peer


async def test_a_choice_that_takes_too_long(hosts: Hosts) -> None:
    choose = Endless()
    async with hosts.serving(hosts.tls(choose), handshake_timeout=0.2) as port:
        with await say_hello(hosts, port) as peer:
            with pytest.raises(ConnectionResetError):
                await peer.receive()
            await choose.ended.wait()
        await until(lambda: not hosts.spawner.connections)
        assert hosts.failures == {TlsFailure.TIMEOUT: 1}
        assert hosts.spawner.stats.causes == {CloseCause.HANDSHAKE_TIMEOUT: 1}


async def test_a_drain_during_the_choice(hosts: Hosts) -> None:
    choose = Endless()
    async with hosts.serving(hosts.tls(choose)) as port:
        with await say_hello(hosts, port):
            await choose.began.wait()
            report = await hosts.spawner.drain(0.0)
            assert choose.ended.is_set()
            assert (report.cancelled, report.aborted) == (1, 0)


@contextlib.asynccontextmanager
async def going_over(
    hosts: Hosts, tls: ServerTls, client: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Any, RawPeer, asyncio.Task[None]]]:
    """A socket that goes over to TLS as a server, its peer, which has said hello, and the task."""
    async with aionet.AsyncTcpConnectionServer("127.0.0.1:0") as server:
        accepting = await begin(server.accept())
        with await say_hello(hosts, server.address.port, client) as peer:
            sock = await accepting
            try:
                yield sock, peer, await begin(sock.start_tls(tls, server_side=True))
            finally:
                sock.abort()


@pytest.mark.parametrize("end", ["abort", "aclose", "cancel"])
async def test_a_socket_that_ends_during_the_choice(hosts: Hosts, end: str) -> None:
    choose = Endless()
    async with going_over(hosts, hosts.tls(choose)) as (sock, _, starting):
        await choose.began.wait()
        if end == "abort":
            sock.abort()
        elif end == "aclose":
            await sock.aclose()
        else:
            starting.cancel()
        with pytest.raises(asyncio.CancelledError if end == "cancel" else SocketClosedError):
            await starting
        assert choose.ended.is_set()
        assert sock.fileno() == -1


async def test_going_over_to_tls_has_the_same_rules(hosts: Hosts) -> None:
    client = hosts.client()
    client.set_alpn_protocols(["x"])
    async with going_over(hosts, hosts.tls(alpn=["h2"]), client) as (_, peer, starting):
        with pytest.raises(TlsError) as caught:
            await starting
        assert caught.value.failure is TlsFailure.NO_COMMON_PROTOCOL
        assert await peer.receive() == b"\x15\x03\x03\x00\x02\x02\x78"


async def test_an_accept_with_a_choice_that_takes_too_long(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aionet.tls_handshakes._SECONDS", 0.1)
    caplog.set_level(logging.INFO, "aionet")
    choose = Endless()
    async with aionet.AsyncTcpConnectionServer("127.0.0.1:0", tls=hosts.tls(choose)) as server:
        accepting = await begin(server.accept())
        with await say_hello(hosts, server.address.port) as peer:
            assert await peer.receive() == b""
        assert choose.ended.is_set()
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
    assert "took more than 0.1 s" in caplog.text


async def test_a_context_of_its_own_is_no_detour(authority: Authority) -> None:
    """In memory, without a server: the context for each name demands what it was set up to."""
    pair = authority.pair("server", LAX)
    tls = ServerTls(*pair.files, client_ca=authority.file)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake_in_memory(tls.context_for(LAX), authority.client(), LAX)
