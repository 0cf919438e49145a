"""`ServerTls`: what a server shows its clients: certificates, by the names that they ask for, live.

Theory of operation
-------------------
*One context for each set of certificates*, all set up alike. For every name, and every IP address, the set
has the certificates that are for it: of each kind of key the first one, so that OpenSSL can choose by the
kind, as between RSA and ECDSA. A certificate that is in no set could never be shown, and is refused.

*Which one* is known from the ClientHello, before the handshake begins (`choosing.py`). A client that names no
host, as one that connects to an IP address (RFC 6066, 3), gets the certificate for the address that it has
connected to. One that names an unknown host, or for whose address there is none, gets the first: it is the
client that has to judge, and it does.

*Key exchange*: elliptic and hybrid groups only. Where `ssl` cannot say that, there is a second context for
each set of certificates, with one group, for the few clients that would lead OpenSSL to a finite-field one
(`key_exchange.py`).

*A reload makes everything anew*: a connection that is in the middle of its handshake, or served, keeps what
it has. What cannot be used, or is out of date, is refused, and the old stays. New contexts have new keys for
session tickets, too: who came with a certificate of an authority that is no longer trusted does not come in
again by a ticket.

*When.* Whoever serves calls `look` now and then: at most once a second that asks the file system. Tools
replace the certificate and its key one after the other, so files have to be left alone for a second first.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..addresses import SocketAddress, UnixAddress, unmapped
from ..announcing import Log
from ..open_files import reserved
from .certificates import (
    Certificate,
    CertificateFiles,
    Password,
    checked_path,
    load_certificate,
    load_pair,
    matching,
)
from .client_checks import ClientChecks
from .client_hello import ClientHello
from .contexts import default_context
from .key_exchange import (
    elliptic_groups_of,
    leads_to_elliptic,
    offer_elliptic_only,
    offer_one_group,
    offers_finite_field,
    warn_of_finite_field,
)

__all__ = ["Choose", "ServerTls", "TlsForServer", "checked_server_tls", "optional_server_tls"]

_log = Log("aionet.tls", complete=True)  # of files

_LONGEST_PROTOCOL = 255  # bytes of a name in ALPN (RFC 7301, 3.1)

_Path: TypeAlias = str | os.PathLike[str]
_Chosen: TypeAlias = ssl.SSLContext | None
Choose: TypeAlias = Callable[[str | None], _Chosen | Awaitable[_Chosen]]
_Signature: TypeAlias = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class _Loaded:
    """What the files held."""

    signature: _Signature
    certificates: tuple[Certificate, ...]
    default: ssl.SSLContext
    by_name: Mapping[str, ssl.SSLContext]
    has_addresses: bool
    elliptic: frozenset[int]
    """The groups that the contexts offer beside finite-field ones; empty if those are not to be avoided."""
    with_one_group: Mapping[ssl.SSLContext, ssl.SSLContext]
    """The same as a context, for clients that would lead it to a finite-field group."""


class ServerTls:
    """Certificates of a server, and what it asks of its clients; for ``tls=`` of everything that serves.

    Args:
        certificate: a PEM file with the certificate and the chain that leads to its authority.
        key: a PEM file with the private key; by default it is in the same file.
        also: further pairs, which are shown to clients that ask for one of their names (SNI), or that ask
            for none and have connected to one of their IP addresses. Of several for the same name the first
            of each kind of key is shown.
        client_ca: a PEM file with the authorities that clients' certificates have to come from; with it, a
            client without one is refused.
        client_optional: serve clients without a certificate, too.
        client_crl: a PEM file with the revocation lists (RFC 5280) of the issuers of clients' certificates;
            a client whose issuer has none there, or one that is out of date, is refused.
        alpn: application protocols, the preferred one first, as in ``["h2", "http/1.1"]``; a client that
            offers others only is refused.
        choose: called with the host that the client asks for, or ``None``, before the handshake; returns the
            `ssl.SSLContext` for it, or ``None`` for what the names of the certificates say, or something to
            await that does (a coroutine function will do). All that is set in that context holds:
            verification, versions, ciphers. A session is resumed only in the context that it began in, so
            return the same one for the same host. If it raises, the client is refused with the alert
            "internal error". The time that it takes counts as the handshake's; it is cancelled where the
            handshake ends meanwhile.
        finite_field_groups: offer the finite-field groups (ffdhe2048 and larger, RFC 7919) of TLS 1.3, too,
            where OpenSSL does. One ClientHello then costs a server up to 150 ms (D(HE)at). By default the
            key exchange is elliptic or hybrid (post-quantum); before Python 3.15 a client that prefers
            finite-field groups has to know the curve P-256.
        password: of encrypted keys, or a function that returns it.
        configure: called with each new `ssl.SSLContext`, to set what has no name here.

    Its files are looked at once a second while somebody serves with it (`look_every`), and read again when
    they have changed. TLS 1.2 is the oldest version. Sessions can be resumed by tickets, in the same process
    and until a reload. Pickled, it is loaded anew by the process that gets it.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file holds something else, the key is another one's, or no client could use it; a
            certificate could never be shown, as one before it has its names and a key of the same kind; or
            an application protocol's name has no byte or more than 255.
        TypeError: arguments of wrong types.
    """

    look_every = 1.0
    """Seconds between two looks at the files."""

    def __init__(
        self,
        certificate: _Path,
        key: _Path | None = None,
        *,
        also: Iterable[tuple[_Path, _Path | None]] = (),
        client_ca: _Path | None = None,
        client_optional: bool = False,
        client_crl: _Path | None = None,
        alpn: Sequence[str] = (),
        choose: Choose | None = None,
        finite_field_groups: bool = False,
        password: Password = None,
        configure: Callable[[ssl.SSLContext], object] | None = None,
    ) -> None:
        pairs = [(certificate, key), *also]
        self._files = [
            CertificateFiles(checked_path(certificate), None if key is None else checked_path(key))
            for certificate, key in pairs
        ]
        self._clients = _checked_clients(client_ca, client_optional, client_crl)
        self._alpn = _checked_protocols(alpn)
        self._password = password
        self._choose = choose
        self._finite_field_groups = finite_field_groups
        self._configure = configure
        self._begin()

    def _begin(self) -> None:
        self._loaded = self._load()
        self._refused: _Signature | None = None
        self._has_checked_choice = False
        self._seen = self._loaded.signature
        self._next_look = time.monotonic() + self.look_every
        for certificate in self._loaded.certificates:
            if problem := certificate.problem_at(time.time()):
                _log.warning("%s", problem)

    @property
    def context(self) -> ssl.SSLContext:
        """That of the first certificate: for clients that ask for no host, or an unknown one."""
        return self._loaded.default

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """What is in use now: files, names and dates."""
        return self._loaded.certificates

    @property
    def alpn(self) -> tuple[str, ...]:
        """The application protocols, the preferred one first."""
        return self._alpn

    @property
    def choose(self) -> Choose | None:
        """The caller's function that chooses a context, if there is one."""
        return self._choose

    def reload(self) -> bool:
        """Read all files again, for the handshakes that begin from now on; whether they are in use.

        If anything is wrong with them, or a certificate is out of date, what is in use stays, and the log
        tells why. It takes some milliseconds for each certificate.
        """
        signature = self._signature()
        try:
            with reserved():
                loaded = self._load()
            for problem in filter(None, (one.problem_at(time.time()) for one in loaded.certificates)):
                raise ValueError(problem)
        except (OSError, ValueError) as error:
            self._refused = signature
            _log.error("certificates were not reloaded, those in use stay: %s", _in_a_line(error))
            return False
        self._loaded, self._refused = loaded, None
        for certificate in loaded.certificates:
            until = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_after))
            _log.info("certificate reloaded: %s, valid until %s", certificate.files, until)
        return True

    def look(self) -> None:
        """Reload if the files have changed, and then were left alone for a second; cheap to call often."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self.look_every
        signature = self._signature()
        settled, self._seen = signature == self._seen, signature
        if settled and signature not in (self._loaded.signature, self._refused):
            self.reload()

    # Loading ------------------------------------------------------------------------------------------

    def _signature(self) -> _Signature:
        """Return what differs after any of the files was changed or replaced."""
        paths = {path for files in self._files for path in files if path is not None}
        paths.update(() if self._clients is None else self._clients.files)
        return tuple(_identity_of(path) for path in sorted(paths))

    def _load(self) -> _Loaded:
        signature = self._signature()  # before: what changes meanwhile is seen by the next look
        certificates = [load_certificate(files, _new_context(), self._password) for files in self._files]
        contexts: dict[tuple[Certificate, ...], ssl.SSLContext] = {}
        by_name: dict[str, ssl.SSLContext] = {}
        for name, together in _grouped(certificates).items():
            if together not in contexts:
                contexts[together] = self._context_with(together)
            by_name[name] = contexts[together]
        first = certificates[0]
        known = [*first.names, *first.addresses]
        default = by_name[known[0]] if known else self._context_with((first,))
        elliptic = self._groups_to_keep_to(default)
        with_one_group: dict[ssl.SSLContext, ssl.SSLContext] = {}
        if elliptic:
            shown = {default: (first,)} | {context: together for together, context in contexts.items()}
            for context, together in shown.items():
                with_one_group[context] = self._context_with(together)
                offer_one_group(with_one_group[context], elliptic)
        has_addresses = any(certificate.addresses for certificate in certificates)
        return _Loaded(
            signature, tuple(certificates), default, by_name, has_addresses, elliptic, with_one_group
        )

    def _groups_to_keep_to(self, context: ssl.SSLContext) -> frozenset[int]:
        """Return the elliptic groups of `context`, if it offers finite-field groups and should not."""
        if self._finite_field_groups or not offers_finite_field(context):
            return frozenset()
        return elliptic_groups_of(context)

    def _context_with(self, certificates: Iterable[Certificate]) -> ssl.SSLContext:
        context = self._set_up(_new_context())
        for certificate in certificates:
            load_pair(certificate.files, context, self._password)
        return context

    def _set_up(self, context: ssl.SSLContext) -> ssl.SSLContext:
        if self._clients is not None:
            self._clients.apply_to(context)
        if self._alpn:
            context.set_alpn_protocols(list(self._alpn))
        if not self._finite_field_groups:
            offer_elliptic_only(context)
        if self._configure is not None:
            self._configure(context)
        return context

    def context_for(
        self, name: str | None, local: SocketAddress | UnixAddress | None = None
    ) -> ssl.SSLContext:
        """Return the context for a client that asks for the host `name`, connected to the address `local`.

        It is that of the certificates for `name`, or, without one, for the IP address of `local`; else that
        of the first certificate. `choose` is not called.
        """
        loaded = self._loaded
        if name is None and loaded.has_addresses:
            name = _ip_in(local)
        found: ssl.SSLContext | None = None if name is None else matching(loaded.by_name, name)
        return found or loaded.default

    def context_without_finite_field(self, context: ssl.SSLContext, hello: ClientHello) -> ssl.SSLContext:
        """Return `context`, which is from `context_for`, or what `hello` needs in its place."""
        loaded = self._loaded
        if not loaded.elliptic or leads_to_elliptic(hello, loaded.elliptic):
            return context
        return loaded.with_one_group[context]

    def check_choice(self, context: ssl.SSLContext) -> None:
        """Write a warning if the first context that `choose` has returned offers finite-field groups."""
        if not self._has_checked_choice and not self._finite_field_groups:
            self._has_checked_choice = True
            warn_of_finite_field(context)

    # Travelling ---------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        own = ("_files", "_clients", "_alpn", "_password", "_choose", "_finite_field_groups", "_configure")
        return {name: getattr(self, name) for name in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __repr__(self) -> str:
        return f"<ServerTls {', '.join(map(str, self._files))}>"


TlsForServer: TypeAlias = ssl.SSLContext | ServerTls
"""What servers take as ``tls=``."""


def checked_server_tls(tls: object) -> TlsForServer:
    """Return `tls`. Raises `TypeError`, or `ValueError` for a context that is a client's."""
    if isinstance(tls, ServerTls):
        return tls
    if not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls must be a ServerTls or an ssl.SSLContext, not {tls!r}")
    if tls.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            "tls is a client's context: make one with ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        )
    warn_of_finite_field(tls)
    return tls


