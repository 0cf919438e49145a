"""TLS on the command line: what servers show, and what clients trust.

Theory of operation
-------------------
A server's options are ``--cert`` and what goes with it; a client's are ``--tls`` and what goes with that, and
where a command is both, as ``relay`` is, those of the client begin with ``--target-``. Files are loaded
before anything is bound, and what is wrong with them is one line. A client verifies: there is no option that
turns that off, and ``--ca`` says whom to trust in place of the system's authorities.

The password of an encrypted key comes from a file, or is asked for at the terminal: an argument could be read
by every user of the machine (ps(1)). It is asked for once, when the command starts; workers get the answer
from their supervisor. There is no question where this process is not in the foreground of its terminal, which
would stop it (SIGTTIN, termios(3)).
"""

from __future__ import annotations

import argparse
import getpass
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..addresses import SocketAddress
from ..tls.certificates import (
    CertificateFiles,
    EncryptedKeyError,
    Password,
    load_pair,
    reading_authorities,
)
from ..tls.client import checked_host, name_in_certificate
from ..tls.contexts import default_context
from ..tls.server import ServerTls
from .arguments import Address, file_path
from .failing import CommandError

__all__ = [
    "ClientTlsOptions",
    "add_client_tls_arguments",
    "add_server_tls_arguments",
    "check_server_tls",
    "client_tls_from",
    "server_tls_from",
]


def _protocol(text: str) -> str:
    """An argparse type: the name of an application protocol."""
    if not text.isascii() or not 0 < len(text) < 256:
        raise argparse.ArgumentTypeError(f"{text!r}: expected the name of a protocol, as h2 or http/1.1")
    return text


