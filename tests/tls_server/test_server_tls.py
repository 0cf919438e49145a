"""`ServerTls`: which files it takes, which certificate it shows to whom, and how it changes while in use."""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import require_program
from peers import PATIENCE

import aionet
from aionet import ServerTls
from aionet.tls.certificates import key_algorithm

from .authority import Authority, Pair, handshake_in_memory, leaf_serial, put


def shown(tls: ServerTls, authority: Authority, name: str | None = "localhost") -> bytes:
    """The certificate that a client gets who asks for the host `name`."""
    _, client = handshake_in_memory(tls.context_for(name), authority.client(), name)
    found = client.getpeercert(binary_form=True)
    assert found is not None
    return found


def certificate_of(context: ssl.SSLContext, authority: Authority) -> bytes | None:
    """The certificate that a client without a name gets from `context`."""
    return handshake_in_memory(context, authority.client(), None)[1].getpeercert(binary_form=True)


# Files ------------------------------------------------------------------------------------------------


def test_two_files_or_one(authority: Authority) -> None:
    pair = authority.pair("server")
    assert shown(ServerTls(*pair.files), authority) == pair.serial
    both = authority.directory / "both.pem"
    both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    assert shown(ServerTls(str(both)), authority) == pair.serial


def test_what_is_in_the_certificate(authority: Authority) -> None:
    pair = authority.pair("server", "A.example", "*.b.example", "127.0.0.1", valid=(-1, 10))
    (certificate,) = ServerTls(*pair.files).certificates
    assert certificate.names == ("a.example", "*.b.example")
    assert certificate.addresses == ("127.0.0.1",)
    assert certificate.key_kind == "1.2.840.10045.2.1"
    assert certificate.not_after - certificate.not_before == 11 * 86400
    assert str(certificate.files) == str(pair.certificate)


def bad_files(authority: Authority) -> dict[str, tuple[tuple[Any, ...], str]]:
    good, other, rsa = authority.pair("good"), authority.pair("other"), authority.pair("rsa", rsa=True)
    garbage = authority.directory / "garbage.pem"
    garbage.write_text("hello")
    return {
        "another key": (
            (good.certificate, other.key),
            f"the private key in {other.key} does not belong to the certificate {good.certificate}",
        ),
        "another kind of key": (
            (good.certificate, rsa.key),
            f"the private key in {rsa.key} does not belong to the certificate {good.certificate}",
        ),
        "exchanged": ((good.key, good.certificate), f"{good.key}: expected a certificate"),
        "no key": ((good.certificate,), f"{good.certificate}: expected a certificate and its private key"),
        "garbage": ((garbage, good.key), f"{garbage}: expected a certificate"),
        "a garbage key": (
            (good.certificate, garbage),
            f"{garbage}: expected a certificate and its private key",
        ),
    }


@pytest.mark.parametrize("what", ["another key", "another kind of key", "exchanged", "no key", "garbage"])
def test_files_that_do_not_fit(authority: Authority, what: str) -> None:
    files, message = bad_files(authority)[what]
    with pytest.raises(ValueError) as caught:
        ServerTls(*files)
    assert message in str(caught.value)


def test_files_that_are_not_there(authority: Authority) -> None:
    pair = authority.pair("server")
    for arguments in ((pair.certificate, "none.key"), ("none.pem", pair.key)):
        with pytest.raises(FileNotFoundError, match="none"):
            ServerTls(*arguments)
    with pytest.raises(FileNotFoundError, match="none"):
        ServerTls(*pair.files, client_ca="none.pem")
    with pytest.raises(ValueError, match=r"server\.key: expected certificates of authorities"):
        ServerTls(*pair.files, client_ca=pair.key)