def optional_server_tls(tls: TlsForServer | None) -> TlsForServer | None:
    """Return `tls`, checked, or ``None`` for a server without TLS."""
    return None if tls is None else checked_server_tls(tls)


def _grouped(certificates: Sequence[Certificate]) -> dict[str, tuple[Certificate, ...]]:
    """Return the certificates that are shown for each name and address.

    Raises `ValueError` if one of them is shown for none.
    """
    by_name: dict[str, dict[str, Certificate]] = {}
    for certificate in certificates:
        for name in (*certificate.names, *certificate.addresses):
            by_name.setdefault(name, {}).setdefault(certificate.key_kind, certificate)
    groups = {name: tuple(by_kind.values()) for name, by_kind in by_name.items()}
    shown = {id(certificate) for group in groups.values() for certificate in group}
    for certificate in certificates[1:]:
        if id(certificate) not in shown:
            raise ValueError(
                f"certificate {certificate.files} could never be shown: {_why(certificate, groups)}"
            )
    return groups


def _why(certificate: Certificate, groups: Mapping[str, tuple[Certificate, ...]]) -> str:
    names = (*certificate.names, *certificate.addresses)
    if not names:
        return "it is for no host name and no IP address"
    others = [other for name in names for other in groups[name] if other.key_kind == certificate.key_kind]
    files = " and ".join(dict.fromkeys(str(other.files) for other in others))
    return f"{files}, with the same kind of key, comes first for {', '.join(names)}"


