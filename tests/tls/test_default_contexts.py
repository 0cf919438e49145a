"""The default contexts of clients and servers, and the names that they compare."""

from __future__ import annotations

import logging
import ssl

import pytest

from aionet import SocketAddress
from aionet.cli.tls_options import ClientTlsOptions
from aionet.tls import contexts
from aionet.tls.client import client_tls, name_in_certificate


def facts(context: ssl.SSLContext) -> tuple[object, ...]:
    kept = ("protocol", "options", "verify_mode", "verify_flags", "check_hostname", "minimum_version")
    return (
        *(getattr(context, name) for name in kept),
        context.cert_store_stats(),
        len(context.get_ciphers()),
    )


@pytest.mark.parametrize("purpose", [ssl.Purpose.SERVER_AUTH, ssl.Purpose.CLIENT_AUTH])
@pytest.mark.parametrize("kind", ["no folder", "no file"])
def test_a_key_log_that_cannot_be_written_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path, purpose, kind
):
    path = tmp_path / "none" / "keys" if kind == "no folder" else tmp_path
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    contexts._warn.cache_clear()
    found = [contexts.default_context(purpose) for _ in range(2)]
    (record,) = caplog.records
    assert (record.levelno, str(path) in record.getMessage()) == (logging.WARNING, True)
    monkeypatch.delenv("SSLKEYLOGFILE")
    for context in found:
        assert facts(context) == facts(ssl.create_default_context(purpose))


def test_a_key_log_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = contexts.default_context(ssl.Purpose.SERVER_AUTH)
    assert context.keylog_filename == str(tmp_path / "keys")


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "none" / "keys"))
    with pytest.raises(FileNotFoundError):
        contexts.default_context(ssl.Purpose.SERVER_AUTH, cafile=str(tmp_path / "none.pem"))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("example.org", "example.org"),
        ("example.org.", "example.org"),
        ("fe80::1%eth0", "fe80::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("::1", "::1"),
        ("", "localhost"),
    ],
)
def test_the_name_in_a_certificate(host, name):
    """The command line has the same as `connect_to`."""
    assert name_in_certificate(host) == name
    context = ssl.create_default_context()
    assert ClientTlsOptions(context, None).name_for(SocketAddress(host, port=443)) == name
    assert client_tls(True, None, name_in_certificate(host), False).server_hostname == name
    if host:  # a name of its own is the same
        assert client_tls(True, host, "other.example", False).server_hostname == name