def test_encrypted_keys(authority: Authority) -> None:
    pair = authority.pair("server")
    encrypted = authority.directory / "encrypted.key"
    subprocess.run(
        [
            require_program("openssl"),
            "ec",
            "-in",
            pair.key,
            "-aes128",
            "-passout",
            "pass:secret",
            "-out",
            encrypted,
        ],
        check=True,
        capture_output=True,
    )
    for password in ("secret", b"secret", lambda: "secret"):
        assert shown(ServerTls(pair.certificate, encrypted, password=password), authority) == pair.serial
    with pytest.raises(ValueError, match=f"the private key in {encrypted} is encrypted: give its password"):
        ServerTls(pair.certificate, encrypted)
    with pytest.raises(ValueError, match=f"the password given is not that of the private key in {encrypted}"):
        ServerTls(pair.certificate, encrypted, password="wrong")
    with pytest.raises(ValueError, match=f"the private key in {encrypted}: password cannot be longer than"):
        ServerTls(pair.certificate, encrypted, password="x" * 2000)


def test_a_certificate_that_no_client_would_take(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        require_program("openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=client",
    ]
    purpose = ["-addext", "extendedKeyUsage=clientAuth", "-keyout", key, "-out", certificate]
    subprocess.run([*command, *purpose], check=True, capture_output=True)
    with pytest.raises(ValueError, match="cannot be a server's: unsuitable certificate purpose"):
        ServerTls(certificate, key)


def test_an_expired_certificate_is_warned_of(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    pair = authority.pair("old", valid=(-10, -2))
    ServerTls(*pair.files)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"certificate {pair.certificate} expired at 20" in caplog.text
    early = authority.pair("early", valid=(2, 10))
    ServerTls(*early.files)
    assert f"certificate {early.certificate} is not valid before 20" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpn": "h2"}, TypeError, "alpn must be several names"),
        ({"alpn": [2]}, TypeError, "must be a text, not 2"),
        ({"alpn": [""]}, ValueError, "'': expected an application protocol's name"),
        ({"alpn": ["x" * 256]}, ValueError, "expected an application protocol's name"),
        ({"key": 3}, TypeError, "path"),
        ({"client_ca": ""}, TypeError, "path"),
    ],
)
def test_bad_arguments(authority: Authority, options: Any, error: type[Exception], message: str) -> None:
    pair = authority.pair("server")
    with pytest.raises(error, match=message):
        ServerTls(**{"certificate": pair.certificate, "key": pair.key, **options})


def test_servers_take_no_context_of_clients() -> None:
    for bad, error in (
        (ssl.create_default_context(), ValueError),
        (True, TypeError),
        ("server.pem", TypeError),
    ):
        with pytest.raises(error, match="tls"):
            aionet.AsyncTcpConnectionServer("127.0.0.1:0", tls=bad)  # type: ignore[arg-type]


# Whom it shows what -----------------------------------------------------------------------------------


