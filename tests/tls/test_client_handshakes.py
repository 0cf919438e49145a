"""What a client verifies, offers and is told when it is refused, or refuses."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl

import pytest
import trustme
from helpers import begin, open_sockets
from peers import RawListener
from tls_peers import HOST, contexts

from aionet import (
    AsyncTcpSocket,
    AsyncUnixSocket,
    ConnectionLostError,
    SocketClosedError,
    TlsError,
    TlsFailure,
)

from .scenes import TLS_VERSIONS, dialed_to, failing_server, shaking_peer

pytestmark = pytest.mark.asyncio

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def server_context(authority: trustme.CA, *names: str, **how: object) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **how).configure_cert(context)
    return context


def client_context(authority: trustme.CA | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is not None:
        authority.configure_trust(context)
    return context


async def refused(server: ssl.SSLContext, client: ssl.SSLContext | bool, **how: object) -> TlsError:
    """Connect, and return the error with which that fails; the server is told of it by an alert."""
    async with shaking_peer(server) as (address, peer):
        with pytest.raises(TlsError) as caught:
            await AsyncTcpSocket().connect_to(address, tls=client, **{"server_hostname": HOST, **how})
        await asyncio.wait([peer])
        assert isinstance(peer.exception(), ssl.SSLError)
        assert "ALERT" in peer.exception().reason
    assert caught.value.operation == "handshake"
    assert caught.value.peer_address.port == address[1]
    return caught.value


# Certificates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_bytes_go_both_ways(version):
    async with dialed_to(*contexts(version)) as (sock, peer):
        await sock.write(b"question")
        assert await peer.receive_exactly(8) == b"question"
        peer.send_now(b"answer")
        assert await sock.read() == b"answer"


async def test_an_untrusted_certificate_is_refused_by_default():
    error = await refused(contexts().server, True)
    assert error.failure is TlsFailure.CERTIFICATE_UNTRUSTED
    assert not error.by_peer
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert "issuer" in str(error)


async def test_a_certificate_for_another_name_is_refused():
    error = await refused(*contexts(), server_hostname="other.example")
    assert error.failure is TlsFailure.CERTIFICATE_WRONG_NAME
    assert "other.example" in str(error)


async def test_the_host_is_what_the_certificate_has_to_be_for():
    authority = trustme.CA()
    how = {"server_hostname": None}
    error = await refused(server_context(authority, HOST), client_context(authority), **how)
    assert error.failure is TlsFailure.CERTIFICATE_WRONG_NAME
    assert "127.0.0.1" in str(error)
    async with dialed_to(server_context(authority, "127.0.0.1"), client_context(authority), **how) as pair:
        assert pair.socket.tls.server_name == "127.0.0.1"


@pytest.mark.parametrize(
    ("validity", "failure"),
    [
        ({"not_after": NOW - DAY}, TlsFailure.CERTIFICATE_EXPIRED),
        ({"not_before": NOW + DAY}, TlsFailure.CERTIFICATE_NOT_YET_VALID),
    ],
)
async def test_a_certificate_out_of_its_time_is_refused(validity, failure):
    authority = trustme.CA()
    error = await refused(server_context(authority, HOST, **validity), client_context(authority))
    assert error.failure is failure
    assert str(failure) in str(error)


# What the two do not have in common -------------------------------------------------------------------------


async def test_no_common_version():
    server, client = contexts(TLS_VERSIONS[0]).server, contexts(TLS_VERSIONS[1]).client
    async with shaking_peer(server) as (address, peer):
        with pytest.raises(TlsError) as caught:
            await AsyncTcpSocket().connect_to(address, tls=client, server_hostname=HOST)
        await asyncio.wait([peer])
    assert caught.value.failure is TlsFailure.NO_COMMON_VERSION
    assert caught.value.by_peer
    assert "the peer refused" in str(caught.value)


async def test_no_common_cipher():
    server, client = contexts.__wrapped__(TLS_VERSIONS[1])
    server.set_ciphers("ECDHE+AES256")
    client.set_ciphers("ECDHE+AES128")
    async with shaking_peer(server) as (address, peer):
        with pytest.raises(TlsError) as caught:
            await AsyncTcpSocket().connect_to(address, tls=client, server_hostname=HOST)
        await asyncio.wait([peer])
    assert caught.value.failure is TlsFailure.NO_COMMON_CIPHER


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_application_protocols_are_agreed_on(version):
    server, client = contexts.__wrapped__(version)
    server.set_alpn_protocols(["h2", "imap"])
    client.set_alpn_protocols(["imap", "pop3"])
    async with dialed_to(server, client) as (sock, peer):
        assert sock.tls.alpn_protocol == "imap"
        assert peer.sock.tls.selected_alpn_protocol() == "imap"


async def test_the_server_is_told_the_name():
    server, client = contexts.__wrapped__()
    asked = []
    server.sni_callback = lambda tls, name, context: asked.append(name)
    async with dialed_to(server, client) as (sock, _):
        assert asked == [HOST] == [sock.tls.server_name]


async def test_a_name_that_the_server_does_not_know():
    server, client = contexts.__wrapped__()
    server.sni_callback = lambda tls, name, context: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    async with shaking_peer(server) as (address, peer):
        with pytest.raises(TlsError) as caught:
            await AsyncTcpSocket().connect_to(address, tls=client, server_hostname=HOST)
        await asyncio.wait([peer])
    assert caught.value.failure is TlsFailure.UNKNOWN_NAME
    assert caught.value.by_peer


# Client certificates ----------------------------------------------------------------------------------------


def mutual(version: ssl.TLSVersion, *, presents: trustme.CA | None) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of which the server's demands a certificate; the client has one of `presents`."""
    server, client = contexts.__wrapped__(version)
    server.verify_mode = ssl.CERT_REQUIRED
    CLIENTS.configure_trust(server)
    if presents is not None:
        presents.issue_cert("alice@example.org", common_name="alice").configure_cert(client)
    return server, client


