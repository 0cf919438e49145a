"""Making listening sockets: TCP on one or both address families, Unix on a path.

Theory of operation
-------------------
*Both families on one port.* A port alone means every interface of both families: two sockets, the IPv6 one
with IPV6_V6ONLY so that they do not get in each other's way. If the port is 0 the first socket gets a free
one from the kernel and the second must take the same; when somebody else has that one, both start again.

*Several addresses* of one name need not all be of this host: ``localhost`` is ``::1``, too, in a container
without IPv6. What this host does not have is passed over, as long as something is left.

*Backlog.* The kernel caps it at ``net.core.somaxconn`` (listen(2)), so that is what is asked for by default.

*Unix paths* are the affair of `socket_file.py`.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .addresses import SocketAddress, UnixAddress
from .announcing import Log
from .options import TcpOptions, UnixOptions
from .socket_file import AS_EVERY_FILE, FileAccess, SocketFile, bind_to_path

__all__ = [
    "ListeningSocket",
    "adopt_listener",
    "both_families",
    "checked_backlog",
    "is_of_another_host",
    "listen_tcp",
    "listen_unix",
]

_log = Log("aionet.server")

_SAME_PORT_TRIES = 16
_OF_ANOTHER_HOST = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class ListeningSocket(socket.socket):
    """A stream socket whose `accept` wastes no time on what few connections ever need.

    The base class keeps family and type as numbers and makes enum members of them whenever they are read, and
    it wraps every connection into an object of Python's own. Here the members are made once, and `accept`
    returns the C object beneath, `socket.SocketType`, which has all of the system's operations.
    """

    __slots__ = ("family", "type")
    family: socket.AddressFamily
    type: socket.SocketKind

    def __init__(self, family: socket.AddressFamily, fileno: int | None = None) -> None:
        self.family = family
        self.type = socket.SOCK_STREAM
        super().__init__(family, socket.SOCK_STREAM, fileno=fileno)
        self.setblocking(False)

    def accept(self) -> tuple[socket.SocketType, Any]:  # type: ignore[override]
        fd, peer = self._accept()  # type: ignore[attr-defined]
        return socket.SocketType(self.family, socket.SOCK_STREAM, 0, fd), peer


@functools.cache
def _default_backlog() -> int:
    """Return the longest queue of connections that the kernel allows a listener."""
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return socket.SOMAXCONN


def listen_tcp(
    addresses: Sequence[SocketAddress], *, backlog: int, reuse_port: bool, options: TcpOptions
) -> list[socket.socket]:
    """Return non-blocking listening sockets for numeric `addresses`.

    Of several, those that this host does not have are passed over. Raises `OSError`, also where it has none.
    """
    for tries_left in reversed(range(_SAME_PORT_TRIES)):
        try:
            return _listen_on_all(addresses, backlog, reuse_port, options)
        except OSError as error:
            port_was_chosen = len(addresses) > 1 and addresses[0].port == 0
            if error.errno != errno.EADDRINUSE or not port_was_chosen or not tries_left:
                raise
    raise AssertionError("not reached")


def both_families(port: int) -> list[SocketAddress]:
    """Return the wildcard address of each family that this system has, on `port`."""
    hosts = ["0.0.0.0"]
    if _has_ipv6():
        hosts.append("::")
    return [SocketAddress(host, port) for host in hosts]


def _listen_on_all(
    addresses: Sequence[SocketAddress], backlog: int, reuse_port: bool, options: TcpOptions
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            if address.port == 0 and sockets:
                address = SocketAddress(address.host, sockets[0].getsockname()[1])
            try:
                sockets.append(_listen_on(address, backlog, reuse_port, options))
            except OSError as error:
                if not is_of_another_host(error) or (address is addresses[-1] and not sockets):
                    raise
                _log.info("%s: passed over", error.strerror)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def is_of_another_host(error: OSError) -> bool:
    """Whether `error` says that this host does not have the address."""
    return error.errno in _OF_ANOTHER_HOST


def _listen_on(address: SocketAddress, backlog: int, reuse_port: bool, options: TcpOptions) -> socket.socket:
    assert address.family is not None
    sock = None
    try:
        sock = ListeningSocket(address.family)
        if os.name == "posix":  # elsewhere it would let two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            if not hasattr(socket, "SO_REUSEPORT"):
                raise OSError(errno.ENOPROTOOPT, "reuse_port: this system has no SO_REUSEPORT")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        options.apply_to_listener(sock)
        sock.bind(address.sockaddr())
        sock.listen(backlog)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error
        raise
    return sock


@functools.cache
def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def checked_backlog(backlog: int | None) -> int:
    """Return the backlog to ask for."""
    if backlog is None:
        return _default_backlog()
    if isinstance(backlog, bool) or not isinstance(backlog, int):
        raise TypeError(f"backlog must be a number of connections, not {backlog!r}")
    if backlog < 1:
        raise ValueError(f"backlog must be at least 1, not {backlog}")
    return backlog


def adopt_listener(fd: int, families: tuple[int, ...]) -> socket.socket:
    """Return `fd` as a non-blocking socket if it is a listening stream of one of `families`.

    Raises `ValueError` or `OSError`; `fd` then stays as it was.
    """
    if isinstance(fd, bool) or not isinstance(fd, int) or fd < 0:
        raise ValueError(f"a descriptor is a number from 0 on, not {fd!r}")
    sock = socket.socket(fileno=fd)
    listening = sock.family in families and sock.type == socket.SOCK_STREAM
    if not listening or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        message = f"descriptor {fd} is not a listening stream socket of this kind: {sock!r}"
        sock.detach()
        raise ValueError(message)
    return ListeningSocket(sock.family, sock.detach())


# Unix ---------------------------------------------------------------------------------------------------


def listen_unix(
    address: UnixAddress, *, backlog: int, options: UnixOptions, access: FileAccess = AS_EVERY_FILE
) -> tuple[socket.socket, SocketFile | None]:
    """Return a non-blocking socket listening at `address`, and its file; a dead server's file is replaced.

    Raises `OSError`: ``EADDRINUSE`` if another server has the address, or the file there is no socket.
    """
    sock = file = None
    try:
        sock = ListeningSocket(socket.AF_UNIX)
        options.apply_to_listener(sock)
        if address.is_abstract:
            sock.bind(address.sockaddr())
        else:
            file = bind_to_path(sock, address.path)
            if access and file is not None:
                access.grant(file)  # before a client can connect
        sock.listen(backlog)
    except BaseException as error:
        if file is not None:
            file.remove()
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error
        raise
    return sock, file