def test_the_name_that_is_asked_for_chooses(authority: Authority) -> None:
    first, second = authority.pair("1", "a.example", "*.c.example"), authority.pair("2", "b.example")
    third = authority.pair("3", "www.c.example")
    tls = ServerTls(*first.files, also=[second.files, third.files])
    for name, pair in (
        ("a.example", first),
        ("b.example", second),
        ("B.EXAMPLE", second),
        ("mail.c.example", first),
        ("www.c.example", third),
    ):
        assert shown(tls, authority, name) == pair.serial, name
    assert shown(tls, authority, None) == first.serial
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):  # the client's to judge
        shown(tls, authority, "unknown.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shown(tls, authority, "more.mail.c.example")


def test_rsa_and_ecdsa_for_the_same_names(authority: Authority) -> None:
    elliptic, rsa = authority.pair("ecdsa"), authority.pair("rsa", rsa=True)
    tls = ServerTls(*elliptic.files, also=[rsa.files])
    for ciphers, pair in (("ECDHE+aRSA", rsa), ("ECDHE+aECDSA", elliptic)):
        context = authority.client()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
        _, client = handshake_in_memory(tls.context, context)
        assert client.getpeercert(binary_form=True) == pair.serial


def test_kinds_of_keys_for_a_part_of_the_names(authority: Authority) -> None:
    rsa = authority.pair("rsa", "a.example", "b.example", rsa=True)
    elliptic = authority.pair("ecdsa", "b.example")
    tls = ServerTls(*rsa.files, also=[elliptic.files])
    for name, ciphers, pair in (
        ("a.example", "ECDHE+aRSA", rsa),
        ("b.example", "ECDHE+aRSA", rsa),
        ("b.example", "ECDHE+aECDSA", elliptic),
    ):
        context = authority.client()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
        _, client = handshake_in_memory(tls.context_for(name), context, name)
        assert client.getpeercert(binary_form=True) == pair.serial


def test_the_first_certificate_for_a_name(authority: Authority) -> None:
    first, second = (
        authority.pair("1", "a.example", "b.example"),
        authority.pair("2", "b.example", "c.example"),
    )
    tls = ServerTls(*first.files, also=[second.files])
    for name, pair in (("a.example", first), ("b.example", first), ("c.example", second)):
        assert shown(tls, authority, name) == pair.serial


@pytest.mark.parametrize(
    ("names", "rsa", "message"),
    [
        (
            ("a.example", "127.0.0.1"),
            False,
            "server.pem, with the same kind of key, comes first for a.example, 127",
        ),
        (("a.example",), False, "server.pem, with the same kind of key, comes first for a.example"),
        (("127.0.0.1",), False, "server.pem, with the same kind of key, comes first for 127.0.0.1"),
        (("me@example.org",), True, "it is for no host name and no IP address"),
    ],
)
def test_a_certificate_that_could_never_be_shown(
    authority: Authority, names: tuple[str, ...], rsa: bool, message: str
) -> None:
    pair, other = authority.pair("server", "a.example", "127.0.0.1"), authority.pair("other", *names, rsa=rsa)
    with pytest.raises(ValueError, match=f"other.pem could never be shown: .*{message}"):
        ServerTls(*pair.files, also=[other.files])


def test_certificates_for_ip_addresses(authority: Authority) -> None:
    named, second = authority.pair("0", "a.example"), authority.pair("1", "127.0.0.2", "::1")
    third = authority.pair("2", "127.0.0.3")
    tls = ServerTls(*named.files, also=[second.files, third.files])
    for address, pair in (
        ("127.0.0.2:1", second),
        ("[::ffff:127.0.0.2]:1", second),
        ("[::1]:1", second),
        ("127.0.0.3:1", third),
        ("127.0.0.4:1", named),
    ):
        context = tls.context_for(None, aionet.SocketAddress.parse(address))
        assert certificate_of(context, authority) == pair.serial, address
    assert (
        certificate_of(tls.context_for("127.0.0.3"), authority) == third.serial
    )  # which clients should not do
    assert certificate_of(tls.context_for(None, aionet.UnixAddress("/s")), authority) == named.serial


@pytest.mark.asyncio
async def test_a_client_of_an_ip_address_gets_its_certificate(authority: Authority) -> None:
    first, second = authority.pair("1", "127.0.0.2"), authority.pair("2", "127.0.0.3")
    async with aionet.AsyncTcpConnectionServer(
        "0.0.0.0:0", tls=ServerTls(*first.files, also=[second.files])
    ) as server:
        for host, pair in (("127.0.0.2", first), ("127.0.0.3", second)):

            def connect(host: str = host) -> bytes | None:
                with (
                    socket.create_connection((host, server.address.port), PATIENCE) as sock,
                    authority.client().wrap_socket(sock, server_hostname=host) as client,
                ):
                    return client.getpeercert(binary_form=True)

            connecting = asyncio.create_task(asyncio.to_thread(connect))
            (await server.accept()).abort()
            assert await connecting == pair.serial


@pytest.mark.parametrize(
    ("algorithm", "kind"), [("ed25519", "1.3.101.112"), ("rsa-pss", "1.2.840.113549.1.1.10"), ("rsa", None)]
)
def test_the_kind_of_a_key(tmp_path: Path, algorithm: str, kind: str | None) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        require_program("openssl"),
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        algorithm,
        "-subj",
        "/CN=a.example",
    ]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    assert key_algorithm(der) == (kind or "1.2.840.113549.1.1.1")