def _host_name(text: str) -> str:
    """An argparse type: the name of a host, as it is in a certificate."""
    try:
        return checked_host(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_HELP_PASSWORD = (
    "the first line of this file is the password of encrypted private keys"
    " (default: it is asked for at the terminal, if there is one)"
)


# Servers ------------------------------------------------------------------------------------------------


def add_server_tls_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--cert``, ``--key``, ``--key-password-file``, ``--alpn`` and what begins with ``--client-``."""
    group = parser.add_argument_group(
        "TLS", "Files are read again when they change, for the connections that come from then on."
    )
    group.add_argument(
        "--cert",
        type=file_path,
        action="append",
        metavar="FILE",
        help="serve TLS with this certificate and its chain, as PEM; may be given several times: the name"
        " that a client asks for (SNI) chooses, and the first is for all others",
    )
    group.add_argument(
        "--key",
        type=file_path,
        action="append",
        metavar="FILE",
        help="the private key of each --cert, in the same order (default: in the file of the certificate)",
    )
    group.add_argument("--key-password-file", type=file_path, metavar="FILE", help=_HELP_PASSWORD)
    group.add_argument(
        "--client-ca",
        type=file_path,
        metavar="FILE",
        help="clients must have a certificate of these authorities (default: they need none)",
    )
    group.add_argument(
        "--client-optional",
        action="store_true",
        help="with --client-ca: serve clients without a certificate, too",
    )
    group.add_argument(
        "--client-crl",
        type=file_path,
        metavar="FILE",
        help="with --client-ca: refuse certificates that these revocation lists name, as PEM, and those whose"
        " issuer has no list in it that is up to date",
    )
    group.add_argument(
        "--alpn",
        type=_protocol,
        action="append",
        metavar="NAME",
        help="an application protocol, as http/1.1; may be given several times, the preferred one first",
    )


def server_tls_from(args: argparse.Namespace) -> ServerTls | None:
    """Return the certificates that were asked for, loaded. Raises `CommandError` if they cannot be used."""
    for option, given in (("--client-optional", args.client_optional), ("--client-crl", args.client_crl)):
        if given and not args.client_ca:
            raise CommandError(f"{option} needs --client-ca, which names the authorities")
    certificates, keys = args.cert or [], args.key or []
    if not certificates:
        for option, given in (
            ("--key", keys),
            ("--key-password-file", args.key_password_file),
            ("--client-ca", args.client_ca),
            ("--alpn", args.alpn),
        ):
            if given:
                raise CommandError(f"{option} needs --cert: without a certificate there is no TLS")
        return None
    if keys and len(keys) != len(certificates):
        raise CommandError(
            f"--key was given {len(keys)} times and --cert {len(certificates)} times:"
            " expected one for each, or none"
        )
    pairs = list(zip(certificates, keys or [None] * len(certificates), strict=True))
    with _explained():
        tls = ServerTls(
            *pairs[0],
            also=pairs[1:],
            client_ca=args.client_ca,
            client_optional=args.client_optional,
            client_crl=args.client_crl,
            alpn=args.alpn or (),
            password=_password_from(args.key_password_file),
        )
        _question.closed = True
        return tls


def check_server_tls(args: argparse.Namespace) -> None:
    """Raise `CommandError` if the certificates cannot be used."""
    server_tls_from(args)


# Clients ------------------------------------------------------------------------------------------------


class ClientTlsOptions(NamedTuple):
    """How to begin TLS with a server."""

    context: ssl.SSLContext
    server_hostname: str | None
    """The name that its certificate has to have; ``None`` for that of the address."""
    accept_truncation: bool = False
    """Whether an end without close_notify is a clean one."""

    def name_for(self, address: Address, prefix: str = "--") -> str:
        """Return the name that the certificate of `address` has to have. Raises `CommandError` if none is."""
        if self.server_hostname is not None:
            return self.server_hostname
        if isinstance(address, SocketAddress):
            return name_in_certificate(address.host)
        raise CommandError(
            f"{address} has no host name: {prefix}server-hostname has to say what is in its certificate"
        )


def add_client_tls_arguments(
    parser: argparse.ArgumentParser, prefix: str = "--", whom: str = "the server"
) -> None:
    """Add ``--tls`` and what goes with it, each beginning with `prefix`."""
    group = parser.add_argument_group(f"TLS to {whom}" if prefix != "--" else "TLS")
    group.add_argument(
        f"{prefix}tls", action="store_true", help=f"speak TLS with {whom}, whose certificate is verified"
    )
    group.add_argument(
        f"{prefix}ca",
        type=file_path,
        metavar="FILE",
        help="trust these authorities, as PEM (default: those that the system trusts)",
    )
    group.add_argument(
        f"{prefix}cert",
        type=file_path,
        metavar="FILE",
        help="a certificate of our own, for servers that want one",
    )
    group.add_argument(
        f"{prefix}key",
        type=file_path,
        metavar="FILE",
        help="its private key (default: in the file of the certificate)",
    )
    group.add_argument(f"{prefix}key-password-file", type=file_path, metavar="FILE", help=_HELP_PASSWORD)
    group.add_argument(
        f"{prefix}alpn",
        type=_protocol,
        action="append",
        metavar="NAME",
        help="an application protocol to offer, as http/1.1; may be given several times",
    )
    group.add_argument(
        f"{prefix}server-hostname",
        type=_host_name,
        metavar="NAME",
        help="the name to ask for, and to find in the certificate (default: the host of the address)",
    )
    if prefix == "--":  # a relay has the option for both of its sides
        group.add_argument(
            "--accept-truncation",
            action="store_true",
            help="take an end of the connection without close_notify for the end of the stream, which gives"
            " up knowing whether it was cut off (default: that is an error, after what came before)",
        )


def client_tls_from(args: argparse.Namespace, prefix: str = "--") -> ClientTlsOptions | None:
    """Return what the options ask for. Raises `CommandError` if they do not go together, or files are bad."""
    names = ["ca", "cert", "key", "key-password-file", "alpn", "server-hostname"]
    if prefix == "--":
        names.append("accept-truncation")
    given = {name: _given(args, prefix + name) for name in names}
    if not _given(args, f"{prefix}tls"):
        for name in (name for name in names if given[name]):
            raise CommandError(f"{prefix}{name} needs {prefix}tls")
        return None
    for name in ("key", "key-password-file"):
        if given[name] and not given["cert"]:
            raise CommandError(f"{prefix}{name} needs {prefix}cert")
    context = _context_that_trusts(given["ca"])
    if given["alpn"]:
        context.set_alpn_protocols(given["alpn"])
    if given["cert"]:
        with _explained(prefix):
            password = _password_from(given["key-password-file"])
            load_pair(CertificateFiles(given["cert"], given["key"]), context, password)
    return ClientTlsOptions(context, given["server-hostname"], bool(given.get("accept-truncation")))


def _given(args: argparse.Namespace, option: str) -> Any:
    return getattr(args, option.lstrip("-").replace("-", "_"))


def _context_that_trusts(authorities: str | None) -> ssl.SSLContext:
    if authorities is None:
        return default_context(ssl.Purpose.SERVER_AUTH)
    with _explained(), reading_authorities(authorities):
        return default_context(ssl.Purpose.SERVER_AUTH, cafile=authorities)


# Passwords ----------------------------------------------------------------------------------------------


def _password_from(path: str | None) -> Password:
    """Return the password of encrypted keys, or what asks for it. Raises `OSError`."""
    if path is None:
        return _question if _in_foreground() else None
    with open(path, "rb") as file:
        return file.readline().rstrip(b"\r\n")


class _Question:
    """Asks for the password when it is called, once; pickled, it is what was answered."""

    def __init__(self) -> None:
        self._answer: str | None = None
        self.closed = False
        """Whether it is too late to ask: an event loop runs, and would wait for the answer."""

    def __call__(self) -> str:
        if self._answer is None:
            if self.closed:
                raise EncryptedKeyError("a private key is encrypted now: start again to give its password")
            self._answer = getpass.getpass("password of the private key: ")
        return self._answer

    def __reduce__(self) -> tuple[Callable[[str | None], str | None], tuple[str | None]]:
        return _answered, (self._answer,)


def _answered(password: str | None) -> str | None:
    return password


_question = _Question()


def _in_foreground() -> bool:
    """Whether a question at the terminal would reach a person: otherwise it would stop this process."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


@contextmanager
def _explained(prefix: str = "--") -> Iterator[None]:
    """Make one line of what can be wrong with files."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot read {error.filename}: {error.strerror}") from error
    except EncryptedKeyError as error:
        raise CommandError(f"{error} with {prefix}key-password-file") from error
    except ValueError as error:
        raise CommandError(str(error)) from error
