"""Where a stream begins or ends: internet addresses, Unix addresses, and what may be written in their place.

Theory of operation
-------------------
An address is a plain value: frozen, hashable, ordered, printable, and the printed form parses back to an
equal value. Making one touches no network: a host name stays a name until somebody dials it (only a service
name is looked up, in the local table), and everything that can be known to be wrong is refused here, with
the value in the message.

*One spelling per address.* `SocketAddress.host` holds the canonical text, so equality and hashing are those
of two plain values and an address taken from the kernel needs no parsing. Canonical is what ``inet_ntop``
writes, because that is how the kernel's addresses arrive; `ipaddress` writes IPv4-mapped addresses otherwise,
and not the same way in every Python version. The number behind the text is worked out only when somebody
sorts or asks for `ip`.

*Names are kept apart from numbers.* The C library takes ``127.1``, ``0x7f.1`` or full-width digits for IPv4
addresses, which lets a number slip through checks meant for it; every name all of whose labels are numbers
is refused. What remains is either a proper IP, or a name, or ``""`` for every interface.

*Printed on one line.* A Unix path may contain any byte but NUL, and a peer chooses the path that it binds:
one with a newline would begin a line of its own in a log. So in the text of a Unix address each byte that is
not printable, and the backslash, is ``\\xHH``. `UnixAddress.parse` reverses that, and takes every other
backslash as it is, because paths with one exist (systemd's ``\\x2d``).

*Scopes* (``fe80::1%eth0``) are part of the host and are compared as written: the interface behind a name is
the system's affair and may change, so ``%eth0`` and ``%4`` differ even where they mean the same today.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from dataclasses import dataclass
from functools import total_ordering
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Self, TypeAlias, overload

__all__ = [
    "AddressLike",
    "IpAddress",
    "SocketAddress",
    "UnixAddress",
    "as_address",
    "unmapped",
]

IpAddress: TypeAlias = IPv4Address | IPv6Address
"""The standard library's address types."""

_HIGHEST_PORT = 65535
_LONGEST_NAME = 253  # RFC 1035, 2.3.4, less the length byte and the root label
_LONGEST_LABEL = 63
_HIGHEST_SCOPE = 2**32 - 1  # sin6_scope_id has 32 bits
_EVERY_INTERFACE = "*"  # how people write "" in text

_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_BAD_IN_SCOPE = re.compile(r"[\s/%\[\]]")

# The two spellings that mean "every interface of this family".
_WILDCARDS = ("0.0.0.0", "::")

# What `UnixAddress` escapes in its text; every other byte that a backslash is written for is left alone.
_ESCAPED = re.compile(rb"\\x([01][0-9a-f]|5c|7f|[89a-f][0-9a-f])")

# sizeof(sun_path). A path needs room for its NUL, an abstract name does not (unix(7)).
_SUN_PATH = 108 if sys.platform == "linux" else 104