def test_clients_certificates(authority: Authority, tmp_path: Path) -> None:
    pair, mine = authority.pair("server"), authority.pair("client", "me@example.org")
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").pair("client", "me@example.org")
    tls = ServerTls(*pair.files, client_ca=authority.file)
    server, _ = handshake_in_memory(tls.context, authority.client(mine))
    assert server.getpeercert(binary_form=True) == mine.serial
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake_in_memory(tls.context, authority.client())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake_in_memory(tls.context, authority.client(stranger))


def test_clients_certificates_may_be_optional(authority: Authority, tmp_path: Path) -> None:
    pair, mine = authority.pair("server"), authority.pair("client", "me@example.org")
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").pair("client", "me@example.org")
    tls = pickle.loads(pickle.dumps(ServerTls(*pair.files, client_ca=authority.file, client_optional=True)))
    server, _ = handshake_in_memory(tls.context, authority.client(mine))
    assert server.getpeercert(binary_form=True) == mine.serial
    server, _ = handshake_in_memory(tls.context, authority.client())
    assert server.getpeercert() is None
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake_in_memory(tls.context, authority.client(stranger))


def refusal_of(tls: ServerTls, authority: Authority, mine: Pair) -> str:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake_in_memory(tls.context, authority.client(mine))
    return caught.value.verify_message


def test_revoked_certificates_of_clients_are_refused(authority: Authority) -> None:
    pair = authority.pair("server")
    mine, theirs = authority.pair("mine", "me@example.org"), authority.pair("theirs", "you@example.org")
    lists = authority.revoke(theirs)
    tls = ServerTls(*pair.files, client_ca=authority.file, client_crl=lists)
    server, _ = handshake_in_memory(tls.context, authority.client(mine))
    assert server.getpeercert(binary_form=True) == mine.serial
    assert refusal_of(tls, authority, theirs) == "certificate revoked"
    authority.revoke(mine, theirs)
    assert tls._signature() != tls._loaded.signature  # `look` will see that it has changed
    assert tls.reload()
    assert refusal_of(tls, authority, mine) == "certificate revoked"


