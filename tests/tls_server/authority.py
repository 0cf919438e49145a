"""Certificates for tests: an authority of our own, and files as operators have them."""

from __future__ import annotations

import datetime
import os
import ssl
import subprocess
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from helpers import require_program

__all__ = ["Authority", "Pair", "handshake_in_memory"]


class Pair:
    """A certificate and its key in files; `replace` puts another pair in their place, as tools do."""

    def __init__(self, directory: Path, name: str, leaf: trustme.LeafCert) -> None:
        self.certificate = directory / f"{name}.pem"
        self.key = directory / f"{name}.key"
        self.replace(leaf)

    @property
    def files(self) -> tuple[Path, Path]:
        return self.certificate, self.key

    def replace(self, leaf: trustme.LeafCert) -> None:
        self.serial = leaf_serial(leaf)
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        for path, content in ((self.key, leaf.private_key_pem.bytes()), (self.certificate, chain)):
            put(path, content)

    def encrypt(self, password: str) -> None:
        """Encrypt the key in its file."""
        command = [require_program("openssl"), "pkcs8", "-topk8", "-passout", f"pass:{password}"]
        done = subprocess.run(command, input=self.key.read_bytes(), check=True, capture_output=True)
        put(self.key, done.stdout)


def put(path: Path, content: bytes) -> None:
    """Write a file as one: nobody sees half of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    os.replace(new, path)


def leaf_serial(leaf: trustme.LeafCert) -> bytes:
    """The certificate in binary, which tells one from another."""
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


class Authority:
    """Issues certificates, and knows who trusts it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def leaf(self, *names: str, rsa: bool = False, valid: tuple[int, int] = (-1, 30)) -> trustme.LeafCert:
        """A certificate for `names`, `valid` from one day to another, counted from today."""
        now = datetime.datetime.now(datetime.UTC)
        first, last = (now + datetime.timedelta(days=day) for day in valid)
        kind = trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA
        return self.ca.issue_cert(*names, not_before=first, not_after=last, key_type=kind)

    def pair(self, name: str, *names: str, **options: Any) -> Pair:
        """The same in files called `name`."""
        return Pair(self.directory, name, self.leaf(*(names or ("localhost", "127.0.0.1")), **options))

    def client(self, certificate: Pair | None = None, *, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        """What a client uses that trusts this authority and nobody else."""
        context = ssl.create_default_context(cafile=self.file)
        if certificate is not None:
            context.load_cert_chain(*certificate.files)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def revoke(self, *pairs: Pair, name: str = "crl", valid: tuple[int, int] = (-1, 30)) -> Path:
        """Write a list that revokes `pairs`, `valid` from one day to another, counted from today."""
        now = datetime.datetime.now(datetime.UTC)
        authority = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        first, last = (now + datetime.timedelta(days=day) for day in valid)
        builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
        builder = builder.last_update(first).next_update(last)
        for pair in pairs:
            number = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(first).build()
            builder = builder.add_revoked_certificate(revoked)
        key: Any = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        content = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        put(self.directory / f"{name}.pem", content)
        return self.directory / f"{name}.pem"

    def server(self, pair: Pair) -> ssl.SSLContext:
        """What a server of the standard library uses."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair.files)
        return context


def handshake_in_memory(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both sides of a connection, the server's first, after a handshake in memory. Raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    if name is None:
        client.check_hostname = False
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=name),
    ]
    for _ in range(4):
        for side in reversed(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return sides[0], sides[1]