CLIENTS = trustme.CA()


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_a_client_presents_its_certificate(version):
    async with dialed_to(*mutual(version, presents=CLIENTS)) as (sock, peer):
        subject = dict(entry[0] for entry in peer.sock.tls.getpeercert()["subject"])
        assert subject["commonName"] == "alice"
        peer.send_now(b"welcome")
        assert await sock.read() == b"welcome"


@pytest.mark.parametrize("version", TLS_VERSIONS)
@pytest.mark.parametrize(
    ("presents", "failure"),
    [(None, TlsFailure.CERTIFICATE_MISSING), (trustme.CA(), TlsFailure.CERTIFICATE_UNTRUSTED)],
)
async def test_a_client_learns_that_its_certificate_is_not_accepted(version, presents, failure):
    server, client = mutual(version, presents=presents)
    sock = AsyncTcpSocket()
    async with shaking_peer(server) as (address, peer):

        async def use() -> None:
            await sock.connect_to(address, tls=client, server_hostname=HOST)
            await sock.read()  # in TLS 1.3 a client is done before the server has looked

        with pytest.raises(TlsError) as caught:
            await use()
        await asyncio.wait([peer])
        assert caught.value.by_peer
        assert caught.value.failure is failure
        if not sock.closed and sock.fileno() != -1:
            with pytest.raises(TlsError) as again:  # a loss stays a loss
                await sock.write(b"x")
            assert again.value.failure is failure
        await sock.aclose()


# Peers that are none ----------------------------------------------------------------------------------------


async def failed_by(server_side) -> TlsError:
    """Connect to a server that does `server_side` with the raw connection; return what came of it."""
    async with failing_server(server_side) as address:
        with pytest.raises(TlsError) as caught:
            await AsyncTcpSocket().connect_to(address, tls=contexts().client, server_hostname=HOST)
    return caught.value


async def test_a_server_that_does_not_speak_tls():
    error = await failed_by(lambda peer: peer.send_now(b"220 mail.example ESMTP\r\n"))
    assert error.failure is TlsFailure.PLAINTEXT


async def test_a_server_that_hangs_up():
    def hang_up(peer):
        peer.sock.recv(65536)

    error = await failed_by(hang_up)
    assert error.failure is TlsFailure.ENDED