def _ip_in(local: SocketAddress | UnixAddress | None) -> str | None:
    """Return the IP address in `local`, as certificates have it: without a scope, and IPv4 as such."""
    ip = local.ip if isinstance(local, SocketAddress) else None
    if ip is None:
        return None
    own = unmapped(ip)
    return str(ipaddress.IPv6Address(int(own)) if own.version == 6 else own)


def _new_context() -> ssl.SSLContext:
    context = default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _checked_clients(
    authorities: _Path | None, optional: bool, revocations: _Path | None
) -> ClientChecks | None:
    if authorities is None:
        for name, given in (("client_optional", optional), ("client_crl", revocations)):
            if given:
                raise ValueError(f"{name} needs client_ca: no client is asked for a certificate without it")
        return None
    lists = None if revocations is None else checked_path(revocations)
    return ClientChecks(checked_path(authorities), optional, lists)


def _checked_protocols(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"alpn must be several names, as in [{names!r}], not one text")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"the name of an application protocol must be a text, not {name!r}")
        if not name.isascii() or not 0 < len(name) <= _LONGEST_PROTOCOL:
            raise ValueError(
                f"{name!r}: expected an application protocol's name of 1 to 255 ASCII characters"
            )
    return tuple(names)


def _identity_of(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _in_a_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