def test_what_revocation_lists_do_not_say_is_not_allowed(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    pair, mine = authority.pair("server"), authority.pair("mine", "me@example.org")
    for lists, why in (
        (authority.revoke(valid=(-2, -1)), "CRL has expired"),
        (Authority(tmp_path / "other").revoke(), "unable to get certificate CRL"),
    ):
        tls = ServerTls(*pair.files, client_ca=authority.file, client_crl=lists)
        assert refusal_of(tls, authority, mine) == why


def test_what_is_wrong_with_revocation_lists_names_the_file(authority: Authority, tmp_path: Path) -> None:
    pair = authority.pair("server")
    mixed, broken = tmp_path / "mixed.pem", tmp_path / "broken.pem"
    mixed.write_bytes(authority.revoke().read_bytes() + pair.certificate.read_bytes())
    broken.write_text("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    for path in (mixed, broken, pair.key):
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}: expected revocation lists"):
            ServerTls(*pair.files, client_ca=authority.file, client_crl=path)
    with pytest.raises(FileNotFoundError):
        ServerTls(*pair.files, client_ca=authority.file, client_crl="none.pem")
    with pytest.raises(ValueError, match="client_optional needs client_ca"):
        ServerTls(*pair.files, client_optional=True)
    with pytest.raises(ValueError, match="client_crl needs client_ca"):
        ServerTls(*pair.files, client_crl=mixed)


def test_protocols_and_versions(authority: Authority) -> None:
    tls = ServerTls(*authority.pair("server").files, alpn=["h2", "http/1.1"])
    assert tls.alpn == ("h2", "http/1.1")
    server, _ = handshake_in_memory(tls.context, authority.client(alpn=("http/1.1", "h2")))
    assert (server.selected_alpn_protocol(), server.version()) == ("h2", "TLSv1.3")
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
    set_up: list[ssl.SSLContext] = []
    configured = ServerTls(*authority.pair("server").files, configure=set_up.append)
    assert configured.context in set_up


# Changes ----------------------------------------------------------------------------------------------


def test_reloading(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aionet.tls")
    pair = authority.pair("server")
    tls = ServerTls(*pair.files)
    before = pair.serial
    assert shown(tls, authority) == before
    pair.replace(authority.leaf("localhost"))
    assert shown(tls, authority) == before
    assert tls.reload()
    assert shown(tls, authority) == pair.serial != before
    assert f"certificate reloaded: {pair.certificate}, valid until 20" in caplog.text


def test_what_is_wrong_is_not_used(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    pair = authority.pair("server")
    tls = ServerTls(*pair.files)
    good = pair.serial
    for leaf, message in (
        (authority.leaf("localhost", valid=(-9, -3)), f"certificate {pair.certificate} expired at"),
        (authority.leaf("localhost", valid=(3, 9)), f"certificate {pair.certificate} is not valid before"),
    ):
        caplog.clear()
        pair.replace(leaf)
        assert not tls.reload()
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert record.exc_info is None
        assert record.getMessage().startswith("certificates were not reloaded, those in use stay: " + message)
        assert shown(tls, authority) == good
    caplog.clear()
    put(pair.certificate, b"nothing")
    pair.key.unlink()
    assert not tls.reload()
    assert f"those in use stay: {pair.key}: No such file or directory" in caplog.text
    assert shown(tls, authority) == good


def test_a_change_of_the_files_is_noticed(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("aionet.tls.server.time.monotonic", lambda: now)
    pair = authority.pair("server")
    tls = ServerTls(*pair.files)
    before = pair.serial
    pair.replace(authority.leaf("localhost"))
    for seconds, expected in ((0.9, before), (1.1, before), (1.9, before), (2.2, pair.serial)):
        now = 1000.0 + seconds
        tls.look()
        assert shown(tls, authority) == expected, seconds


def test_a_bad_change_is_told_once(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr("aionet.tls.server.time.monotonic", lambda: now)
    pair = authority.pair("server")
    tls = ServerTls(*pair.files)
    good = pair.serial

    def look_often() -> None:
        nonlocal now
        for _ in range(5):
            now += 1.1
            tls.look()

    other = authority.leaf("localhost")
    put(pair.key, other.private_key_pem.bytes())
    look_often()
    (record,) = caplog.records
    assert "does not belong to the certificate" in record.getMessage()
    assert shown(tls, authority) == good
    put(pair.certificate, other.cert_chain_pems[0].bytes())  # and now they fit
    look_often()
    assert len(caplog.records) == 1
    assert shown(tls, authority) == leaf_serial(other)


def test_who_was_here_before_a_reload_cannot_resume(authority: Authority) -> None:
    tls, context = ServerTls(*authority.pair("server").files), authority.client()

    def resumed(session: ssl.SSLSession | None) -> tuple[bool | None, ssl.SSLSession | None]:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = tls.context.wrap_bio(to_server, to_client, server_side=True)
        client = context.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
        for step in (client.do_handshake, server.do_handshake, client.do_handshake, server.do_handshake):
            try:
                step()
            except ssl.SSLWantReadError:
                pass
        try:
            client.read(1)  # the tickets
        except ssl.SSLWantReadError:
            pass
        return client.session_reused, client.session

    _, session = resumed(None)
    assert resumed(session)[0]
    assert tls.reload()
    assert not resumed(session)[0]


def test_it_travels(authority: Authority) -> None:
    pair = authority.pair("server")
    tls = ServerTls(*pair.files, alpn=["x"])
    other = pickle.loads(pickle.dumps(tls))
    assert shown(other, authority) == pair.serial
    assert other.alpn == ("x",)