async def test_a_server_that_resets():
    def reset(peer):
        peer.sock.recv(1)
        peer.reset()

    error = await failed_by(reset)
    assert error.failure is TlsFailure.RESET
    assert isinstance(error.__cause__, ConnectionLostError)
    assert error.__cause__.errno


# The socket -------------------------------------------------------------------------------------------------


async def test_a_socket_whose_handshake_failed_may_try_again():
    sock = AsyncTcpSocket()
    before = open_sockets()
    with RawListener() as listener:
        failing = asyncio.ensure_future(listener.accept())
        connecting = await begin(sock.connect_to(listener.address, tls=True, server_hostname=HOST))
        with await failing as peer:
            peer.send_now(b"no")
            with pytest.raises(TlsError):
                await connecting
    assert open_sockets() == before
    assert not sock.closed
    async with shaking_peer(contexts().server) as (address, _):
        await sock.connect_to(address, tls=contexts().client, server_hostname=HOST)
        sock.abort()


@pytest.mark.parametrize("how", ["cancelled", "aclose", "abort"])
async def test_a_handshake_that_is_broken_off_leaves_nothing(how):
    with RawListener() as listener:
        before = open_sockets()
        sock = AsyncTcpSocket()
        connecting = await begin(
            sock.connect_to(listener.address, tls=contexts().client, server_hostname=HOST)
        )
        peer = await listener.accept()
        assert await peer.receive(1) == b"\x16"  # the handshake has begun
        if how == "cancelled":
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
        else:
            await sock.aclose() if how == "aclose" else sock.abort()
            with pytest.raises(SocketClosedError):
                await connecting
        peer.stop()
        assert open_sockets() == before


@pytest.mark.parametrize(
    ("tls", "hostname", "error", "says"),
    [
        ("yes", None, TypeError, "tls must be an ssl.SSLContext"),
        (1, None, TypeError, "tls must be an ssl.SSLContext"),
        (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), None, ValueError, "for servers"),
        (None, HOST, ValueError, "server_hostname='server.example'"),
        (True, "", ValueError, "server_hostname=''"),
        (True, 5, TypeError, "server_hostname must be a text, not 5"),
        (True, ".example", ValueError, "server_hostname='.example'"),
        (True, "a" * 64 + ".example", ValueError, "is not the name of a host"),
        (True, "server\n.example", ValueError, "is not the name of a host"),
        (True, "server .example", ValueError, "is not the name of a host"),
        (True, ".", ValueError, "server_hostname='.' is not the name of a host"),
        (True, "server\0.example", ValueError, "is not the name of a host"),
    ],
)
async def test_bad_arguments_are_refused_before_any_io(tls, hostname, error, says):
    with pytest.raises(error, match=says):
        await AsyncTcpSocket().connect_to(("127.0.0.1", 1), tls=tls, server_hostname=hostname)


async def test_truncation_is_a_matter_of_tls():
    with pytest.raises(ValueError, match="accept_truncation=True"):
        await AsyncTcpSocket().connect_to(("127.0.0.1", 1), accept_truncation=True)


async def test_a_unix_socket_has_no_name_of_its_own():
    with pytest.raises(ValueError, match="server_hostname=None"):
        await AsyncUnixSocket().connect_to("/nowhere", tls=True)


async def test_a_context_that_compares_no_names_needs_none():
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    async with dialed_to(contexts().server, client, server_hostname="") as (sock, _):
        assert sock.tls.peer_certificate == {}  # it was not verified
        assert sock.tls.peer_certificate_der
        assert sock.tls.server_name is None


async def test_a_unix_socket_speaks_tls_too(tmp_path):
    with RawListener(f"{tmp_path}/socket", socket.AF_UNIX) as listener:
        async with shaking_peer(contexts().server, listener) as (address, shaking), AsyncUnixSocket() as sock:
            await sock.connect_to(address, tls=contexts().client, server_hostname=HOST)
            peer = await shaking
            await sock.write(b"hello")
            assert await peer.receive_exactly(5) == b"hello"
            peer.half_close()