@total_ordering
@dataclass(frozen=True, slots=True, init=False, repr=False)
class SocketAddress:
    """An internet address: a host and a port. Frozen, hashable, ordered; ``parse(str(a)) == a``.

    ``SocketAddress(3000)`` is a port only: a server binds it on every interface of both families, a client
    dials this host. ``SocketAddress("::1", 3000)``, ``SocketAddress("localhost", "http")`` and
    ``SocketAddress(IPv4Address("127.0.0.1"), 3000)`` name the host too.

    Addresses sort by number, not by text: wildcards, IPv4, IPv6, names; then by scope, then by port.

    Raises `ValueError` for a host that is neither an IP address nor a plausible host name, for a port outside
    0..65535 and for an unknown service; `TypeError` for a wrong type. Does no I/O but the look-up of a
    service name in the local table.
    """

    host: str
    """The canonical text of the IP address, with ``%scope`` if it has one; a name as given; or ``""``."""
    port: int
    """0..65535; 0 lets the system choose when bound."""

    @overload
    def __init__(self, port: int, /) -> None: ...
    @overload
    def __init__(self, host: str | IpAddress = "", *, port: int | str) -> None: ...
    @overload
    def __init__(self, host: str | IpAddress, port: int | str) -> None: ...
    def __init__(self, host: str | IpAddress | int = "", port: int | str | None = None) -> None:
        if port is None:
            if not isinstance(host, int):
                raise TypeError(
                    f"SocketAddress({host!r}) lacks a port: expected SocketAddress(host, port), "
                    "SocketAddress(port) or SocketAddress.parse('host:port')"
                )
            host, port = "", host
        object.__setattr__(self, "host", _canonical_host(host))
        object.__setattr__(self, "port", _canonical_port(port))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address written as *text*.

        ``"127.0.0.1:3000"``, ``"[fe80::1%eth0]:80"``, ``"localhost:http"``; ``":3000"``, ``"*:3000"`` and
        ``"3000"`` are a port on every interface. An IPv6 address needs its brackets.

        Raises `ValueError` where *text* is none of these, `TypeError` where it is no string.
        """
        if not isinstance(text, str):
            raise TypeError(f"expected the text of an address such as '127.0.0.1:3000', got {text!r}")
        if text.startswith("["):
            return cls(*_split_brackets(text))
        host, colon, port = text.rpartition(":")
        if "://" in text:
            raise ValueError(f"{text!r} is a URL: expected its host and port only, as in {_of_url(text)!r}")
        if ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address goes in brackets before its port, as in '[::1]:80'")
        if not colon and not _is_digits(text):
            raise ValueError(f"{text!r} lacks a port: expected 'host:port', '[ipv6]:port' or ':port'")
        return cls(host, port)

    @classmethod
    def from_sockaddr(cls, raw: tuple[Any, ...]) -> Self:
        """The address that the kernel gave as *raw*: what ``getsockname()`` or ``getpeername()`` returns.

        A pair for ``AF_INET``, four items for ``AF_INET6``. *raw* is trusted, not validated: use
        `as_address` for what a person wrote. A scope is named by its interface, or numbered if that is gone.
        """
        host = raw[0]
        if len(raw) > 2 and raw[3]:
            host = f"{host.partition('%')[0]}%{_scope_name(raw[3])}"
        self = cls.__new__(cls)
        object.__setattr__(self, "host", host)
        object.__setattr__(self, "port", raw[1])
        return self

    def sockaddr(self, family: int | None = None) -> tuple[str, int] | tuple[str, int, int, int]:
        """What ``bind()`` and ``connect()`` of a socket of *family* take; by default, of `family`.

        Every interface becomes ``0.0.0.0`` or ``::``; an IPv4 address asked for as ``AF_INET6`` becomes
        IPv4-mapped, and the reverse.

        Raises `ValueError` for a name (resolve it first) and for an address that *family* cannot express;
        `OSError` with ``ENODEV`` for a scope that names no interface of this system, which may change.
        """
        family = self.family if family is None else family
        if family == socket.AF_INET:
            return self._ipv4_text(), self.port
        if family == socket.AF_INET6:
            return self._ipv6_text(), self.port, 0, self._scope_number()
        if family is None:
            raise ValueError(f"{self} has no family of its own: name one, or resolve the host first")
        raise ValueError(f"{self} cannot be expressed in family {family!r}: expected AF_INET or AF_INET6")

    @property
    def ip(self) -> IpAddress | None:
        """The host as an IP address; None for a name and for every interface."""
        if ":" in self.host:
            return IPv6Address(self.host)
        # No name consists of digits and dots alone (see _check_name), so this tells them apart.
        if _is_digits(self.host.replace(".", "")):
            return IPv4Address(self.host)
        return None

    @property
    def family(self) -> socket.AddressFamily | None:
        """``AF_INET`` or ``AF_INET6``; None for a name and for every interface of both."""
        ip = self.ip
        if ip is None:
            return None
        return socket.AF_INET if ip.version == 4 else socket.AF_INET6

    @property
    def is_wildcard(self) -> bool:
        """Whether this stands for every interface: host ``""``, ``0.0.0.0`` or ``::``."""
        return not self.host or self.host in _WILDCARDS

    @property
    def scope_id(self) -> str | None:
        """The scope of an IPv6 address as written after ``%``: an interface's name or number; or None."""
        return self.host.partition("%")[2] or None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.host!r}, {self.port})"
            if self.host
            else f"{type(self).__name__}({self.port})"
        )

    def __lt__(self, other: SocketAddress) -> bool:
        if not isinstance(other, SocketAddress):
            return NotImplemented
        return self._rank() < other._rank()

    def _rank(self) -> tuple[int, int, str, int]:
        """The sort key. Behind equal numbers the text differs by scope, or tells the wildcards apart."""
        if self.is_wildcard:
            return 0, 0, self.host, self.port
        ip = self.ip
        if ip is None:
            return 3, 0, self.host, self.port
        return (1 if ip.version == 4 else 2), int(ip), self.host, self.port

    def _ipv4_text(self) -> str:
        ip = IPv4Address(0) if not self.host else self.ip
        if isinstance(ip, IPv6Address):
            ip = ip.ipv4_mapped
        if ip is None:
            raise ValueError(f"{self} is no IPv4 address: expected one, or every interface")
        return str(ip)

    def _ipv6_text(self) -> str:
        if not self.host:
            return "::"
        ip = self.ip
        if ip is None:
            raise ValueError(f"{self} is no IP address: resolve the host first")
        return f"::ffff:{ip}" if ip.version == 4 else self.host.partition("%")[0]

    def _scope_number(self) -> int:
        scope = self.scope_id
        if scope is None:
            return 0
        if _is_digits(scope):
            return int(scope)
        try:
            return socket.if_nametoindex(scope)
        except (OSError, UnicodeError):  # which has no errno
            raise OSError(errno.ENODEV, f"no interface is named {scope!r} here") from None


