"""What a client wants of TLS: a context, and the name that the server's certificate has to be for.

Theory of operation
-------------------
A client verifies: the context that ``tls=True`` stands for is the standard library's default one, with the
system's trust store. Whoever wants anything else builds a context; nothing here loosens one. What cannot work
is refused before anybody is called.
"""

from __future__ import annotations

import functools
import ipaddress
import ssl
from typing import NamedTuple

from .contexts import default_context

__all__ = ["ClientTls", "checked_client", "checked_host", "client_tls", "name_in_certificate"]


class ClientTls(NamedTuple):
    """What a client wants of TLS."""

    context: ssl.SSLContext
    server_hostname: str | None
    """What it asks for, and wants to find in the certificate."""
    accept_truncation: bool


def name_in_certificate(host: str) -> str:
    """Return what a certificate calls the host of an address.

    That is its name without a scope and without a final dot, and an IPv4-mapped IPv6 address as IPv4. No host
    means this one, ``"localhost"``.
    """
    name = host.partition("%")[0].rstrip(".") or "localhost"
    return _without_mapping(name) if ":" in name else name


def _without_mapping(address: str) -> str:
    try:
        return str(ipaddress.IPv6Address(address).ipv4_mapped or address)
    except ValueError:
        return address


def checked_host(name: str) -> str:
    """Return what a certificate calls the host `name`. Raises `ValueError` for what no host can be called."""
    _refuse_bad_name(name)
    return name_in_certificate(name)


def client_tls(
    tls: ssl.SSLContext | bool | None,
    server_hostname: str | None,
    host: str | None,
    accept_truncation: bool,
) -> ClientTls | None:
    """Return what a connection is to have; ``None`` without TLS.

    `host` is what the certificate is for where nobody says. Raises as `checked_client`, and `ValueError` for
    arguments that are of use with TLS only.
    """
    if tls is None or tls is False:
        if server_hostname is not None:
            raise ValueError(f"server_hostname={server_hostname!r} is of use with tls only")
        if accept_truncation:
            raise ValueError(f"accept_truncation={accept_truncation!r} is of use with tls only")
        return None
    return checked_client(tls, host if server_hostname is None else server_hostname, accept_truncation)


def checked_client(tls: object, server_hostname: str | None, accept_truncation: bool = False) -> ClientTls:
    """Return these, checked; ``tls=True`` is the default context.

    Raises `TypeError` for what is no context, and `ValueError` for one that is for servers only, a name that
    no host can have, or none where the context compares it.
    """
    context = _context_of(tls)
    return ClientTls(context, _checked_name(context, server_hostname), bool(accept_truncation))


def _context_of(tls: object) -> ssl.SSLContext:
    if tls is True:
        return _default_context()
    if not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"a client's tls must be an ssl.SSLContext or True, not {tls!r}")
    if tls.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(f"tls={tls!r} is a context for servers: a client's is ssl.PROTOCOL_TLS_CLIENT")
    return tls


@functools.cache
def _default_context() -> ssl.SSLContext:
    return default_context(ssl.Purpose.SERVER_AUTH)


def _checked_name(context: ssl.SSLContext, name: str | None) -> str | None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"server_hostname must be a text, not {name!r}")
    if name:
        try:
            return checked_host(name)
        except ValueError as error:
            raise ValueError(f"server_hostname={error}") from None
    if context.check_hostname:
        raise ValueError(f"server_hostname={name!r}: this context compares it with the certificate's")
    return None


@functools.lru_cache(maxsize=1024)  # of good ones: trying takes as long as beginning a connection's TLS
def _refuse_bad_name(name: str) -> None:
    """Raise `ValueError` for what no host can be called; ssl knows, except for blanks and line ends."""
    if not name.isprintable() or any(map(str.isspace, name)):
        raise ValueError(f"{name!r} is not the name of a host: it has a character that none has")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(
            ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name!r} is not the name of a host: {error}") from None
