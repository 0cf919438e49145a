"""Certificates of a server: what is in the files, and whether a client could use it.

Theory of operation
-------------------
*A rehearsal.* OpenSSL takes many a certificate that no client will: one for another purpose, say. So
each certificate, with its key, does one handshake in memory before it is used, with a client that trusts this
very certificate and nothing else. If that works the pair works, and the client knows what is in the
certificate, which `ssl` tells of a peer's only: its names and its dates. Of these the client asks nothing,
because they are the caller's to judge.

*Names.* A certificate is for its DNS names (RFC 6125): whole ones, and ``*.example.org``, which stands for
one label; and for its IP addresses. One without either is for its common name, as older tools have it.

*Kinds of keys.* A context holds one certificate for each kind of key. Of the same kind the last one that is
loaded replaces the others, without a word. So the kind is read from the certificate (RFC 5280, 4.1), which
`ssl` does not do.

*No prompts.* OpenSSL would ask the terminal for the password of an encrypted key, in the middle of a server.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "Certificate",
    "CertificateFiles",
    "EncryptedKeyError",
    "Password",
    "checked_path",
    "key_algorithm",
    "load_certificate",
    "load_pair",
    "matching",
    "reading_authorities",
]

Password: TypeAlias = Callable[[], str | bytes] | str | bytes | None

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of <openssl/x509_vfy.h>, for which ssl has no name
_NOT_PEM = (None, "NO_START_LINE", "PEM_LIB", "BAD_BASE64_DECODE", "BAD_END_LINE", "UNSUPPORTED")
_FLIGHTS = 6  # of a handshake, at the most


class EncryptedKeyError(ValueError):
    """A private key is encrypted, and no password was given."""


class CertificateFiles(NamedTuple):
    """Where a certificate is, with the chain that leads to its authority, and its private key."""

    certificate: str
    key: str | None
    """``None`` where it is in the same file."""

    def __str__(self) -> str:
        return self.certificate


@dataclass(frozen=True)
class Certificate:
    """What is in the files, as far as a server has to know."""

    files: CertificateFiles
    names: tuple[str, ...]
    """DNS names, in small letters; the first label may be ``*``."""
    addresses: tuple[str, ...]
    """IP addresses, as `ipaddress` writes them."""
    key_kind: str
    """The algorithm of its public key, as an object identifier: ``1.2.840.113549.1.1.1`` is RSA."""
    not_before: float
    """Seconds since the epoch."""
    not_after: float
    """Seconds since the epoch."""

    def problem_at(self, now: float) -> str | None:
        """Return what is wrong with its dates at the time `now`, if anything is."""
        if now > self.not_after:
            return f"certificate {self.files} expired at {_as_date(self.not_after)}"
        if now < self.not_before:
            return f"certificate {self.files} is not valid before {_as_date(self.not_before)}"
        return None


def load_certificate(files: CertificateFiles, context: ssl.SSLContext, password: Password) -> Certificate:
    """Load the pair into `context`, which is new, and try it; return what is in the certificate.

    Raises:
        OSError: a file cannot be read; the message names it.
        ValueError: the files hold no such pair, or no client could use it; the message says why.
    """
    load_pair(files, context, password)
    try:
        facts, der = _rehearse(context, files.certificate)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", None) or error.reason or error
        raise ValueError(f"certificate {files} cannot be a server's: {why}") from error
    return Certificate(
        files,
        tuple(dict.fromkeys(name.lower() for name in _names_in(facts))),
        tuple(
            dict.fromkeys(_address(value) for kind, value in _alternatives_in(facts) if kind == "IP Address")
        ),
        key_algorithm(der),
        ssl.cert_time_to_seconds(facts["notBefore"]),
        ssl.cert_time_to_seconds(facts["notAfter"]),
    )


def load_pair(files: CertificateFiles, context: ssl.SSLContext, password: Password) -> None:
    """Load the pair into `context`. Raises `OSError` and `ValueError` as `load_certificate`."""
    for path in filter(None, files):
        _open_once(path)
    ask = _Ask(files, password)
    try:
        context.load_cert_chain(files.certificate, files.key, ask)
    except ssl.SSLError as error:
        raise ValueError(_what_is_wrong(files, error, asked=ask.was_asked)) from error
    except EncryptedKeyError:
        raise
    except ValueError as error:
        raise ValueError(f"the private key in {files.key or files.certificate}: {error}") from error


@contextmanager
def reading_authorities(path: str) -> Iterator[None]:
    """Around what has ssl load the authorities in `path`: `OSError` or `ValueError` names it."""
    _open_once(path)
    try:
        yield
    except ssl.SSLError as error:
        raise ValueError(f"{path}: expected certificates of authorities, as PEM") from error


def _open_once(path: str) -> None:
    """Raise `OSError` if `path` cannot be read: ssl would not say which file it could not open."""
    with open(path, "rb"):
        pass


def matching(table: Mapping[str, Any], name: str) -> Any:
    """Return what `table`, by the names of certificates, has for the host `name`; ``None`` if nothing."""
    name = name.lower().rstrip(".")
    return table.get(name) or table.get(f"*.{name.partition('.')[2]}")


def checked_path(path: str | os.PathLike[str]) -> str:
    """Return `path` as text. Raises `TypeError` for what is none."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise TypeError(f"a file's path must be a text or a path, not {path!r}")
    return text


