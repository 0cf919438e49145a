"""`ProxyTls`: what a proxy that terminates TLS tells of it (proxy-protocol.txt, 2.2.6).

The trap is ``verify``: 0 means that the certificate was verified *if the client presented one*, and proxies
send 0 where there was none. So what a handler should ask is `ProxyTls.client_verified`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from .layout import TlvType, split_tlvs

__all__ = ["ProxyTls", "text_of"]

_FIXED = struct.Struct("!BI")
_TLS, _CERTIFICATE_IN_CONNECTION, _CERTIFICATE_IN_SESSION = 0x01, 0x02, 0x04


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTls:
    """How the client's connection to the proxy was secured, as the proxy says."""

    encrypted: bool
    """Whether the client connected over TLS at all."""
    certificate_in_connection: bool
    """Whether it presented a certificate on this connection."""
    certificate_in_session: bool
    """Whether it presented one at least once in the TLS session that this connection belongs to."""
    verify: int
    """0: the certificate, *if there was one*, was verified. Else an error code, of OpenSSL as a rule."""
    version: str | None = None
    """As in ``"TLSv1.3"``."""
    common_name: str | None = None
    """The common name in the client's certificate. It proves nothing unless `client_verified`."""
    cipher: str | None = None
    signature_algorithm: str | None = None
    """How the proxy's own certificate was signed."""
    key_algorithm: str | None = None
    """The key of the proxy's own certificate."""

    @property
    def client_verified(self) -> bool:
        """Whether the client presented a certificate, and the proxy verified it."""
        presented = self.certificate_in_connection or self.certificate_in_session
        return self.encrypted and presented and self.verify == 0

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Read the value of the TLV; `ValueError` where it is malformed."""
        if len(value) < _FIXED.size:
            raise ValueError(f"the SSL TLV has {len(value)} bytes: expected {_FIXED.size} or more")
        client, verify = _FIXED.unpack_from(value)
        parts: dict[int, bytes] = {}
        for kind, part in split_tlvs(value[_FIXED.size :]):
            parts.setdefault(kind, part)
        return cls(
            encrypted=bool(client & _TLS),
            certificate_in_connection=bool(client & _CERTIFICATE_IN_CONNECTION),
            certificate_in_session=bool(client & _CERTIFICATE_IN_SESSION),
            verify=verify,
            version=text_of(parts.get(TlvType.SSL_VERSION), "ascii", "TLS version"),
            common_name=text_of(parts.get(TlvType.SSL_CN), "utf-8", "common name"),
            cipher=text_of(parts.get(TlvType.SSL_CIPHER), "ascii", "cipher"),
            signature_algorithm=text_of(parts.get(TlvType.SSL_SIG_ALG), "ascii", "signature algorithm"),
            key_algorithm=text_of(parts.get(TlvType.SSL_KEY_ALG), "ascii", "key algorithm"),
        )


def text_of(value: bytes | None, encoding: str, what: str) -> str | None:
    """Return the text that `value` is; `ValueError` where it is none."""
    if value is None:
        return None
    try:
        return value.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(f"the {what} {value[:64]!r} is no {encoding.upper()} text") from None
