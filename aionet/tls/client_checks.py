"""`ClientChecks`: what a server asks of its clients' certificates.

Theory of operation
-------------------
Only certificates of the authorities count. A client without one is refused, or is served without a
certificate where that is *optional*; one with a wrong certificate is refused either way.

*Revocation lists* (RFC 5280, 5) come from a file, and are looked up for the client's own certificate. OpenSSL
refuses every client whose issuer has no list there, and all of them once a list is out of date: what cannot
be known is not allowed. The file must hold nothing else, because OpenSSL would trust a certificate in it.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from .certificates import reading_authorities

__all__ = ["ClientChecks"]

_LIST = b"-----BEGIN X509 CRL-----"
_CERTIFICATES = (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN TRUSTED CERTIFICATE-----")


@dataclass(frozen=True)
class ClientChecks:
    """Which clients are served."""

    authorities: str
    """A PEM file."""
    optional: bool = False
    """Whether a client may do without a certificate."""
    revocations: str | None = None
    """A PEM file of revocation lists, one for each issuer of clients' certificates."""

    @property
    def files(self) -> list[str]:
        """What has to be read again when it changes."""
        return [self.authorities, *([] if self.revocations is None else [self.revocations])]

    def apply_to(self, context: ssl.SSLContext) -> None:
        """Have `context`, a server's, check its clients. Raises `OSError` or `ValueError`."""
        with reading_authorities(self.authorities):
            context.load_verify_locations(cafile=self.authorities)
        context.verify_mode = ssl.CERT_OPTIONAL if self.optional else ssl.CERT_REQUIRED
        if self.revocations is not None:
            _refuse_unless_lists(self.revocations)
            try:
                context.load_verify_locations(cafile=self.revocations)
            except ssl.SSLError as error:
                raise ValueError(f"{self.revocations}: expected revocation lists, as PEM") from error
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _refuse_unless_lists(path: str) -> None:
    with open(path, "rb") as file:
        content = file.read()
    if _LIST not in content or any(mark in content for mark in _CERTIFICATES):
        raise ValueError(f"{path}: expected revocation lists and nothing else, as PEM")
