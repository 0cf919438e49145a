"""`TlsInfo`: what was agreed on in a TLS handshake."""

from __future__ import annotations

import ssl
from typing import Any, NamedTuple, Self

__all__ = ["TlsInfo"]


class TlsInfo(NamedTuple):
    """What was agreed on in a TLS handshake. It stays valid when the connection is closed."""

    version: str
    """``"TLSv1.3"``, ``"TLSv1.2"``."""
    cipher: str
    """As OpenSSL names it: ``"TLS_AES_256_GCM_SHA384"``."""
    alpn_protocol: str | None
    """The application protocol, where the two sides have agreed on one (RFC 7301)."""
    server_name: str | None
    """The name that the client asked for (SNI, RFC 6066), and wanted to find in the certificate."""
    peer_certificate: dict[str, Any] | None
    """The peer's certificate as `ssl.SSLSocket.getpeercert` writes it: empty if it was not verified, ``None``
    where the peer had none."""
    peer_certificate_der: bytes | None
    """The peer's certificate, DER-encoded; ``None`` where it had none."""
    resumed: bool
    """Whether an earlier session was resumed, so that no certificate had to be sent."""

    @classmethod
    def of(cls, tls: ssl.SSLObject, server_name: str | None) -> Self:
        """Return what the handshake of `tls`, which is over, has come to."""
        certificate = tls.getpeercert(binary_form=True)
        cipher = tls.cipher()
        return cls(
            version=tls.version() or "",
            cipher="" if cipher is None else cipher[0],
            alpn_protocol=tls.selected_alpn_protocol(),
            server_name=server_name,
            peer_certificate=None if certificate is None else tls.getpeercert() or {},
            peer_certificate_der=certificate,
            resumed=bool(tls.session_reused),
        )