class _Ask:
    """What OpenSSL calls if the key is encrypted; without a password it must not ask the terminal."""

    def __init__(self, files: CertificateFiles, password: Password) -> None:
        self._key = files.key or files.certificate
        self._password = password
        self.was_asked = False

    def __call__(self) -> str | bytes:
        self.was_asked = True
        if self._password is None:
            raise EncryptedKeyError(f"the private key in {self._key} is encrypted: give its password")
        return self._password() if callable(self._password) else self._password


def _what_is_wrong(files: CertificateFiles, error: ssl.SSLError, *, asked: bool) -> str:
    key = files.key or files.certificate
    if asked:
        return f"the password given is not that of the private key in {key}"
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return f"the private key in {key} does not belong to the certificate {files}"
    if error.reason in _NOT_PEM:
        return f"{_without_pem(files)}: expected a certificate and its private key, each as PEM"
    return f"certificate {files} with the key in {key}: {error.reason.replace('_', ' ').lower()}"


def _without_pem(files: CertificateFiles) -> str:
    """Return the file that has nothing of what it is to have, or both where that is not known."""
    for path, wanted in (
        (files.certificate, b"CERTIFICATE-----"),
        (files.key or files.certificate, b"KEY-----"),
    ):
        with open(path, "rb") as file:
            if wanted not in file.read():
                return path
    return " and ".join(filter(None, files))


def _rehearse(context: ssl.SSLContext, certificate: str) -> tuple[Any, bytes]:
    """Do a handshake of `context`, a server's, in memory.

    Returns what a client learns of the certificate, and the certificate itself, DER-encoded.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False  # any name will do: it is to tell its names
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    trusting.load_verify_locations(cafile=certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_FLIGHTS):
        try:
            client.do_handshake()
            return client.getpeercert(), client.getpeercert(binary_form=True) or b""
        except ssl.SSLWantReadError:
            pass
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            pass
    raise ssl.SSLError("the handshake does not end")


def _names_in(facts: Mapping[str, Any]) -> Iterable[str]:
    alternatives = _alternatives_in(facts)
    if alternatives:
        return [value for kind, value in alternatives if kind == "DNS"]
    return [value for part in facts.get("subject", ()) for kind, value in part if kind == "commonName"]


def _alternatives_in(facts: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    found: Sequence[tuple[str, str]] = facts.get("subjectAltName", ())
    return found


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text.strip()))


def key_algorithm(certificate: bytes) -> str:
    """Return the object identifier of the public key's algorithm in a DER-encoded `certificate`."""
    body = _elements(_elements(_elements(certificate)[0][1])[0][1])
    has_version = body[0][0] == 0xA0  # [0] EXPLICIT
    key = body[6 if has_version else 5][
        1
    ]  # serial, signature, issuer, validity, subject, key (RFC 5280, 4.1)
    return _object_identifier(_elements(_elements(key)[0][1])[0][1])


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of what stands one after the other in `data`, DER-encoded (X.690)."""
    found, at = [], 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size]), at + size
        found.append((tag, data[at : at + length]))
        at += length
    return found


def _object_identifier(content: bytes) -> str:
    numbers, number = [], 0
    for byte in content:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def _as_date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