@dataclass(frozen=True, order=True, slots=True, init=False, repr=False)
class UnixAddress:
    """The address of a Unix socket: a path, an abstract name, or none. Frozen, hashable, ordered.

    ``UnixAddress("/run/app.sock")`` is a path; ``UnixAddress("\\0app")`` is Linux's abstract name ``app``,
    printed ``unix:@app``; ``UnixAddress("")`` is a socket that was never bound, printed ``unix:``. A relative
    path that begins with ``@`` is held as ``./@...``, so that ``parse(str(a)) == a`` for every address. The
    printed form is printable: other bytes, and the backslash, are ``\\xHH`` in it.

    Raises `ValueError` for a path longer than the system's ``sun_path`` holds (107 bytes on Linux; an
    abstract name 107 after its NUL), and for a NUL inside a path; `TypeError` for a wrong type. Touches no
    file.
    """

    path: str
    """The path as `os.fsdecode` gives it; an abstract name with its leading NUL; or ``""``."""

    def __init__(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        try:
            raw = os.fsencode(path)
        except TypeError:
            raise TypeError(
                f"expected the path of a Unix socket as str, bytes or PathLike, got {path!r}"
            ) from None
        except UnicodeEncodeError as exc:
            raise ValueError(f"the Unix socket path {path!r} cannot be encoded for the file system") from exc
        if raw.startswith(b"@"):
            raw = b"./" + raw
        _check_unix_path(raw)
        object.__setattr__(self, "path", os.fsdecode(raw))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address written as *text*: ``"unix:/run/app.sock"``, ``"unix:@abstract"`` or ``"unix:"``.

        ``\\xHH`` is a byte where ``str()`` of an address writes it so, as ``\\x0a`` for a newline.

        Raises `ValueError` where *text* does not begin with ``unix:`` or the path is refused, `TypeError`
        where it is no string.
        """
        if not isinstance(text, str):
            raise TypeError(f"expected the text of a Unix address such as 'unix:/run/app.sock', got {text!r}")
        if not text.startswith("unix:"):
            raise ValueError(f"{text!r} is no Unix address: expected 'unix:/path' or 'unix:@abstract'")
        path = text[len("unix:") :]
        abstract = path.startswith("@")
        if "\\x" in path:
            path = _unescaped(path)
        return cls("\0" + path[1:] if abstract else path)

    @classmethod
    def from_sockaddr(cls, raw: str | bytes) -> Self:
        """The address that the kernel gave as *raw*: a path, ``b"\\0name"``, or ``""``. It is trusted."""
        path = os.fsdecode(raw)
        self = cls.__new__(cls)
        object.__setattr__(self, "path", f"./{path}" if path.startswith("@") else path)
        return self

    def sockaddr(self) -> str | bytes:
        """What ``bind()`` and ``connect()`` take: a path as str, an abstract name as bytes."""
        return os.fsencode(self.path) if self.is_abstract else self.path

    @property
    def is_abstract(self) -> bool:
        """Whether this is a name in Linux's abstract name space, which has no file."""
        return self.path.startswith("\0")

    def __str__(self) -> str:
        return f"unix:@{_escaped(self.path[1:])}" if self.is_abstract else f"unix:{_escaped(self.path)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"


AddressLike: TypeAlias = SocketAddress | UnixAddress | tuple[str, int] | str | int
"""What every function that takes an address accepts; `as_address` says how each is read."""


def as_address(value: AddressLike | tuple[Any, ...]) -> SocketAddress | UnixAddress:
    """*value* as an address: the one place where addresses are normalised.

    An address is returned as it is. A string that begins with ``unix:`` is a Unix address, every other one is
    read by `SocketAddress.parse`. A tuple is ``(host, port)``, or the four items that an IPv6 socket's
    ``getsockname()`` returns. An integer is a port on every interface.

    Raises `TypeError` for anything else and `ValueError` where the parts are refused, both naming the value.
    """
    if isinstance(value, (SocketAddress, UnixAddress)):
        return value
    if isinstance(value, str):
        return UnixAddress.parse(value) if value.startswith("unix:") else SocketAddress.parse(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return SocketAddress(value)
    if isinstance(value, tuple) and len(value) == 2:
        return SocketAddress(value[0], _given(value[1], value))
    if isinstance(value, tuple) and len(value) == 4:
        return _from_four(value)
    raise TypeError(
        f"{value!r} is no address: expected a SocketAddress, a UnixAddress, (host, port), "
        "'host:port', 'unix:/path' or a port"
    )


def _given(port: Any, value: tuple[Any, ...]) -> Any:
    # SocketAddress(3000, None) is a port only; (3000, None) in a tuple is a mistake.
    if port is None:
        raise TypeError(f"{value!r} lacks a port: expected (host, port)")
    return port


def _from_four(value: tuple[Any, ...]) -> SocketAddress:
    host, port, flow, scope = value
    if not isinstance(host, str) or not all(type(number) is int for number in (port, flow, scope)):
        raise TypeError(f"{value!r} is no address: expected (host, port, flowinfo, scope_id)")
    if not 0 <= scope <= _HIGHEST_SCOPE:
        raise ValueError(f"{value!r}: expected a scope id in 0..{_HIGHEST_SCOPE}, got {scope}")
    return SocketAddress(f"{host.partition('%')[0]}%{_scope_name(scope)}" if scope else host, port)


def _scope_name(number: int) -> str:
    try:
        name = socket.if_indextoname(number)
    except (OSError, OverflowError):
        return str(number)  # the interface went away; the number is all that is left
    return str(number) if _is_bad_scope(name) else name  # Linux allows most bytes in a name


def unmapped(ip: IpAddress) -> IpAddress:
    """Return `ip` as IPv4 if it is an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2), else as it is."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _of_url(url: str) -> str:
    """Return the host and the port of a URL, as an example."""
    scheme, _, rest = url.partition("://")
    authority = rest.partition("/")[0].rpartition("@")[2] or "127.0.0.1"
    has_port = _is_digits(authority.rpartition(":")[2]) and not authority.endswith("]")
    return authority if has_port else f"{authority}:{443 if scheme in ('https', 'wss') else 80}"


def _split_brackets(text: str) -> tuple[str, str]:
    host, _, rest = text[1:].rpartition("]")
    if ":" not in host or not rest.startswith(":"):
        raise ValueError(
            f"{text!r} is no address: expected an IPv6 address in brackets and a port, as in '[::1]:80'"
        )
    return host, rest[1:]


def _canonical_port(port: object) -> int:
    if isinstance(port, str):
        return _service_port(port)
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"expected a port as an integer or a service name, got {port!r}")
    if not 0 <= port <= _HIGHEST_PORT:
        raise ValueError(f"expected a port in 0..{_HIGHEST_PORT}, got {port!r}")
    return int(port)


def _service_port(service: str) -> int:
    if _is_digits(service):
        # The length is looked at first because int() refuses very long texts with a message of its own.
        port = int(service) if len(service.lstrip("0")) <= 5 else _HIGHEST_PORT + 1
        if port > _HIGHEST_PORT:
            raise ValueError(f"expected a port in 0..{_HIGHEST_PORT}, got {service!r}")
        return port
    try:
        return socket.getservbyname(service, "tcp")
    except (OSError, ValueError) as exc:
        raise ValueError(
            f"expected a port in 0..{_HIGHEST_PORT} or a TCP service's name, got {service!r}"
        ) from exc


def _canonical_host(host: object) -> str:
    if isinstance(host, (IPv4Address, IPv6Address)):
        return _canonical_ip(host)
    if not isinstance(host, str):
        raise TypeError(f"expected a host as str, IPv4Address or IPv6Address, got {host!r}")
    if not host or host == _EVERY_INTERFACE:
        return ""
    if ":" in host:
        try:
            return _canonical_ip(IPv6Address(host))
        except AddressValueError as exc:
            raise ValueError(
                f"{host!r} is no host: expected an IPv6 address without brackets ({exc})"
            ) from exc
    try:
        return str(IPv4Address(host))
    except AddressValueError:
        _check_name(host)
        return host


def _canonical_ip(ip: IpAddress) -> str:
    if isinstance(ip, IPv4Address):
        return str(ip)
    text = socket.inet_ntop(socket.AF_INET6, ip.packed)
    scope = ip.scope_id
    if scope is None:
        return text
    if _is_bad_scope(scope) or (_is_digits(scope) and not _fits_scope(scope)):
        raise ValueError(
            f"{str(ip)!r} is no host: expected an interface's name or number after '%', got {scope!r}"
        )
    return f"{text}%{scope}"


def _is_bad_scope(scope: str) -> bool:
    return not scope.isprintable() or _BAD_IN_SCOPE.search(scope) is not None


def _fits_scope(digits: str) -> bool:
    return len(digits) <= len(str(_HIGHEST_SCOPE)) and int(digits) <= _HIGHEST_SCOPE


def _check_name(name: str) -> None:
    """Refuse what cannot be a host's name. Underscores and non-ASCII labels occur in the wild."""
    ascii_name = _as_ascii(name)
    if len(ascii_name) > _LONGEST_NAME + ascii_name.endswith("."):
        raise ValueError(f"{name!r} is no host: expected a name of at most {_LONGEST_NAME} characters")
    labels = ascii_name.removesuffix(".").split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"{name!r} is no host: expected an IP address or labels of letters, digits, '-' and '_'"
            )
        if len(label) > _LONGEST_LABEL:
            raise ValueError(f"{name!r} is no host: expected labels of at most {_LONGEST_LABEL} characters")
    if all(_NUMERIC_LABEL.fullmatch(label) for label in labels):
        raise ValueError(
            f"{name!r} is no host: expected an IPv4 address of four numbers in 0..255, or a name"
        )


def _as_ascii(name: str) -> str:
    """*name* as the resolver will see it: what looks harmless may become a slash or a digit on the way."""
    if name.isascii():
        return name
    if not name.isprintable():
        raise ValueError(f"{name!r} is no host: expected no invisible characters")
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError as exc:
        raise ValueError(f"{name!r} is no host: expected a name that IDNA can encode ({exc})") from exc


def _escaped(path: str) -> str:
    if path.isprintable() and "\\" not in path:
        return path
    return "".join(
        letter if letter.isprintable() and letter != "\\" else _as_escapes(os.fsencode(letter))
        for letter in path
    )


def _as_escapes(raw: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in raw)


def _unescaped(path: str) -> str:
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:  # which is refused in a moment
        return path
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), raw))


def _check_unix_path(raw: bytes) -> None:
    abstract = raw.startswith(b"\0")
    if not abstract and b"\0" in raw:
        raise ValueError(
            f"the Unix socket path {os.fsdecode(raw)!r} contains a NUL: expected none after the first byte"
        )
    limit = _SUN_PATH if abstract else _SUN_PATH - 1
    if len(raw) > limit:
        raise ValueError(
            f"the Unix socket path {os.fsdecode(raw)!r} is {len(raw)} bytes long: expected at most {limit}"
        )
