"""`TlsFailure`: why a TLS handshake, or a TLS stream, failed; and how to tell from what OpenSSL says.

Theory of operation
-------------------
OpenSSL names its reasons (`ssl.SSLError.reason`), and numbers those of a certificate that it does not accept
(`ssl.SSLCertVerificationError.verify_code`, the ``X509_V_ERR_*`` of x509_vfy.h). Programs have to tell a
dozen of them apart: those are the members here, and the rest is `PROTOCOL`.

*Who refused.* A reason that names an alert (RFC 8446, 6) is what the peer said before it hung up; any other
is what this side found. `explain` returns both.

*Plaintext.* What comes first in TLS is a record of the handshake, whose first byte is 22, or an alert, 21.
Anything else is another protocol, whatever OpenSSL makes of it.
"""

from __future__ import annotations

import enum
import ssl

__all__ = ["TlsFailure", "explain", "looks_like_tls"]


class TlsFailure(enum.Enum):
    """Why TLS failed. Each has a label."""

    PLAINTEXT = "the peer does not speak TLS"
    NO_COMMON_VERSION = "no common version of TLS"
    NO_COMMON_CIPHER = "no common cipher"
    NO_COMMON_GROUP = "no common group for the key exchange"
    NO_COMMON_PROTOCOL = "no common application protocol (ALPN)"
    UNKNOWN_NAME = "no certificate for the name that was asked for (SNI)"
    CERTIFICATE_EXPIRED = "the certificate has expired"
    CERTIFICATE_NOT_YET_VALID = "the certificate is not valid yet"
    CERTIFICATE_WRONG_NAME = "the certificate is for another name"
    CERTIFICATE_UNTRUSTED = "nobody who is trusted has signed the certificate"
    CERTIFICATE_REVOKED = "the certificate has been revoked"
    CERTIFICATE_MISSING = "no certificate was presented"
    CERTIFICATE_BAD = "the certificate is not acceptable"
    RESET = "the connection was lost in the handshake"
    ENDED = "the peer ended the connection in the handshake"
    TIMEOUT = "the handshake took too long"
    INJECTED = "bytes came before TLS began"
    TRUNCATED = "the stream ended without close_notify"
    RECORD_FLOOD = "too many records without data"
    PROTOCOL = "a record was bad, or not to be expected"

    def __str__(self) -> str:
        return self.value

    @property
    def of_handshakes(self) -> bool:
        """Whether a server's handshake can fail for it."""
        return self not in (TlsFailure.TRUNCATED, TlsFailure.INJECTED)

    @property
    def of_certificate(self) -> bool:
        """Whether it is about a certificate."""
        return self.name.startswith("CERTIFICATE")


_BY_VERIFY_CODE = {
    2: TlsFailure.CERTIFICATE_UNTRUSTED,  # UNABLE_TO_GET_ISSUER_CERT
    9: TlsFailure.CERTIFICATE_NOT_YET_VALID,
    10: TlsFailure.CERTIFICATE_EXPIRED,
    18: TlsFailure.CERTIFICATE_UNTRUSTED,  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: TlsFailure.CERTIFICATE_UNTRUSTED,  # SELF_SIGNED_CERT_IN_CHAIN
    20: TlsFailure.CERTIFICATE_UNTRUSTED,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: TlsFailure.CERTIFICATE_UNTRUSTED,  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    23: TlsFailure.CERTIFICATE_REVOKED,
    27: TlsFailure.CERTIFICATE_UNTRUSTED,  # CERT_UNTRUSTED
    62: TlsFailure.CERTIFICATE_WRONG_NAME,  # HOSTNAME_MISMATCH
    64: TlsFailure.CERTIFICATE_WRONG_NAME,  # IP_ADDRESS_MISMATCH
}

_ALERTS = ("SSLV3_ALERT_", "TLSV1_", "TLSV13_ALERT_")  # some have no "ALERT" in their names

# Parts of reasons; the first that fits counts.
_BY_REASON = (
    ("CERTIFICATE_EXPIRED", TlsFailure.CERTIFICATE_EXPIRED),
    ("CERTIFICATE_REVOKED", TlsFailure.CERTIFICATE_REVOKED),
    ("CERTIFICATE_REQUIRED", TlsFailure.CERTIFICATE_MISSING),
    ("DID_NOT_RETURN_A_CERTIFICATE", TlsFailure.CERTIFICATE_MISSING),
    ("NO_CERTIFICATE", TlsFailure.CERTIFICATE_MISSING),
    ("UNKNOWN_CA", TlsFailure.CERTIFICATE_UNTRUSTED),
    ("CERTIFICATE", TlsFailure.CERTIFICATE_BAD),  # bad, unsupported, unknown, verify failed
    ("NO_APPLICATION_PROTOCOL", TlsFailure.NO_COMMON_PROTOCOL),
    ("UNRECOGNIZED_NAME", TlsFailure.UNKNOWN_NAME),
    ("CALLBACK_FAILED", TlsFailure.UNKNOWN_NAME),  # of the server's look for a certificate
    ("HTTP_REQUEST", TlsFailure.PLAINTEXT),
    ("HTTPS_PROXY_REQUEST", TlsFailure.PLAINTEXT),
    ("NO_SUITABLE_KEY_SHARE", TlsFailure.NO_COMMON_GROUP),
    ("NO_SUITABLE_GROUPS", TlsFailure.NO_COMMON_GROUP),
    ("NO_SHARED_CIPHER", TlsFailure.NO_COMMON_CIPHER),
    ("HANDSHAKE_FAILURE", TlsFailure.NO_COMMON_CIPHER),
    ("INSUFFICIENT_SECURITY", TlsFailure.NO_COMMON_CIPHER),
    ("NO_CIPHERS_AVAILABLE", TlsFailure.NO_COMMON_CIPHER),
    ("PROTOCOL_VERSION", TlsFailure.NO_COMMON_VERSION),
    ("UNSUPPORTED_PROTOCOL", TlsFailure.NO_COMMON_VERSION),
    ("NO_PROTOCOLS_AVAILABLE", TlsFailure.NO_COMMON_VERSION),
    ("VERSION_TOO_LOW", TlsFailure.NO_COMMON_VERSION),
)


def explain(error: ssl.SSLError) -> tuple[TlsFailure, bool]:
    """Return why OpenSSL raised `error`, and whether it was the peer who refused."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, TlsFailure.CERTIFICATE_BAD), False
    # Python does not name each of OpenSSL's reasons, but has a text: "[SSL] tlsv1 alert unknown psk identity"
    reason = error.reason or str(error).removeprefix("[SSL] ").upper().replace(" ", "_")
    by_peer = reason.startswith(_ALERTS)
    for part, failure in _BY_REASON:
        if part in reason:
            return failure, by_peer
    return TlsFailure.PROTOCOL, by_peer


def looks_like_tls(beginning: bytes) -> bool:
    """Whether a stream that begins with `beginning`, which is not empty, may be TLS."""
    return beginning[0] in (21, 22) and beginning[1:2] in (b"", b"\x03")
