"""Groups of the key exchange: which ones a server's context offers, and which one a ClientHello leads to.

Theory of operation
-------------------
*The attack* (D(HE)at, CVE-2002-20001). A client of TLS 1.3 names the group of the key exchange and sends a
key share that costs it nothing. With X25519 the server's part takes 0.1 ms; with the finite-field group
ffdhe8192 (RFC 7919) it takes 150 ms, for a ClientHello of 1.2 kB. OpenSSL before 3.5 offers all five
finite-field groups by default, 3.5 the two small ones. In TLS 1.2 a server without parameters of its own
(`load_dh_params`) does no finite-field exchange.

*Saying it.* `ssl` can set a list of groups since Python 3.15 (`SSLContext.set_groups`): then a context is
given the elliptic and hybrid ones (`offer_elliptic_only`). Before, it can set a single one
(`set_ecdh_curve`). A context with a single group would refuse clients, or cost them a round trip, so it is
kept beside the full one, for those ClientHellos alone that do not show that OpenSSL will choose an elliptic
group (`leads_to_elliptic`): those that put a finite-field group first, and those that cannot be read.

*How OpenSSL chooses.* Up to 3.4 it takes the first key share whose group it offers, and without such a share
it asks for the first group of the client's list that it offers; 3.5 prefers elliptic groups. So an elliptic
group is certain if the first share, or else the first group, that is finite-field or an elliptic one of the
server's is elliptic. Groups that are unknown here, hybrids among them, count as not offered.

*What a context offers* is found out by asking it: it is shown a ClientHello with groups and no key share,
in memory. It answers with a HelloRetryRequest if it would take one of them (RFC 8446, 4.1.4), which costs no
arithmetic, and with an alert otherwise.
"""

from __future__ import annotations

import functools
import ssl
import struct
from collections.abc import Iterable
from typing import Any

from ..announcing import Log
from .client_hello import ClientHello

__all__ = [
    "elliptic_groups_of",
    "leads_to_elliptic",
    "offer_elliptic_only",
    "offer_one_group",
    "offers_finite_field",
    "warn_of_finite_field",
]

_log = Log("aionet.tls")

_FINITE_FIELD = range(0x0100, 0x0200)  # ffdhe2048 and so on (RFC 7919, 2)
_ELLIPTIC = {23: "prime256v1", 29: "X25519", 24: "secp384r1", 25: "secp521r1", 30: "X448"}  # RFC 8446, 4.2.7
_OFFERED = (
    "X25519MLKEM768",
    "X25519",
    "secp256r1",
    "SecP256r1MLKEM768",
    "SecP384r1MLKEM1024",
    "X448",
    "secp384r1",
    "secp521r1",
)
_MOST = 64  # groups or shares that are looked at; a client has a dozen
_WARNED = "_aionet_warned_of_groups"  # an attribute of contexts

_PAIR = struct.Struct(">HH")
_HANDSHAKE, _SERVER_HELLO = 22, 2


def leads_to_elliptic(hello: ClientHello, elliptic: frozenset[int]) -> bool:
    """Whether a server that offers the groups `elliptic`, and finite-field ones, chooses an elliptic one."""
    if not hello.readable:
        return False
    if hello.key_shares is None:  # TLS 1.2
        return True
    groups = _numbers(hello.groups[: 2 * _MOST])
    shares = _groups_of_shares(hello.key_shares)
    for group in (*(share for share in shares if share not in elliptic or share in groups), *groups):
        if group in _FINITE_FIELD:
            return False
        if group in elliptic:
            return True
    return len(groups) + len(shares) < _MOST  # nothing in common: OpenSSL will say so


def _numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])


def _groups_of_shares(data: bytes) -> list[int]:
    """Return the groups of key shares (RFC 8446, 4.2.8)."""
    found: list[int] = []
    at = 0
    while at + _PAIR.size <= len(data) and len(found) < _MOST:
        group, length = _PAIR.unpack_from(data, at)
        found.append(group)
        at += _PAIR.size + length
    return found


# Contexts ---------------------------------------------------------------------------------------------


def offer_elliptic_only(context: ssl.SSLContext) -> None:
    """Have `context` offer elliptic and hybrid groups, where `ssl` can say that; else nothing is done."""
    if names := _settable():
        _set_groups(context, ":".join(names))


@functools.cache
def _settable() -> tuple[str, ...]:
    """Return what of `_OFFERED` this OpenSSL knows; nothing where `ssl` cannot set groups."""
    return tuple(name for name in _OFFERED if _is_known(name))


def _is_known(name: str) -> bool:
    try:
        _set_groups(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), name)
    except (AttributeError, ssl.SSLError):
        return False
    return True


def _set_groups(context: Any, names: str) -> None:
    context.set_groups(names)  # since Python 3.15


def offer_one_group(context: ssl.SSLContext, elliptic: frozenset[int]) -> None:
    """Have `context` offer one group, of `elliptic` the one that most clients know."""
    for number, name in _ELLIPTIC.items():
        if number in elliptic:
            context.set_ecdh_curve(name)
            return


def offers_finite_field(context: ssl.SSLContext) -> bool:
    """Whether `context`, a server's, would choose a finite-field group in TLS 1.3."""
    return _would_choose(context, _FINITE_FIELD[:5])


def elliptic_groups_of(context: ssl.SSLContext) -> frozenset[int]:
    """Return the elliptic groups that `context`, a server's, offers in TLS 1.3."""
    return frozenset(group for group in _ELLIPTIC if _would_choose(context, [group]))


def warn_of_finite_field(context: ssl.SSLContext) -> None:
    """Write a warning if `context`, which the caller has built, offers finite-field groups; once for each."""
    if getattr(context, _WARNED, False):
        return
    setattr(context, _WARNED, True)
    if context.sni_callback is None and offers_finite_field(context):  # which would have to be called
        _log.warning(
            "%r offers finite-field Diffie-Hellman groups: one ClientHello can cost this server 150 ms; "
            "use ServerTls, or set the context's groups (set_groups since Python 3.15, or set_ecdh_curve)",
            context,
        )


def _would_choose(context: ssl.SSLContext, groups: Iterable[int]) -> bool:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(_hello_without_shares(groups))
    try:
        server.do_handshake()
    except ssl.SSLError:
        pass
    answer = outgoing.read()
    return len(answer) > 5 and (answer[0], answer[5]) == (_HANDSHAKE, _SERVER_HELLO)


def _hello_without_shares(groups: Iterable[int]) -> bytes:
    """Return the record of a ClientHello of TLS 1.3 (RFC 8446, 4.1.2)."""
    listed = b"".join(group.to_bytes(2) for group in groups)
    extensions = b"".join(
        kind.to_bytes(2) + _vector(content)
        for kind, content in (
            (43, b"\x02\x03\x04"),  # supported_versions: TLS 1.3
            (10, _vector(listed)),  # supported_groups
            (13, _vector(bytes.fromhex("0403 0503 0603 0807 0808 0804 0805 0806"))),  # signature_algorithms
            (51, _vector(b"")),  # key_share
        )
    )
    ciphers = _vector(bytes.fromhex("1301 1302 1303"))
    body = b"\x03\x03" + bytes(32) + b"\x00" + ciphers + b"\x01\x00" + _vector(extensions)
    message = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + _vector(message)


def _vector(content: bytes) -> bytes:
    return len(content).to_bytes(2) + content
