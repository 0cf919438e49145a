"""Listening sockets that outlive those who accept from them: workers, and the whole program.

Theory of operation
-------------------
Whoever binds an address also *holds* its listening sockets; servers accept from copies. As long as one copy
is open, in any process, the kernel goes on queueing connections: when a worker dies, or a program hands over
to its successor, nobody is refused and nothing that was queued is lost.

*Shares.* What listens at an address is one or several shares, and each share is one socket, or one of each
address family. With one share all workers accept from the same queue. With as many shares as workers
(SO_REUSEPORT, socket(7)) the kernel spreads the connections evenly, and each worker is woken only for its
own; but what lies in the queue of a worker that is stuck waits for that worker. One rule covers every number
of both: count up to the larger one, and go round in both (`HeldListener.for_worker`). So no share is ever
without a worker, also after a restart with fewer of them: closing a share would reset what it has queued.

*No silent sharing.* SO_REUSEPORT lets a second server of the same user bind the port unnoticed. So it is
first bound without that option, which fails if anybody listens there.

*A socket that was shut down* (by another process that has a copy, or by an administrator: ``ss --kill``) is
made to listen again (`HeldListeners.listen_again`): a TCP socket in place, so that it is the same in every
process; a Unix socket, which cannot, is replaced with its file.

*The file of a Unix socket* is removed by the last who holds the socket: a program that takes listeners over
removes none before it was told to go on, and the one before it none from then on (`HeldListeners.own_files`).
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from .addresses import SocketAddress, UnixAddress
from .listening import (
    adopt_listener,
    both_families,
    checked_backlog,
    is_of_another_host,
    listen_tcp,
    listen_unix,
)
from .options import TcpOptions
from .resolving import resolve
from .scope import current_scope
from .socket_file import AS_EVERY_FILE, FileAccess, SocketFile
from .stream_server import AsyncStreamConnectionServer
from .tcp_connection_server import AsyncTcpConnectionServer
from .tls.server import TlsForServer
from .unix_connection_server import AsyncUnixConnectionServer

__all__ = [
    "HeldListener",
    "HeldListeners",
    "InheritedListeners",
    "SharedPath",
    "WantedListener",
    "name_of",
    "server_on",
]

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)

_Share: TypeAlias = list[socket.socket]


@dataclass(frozen=True)
class InheritedListeners:
    """Listening sockets that this process was started with, under the name that they are asked for by."""

    name: str
    sockets: tuple[socket.socket, ...]


@dataclass(frozen=True)
class SharedPath:
    """A Unix address whose file is to have a mode, an owner or a group."""

    address: UnixAddress
    access: FileAccess


WantedListener: TypeAlias = SocketAddress | UnixAddress | SharedPath | InheritedListeners
"""What to listen on."""


def name_of(wanted: WantedListener) -> str:
    """Return the name by which a successor that wants the same finds it."""
    if isinstance(wanted, InheritedListeners):
        return wanted.name
    return str(wanted.address if isinstance(wanted, SharedPath) else wanted)


class HeldListener:
    """What listens at one address, in one or several shares."""

    def __init__(self, name: str, shares: Sequence[_Share], file: SocketFile | None = None) -> None:
        self.name = name
        self.shares = list(shares)
        self.file = file
        """The socket file, if there is one that is ours to remove."""
        self.removes_file = True

    @classmethod
    async def open(cls, wanted: WantedListener, *, shares: int = 1) -> HeldListener:
        """Listen on `wanted`, in up to `shares` shares; only TCP addresses can have more than one.

        Raises `ResolveError`, `OSError`, `ValueError`. Cancel safety: nothing is left open.
        """
        name = name_of(wanted)
        if isinstance(wanted, InheritedListeners):
            if not wanted.sockets:
                raise OSError(errno.ENOENT, f"no socket was passed to this process for {name}")
            return cls(name, [_adopted(wanted.sockets)])
        access = AS_EVERY_FILE
        if isinstance(wanted, SharedPath):
            access, wanted = wanted.access, wanted.address
        if isinstance(wanted, UnixAddress):
            backlog, options = checked_backlog(None), current_scope().unix_options
            sock, file = listen_unix(wanted, backlog=backlog, options=options, access=access)
            return cls(name, [[sock]], file)
        addresses = await _numeric(wanted)
        if shares > 1:
            _refuse_if_taken(addresses)
        held = cls(name, [_listen(addresses, reuse_port=shares > 1)])
        try:
            held.grow(shares)
        except BaseException:
            held.close()
            raise
        return held

    def grow(self, shares: int) -> None:
        """Have at least so many shares, if the sockets were made to be shared. Raises `OSError`."""
        if all(sock.family != socket.AF_UNIX and _may_be_shared(sock) for sock in self.sockets):
            addresses = [SocketAddress.from_sockaddr(sock.getsockname()) for sock in self.shares[0]]
            while len(self.shares) < shares:
                self.shares.append(_listen(addresses, reuse_port=True))

    @property
    def sockets(self) -> list[socket.socket]:
        """All of them."""
        return [sock for share in self.shares for sock in share]

    @property
    def addresses(self) -> list[SocketAddress | UnixAddress]:
        """Where it listens."""
        return [_address_of(sock) for sock in self.shares[0]] if self.shares else []

    def for_worker(self, worker: int, workers: int) -> list[socket.socket]:
        """Return the sockets from which `worker`, a number from 0 on, of so many `workers` accepts."""
        shares = len(self.shares)
        turns = range(worker, max(workers, shares), workers)
        return [sock for turn in turns for sock in self.shares[turn % shares]]

    def listen_again(self) -> None:
        """Make those sockets listen again that were shut down. Raises `OSError`."""
        for share in self.shares:
            for index, sock in enumerate(share):
                if _listens(sock):
                    continue
                if sock.family == socket.AF_UNIX:
                    share[index] = self._replace(sock)
                else:
                    _listen_again(sock)

    def _replace(self, sock: socket.socket) -> socket.socket:
        """Return another Unix socket in place of `sock`, which is closed, with a file like its own."""
        address = UnixAddress.from_sockaddr(sock.getsockname())
        access = AS_EVERY_FILE
        if self.file is not None and self.removes_file:
            access = _access_to(self.file)
            self.file.remove()
        backlog, options = checked_backlog(None), current_scope().unix_options
        replacement, self.file = listen_unix(address, backlog=backlog, options=options, access=access)
        sock.close()
        return replacement

    def close(self) -> None:
        """Close the sockets, and remove the socket file, if that is for this process to do."""
        if self.file is not None and self.removes_file and self.shares:
            self.file.remove()
        for sock in self.sockets:
            sock.close()
        self.shares.clear()


class HeldListeners:
    """Everything that a program listens on. Leaving the context closes it."""

    def __init__(self, listeners: Iterable[HeldListener] = (), unwanted: Iterable[HeldListener] = ()) -> None:
        self._listeners = list(listeners)
        self._unwanted = list(unwanted)

    @classmethod
    async def open(
        cls, wanted: Iterable[WantedListener], *, shares: int = 1, taken: Sequence[HeldListener] = ()
    ) -> HeldListeners:
        """Listen on all that is `wanted`, using what was `taken` over and is among it.

        Inherited sockets are owned from then on. Raises and cancel safety as `HeldListener.open`; nothing is
        left open then.
        """
        held = cls(unwanted=taken)
        everything = list(wanted)
        try:
            for one in everything:
                held._listeners.append(await held._find(one, shares))
        except BaseException:
            held.close()
            for one in everything:
                for sock in one.sockets if isinstance(one, InheritedListeners) else ():
                    sock.close()
            raise
        return held

    async def _find(self, wanted: WantedListener, shares: int) -> HeldListener:
        for listener in self._unwanted:
            if listener.name == name_of(wanted):
                if isinstance(wanted, SharedPath) and listener.file is not None:
                    wanted.access.grant(listener.file)
                self._unwanted.remove(listener)
                listener.grow(shares)
                return listener
        return await HeldListener.open(wanted, shares=shares)

    @property
    def sockets(self) -> list[socket.socket]:
        """All listening sockets, always in the same order."""
        return [sock for listener in self for sock in listener.sockets]

    @property
    def addresses(self) -> list[SocketAddress | UnixAddress]:
        """Where it listens."""
        return [address for listener in self for address in listener.addresses]

    def for_worker(self, worker: int = 0, workers: int = 1) -> list[socket.socket]:
        """Return the sockets from which `worker` of so many `workers` accepts."""
        return [sock for listener in self for sock in listener.for_worker(worker, workers)]

    def listen_again(self) -> None:
        """Make those sockets listen again that were shut down. Raises `OSError`."""
        for listener in self:
            listener.listen_again()

    def own_files(self, yes: bool) -> None:
        """Say whether socket files are for this process to remove; if so, close what it does not want."""
        for listener in (*self._listeners, *self._unwanted):
            listener.removes_file = yes
        if yes:
            self._close(self._unwanted)

    def close(self) -> None:
        """Close everything. Idempotent."""
        self._close(self._listeners)
        self._close(self._unwanted)

    @staticmethod
    def _close(listeners: list[HeldListener]) -> None:
        for listener in listeners:
            listener.close()
        listeners.clear()

    def __iter__(self) -> Iterator[HeldListener]:
        return iter(self._listeners)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def server_on(
    sock: socket.socket, tls: TlsForServer | None = None, options: TcpOptions | None = None
) -> AsyncStreamConnectionServer[Any, Any]:
    """Return a server that accepts from a copy of the listening socket `sock`. Raises `OSError`.

    `options` are set if it is a TCP socket, on all copies of it.
    """
    fd = os.dup(sock.fileno())
    try:
        if sock.family == socket.AF_UNIX:
            return AsyncUnixConnectionServer.from_fd(fd, tls=tls)
        return AsyncTcpConnectionServer.from_fd(fd, options=options, tls=tls)
    except BaseException:
        os.close(fd)
        raise


def _adopted(sockets: Iterable[socket.socket]) -> _Share:
    """Return `sockets` as listening sockets. Raises `ValueError` if one is none; then none was changed."""
    copies = [os.dup(sock.fileno()) for sock in sockets]
    adopted: _Share = []
    try:
        for fd in copies:
            adopted.append(adopt_listener(fd, _FAMILIES))
    except BaseException:
        for sock in adopted:
            sock.close()
        for fd in copies[len(adopted) :]:
            os.close(fd)
        raise
    for sock in sockets:
        sock.close()
    return adopted


async def _numeric(address: SocketAddress) -> list[SocketAddress]:
    if not address.host:
        return both_families(address.port)
    return [address] if address.ip is not None else await resolve(address, current_scope().resolver)


def _listen(addresses: Sequence[SocketAddress], *, reuse_port: bool) -> _Share:
    backlog, options = checked_backlog(None), current_scope().tcp_options
    return listen_tcp(addresses, backlog=backlog, reuse_port=reuse_port, options=options)


def _refuse_if_taken(addresses: Iterable[SocketAddress]) -> None:
    """Raise `OSError` if anybody listens at one of `addresses`, even if they would share it."""
    for address in addresses:
        try:
            _probe(address)
        except OSError as error:
            if not is_of_another_host(error):  # else `listen_tcp` decides
                raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error


def _access_to(file: SocketFile) -> FileAccess:
    """Return the mode, the owner and the group of `file`."""
    try:
        found = os.stat(file.path)
    except OSError:
        return AS_EVERY_FILE
    return FileAccess(mode=found.st_mode & 0o777, owner=found.st_uid, group=found.st_gid)


def _listens(sock: socket.socket) -> bool:
    """Whether `sock` was not shut down."""
    poll = select.poll()
    poll.register(sock, getattr(select, "POLLRDHUP", 0))
    return not poll.poll(0)


def _listen_again(sock: socket.socket) -> None:
    """Have `sock`, a TCP socket that was shut down, listen where it did."""
    address = sock.getsockname()
    try:
        sock.bind(address)  # the kernel has given up a port that it had chosen
    except OSError as error:
        if error.errno != errno.EINVAL:  # that is: it still has its port
            where = SocketAddress.from_sockaddr(address)
            raise OSError(error.errno, f"cannot listen on {where} again: {error.strerror}") from error
    sock.listen(checked_backlog(None))


def _probe(address: SocketAddress) -> None:
    """Bind `address` for a moment."""
    assert address.family is not None
    with socket.socket(address.family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address.sockaddr())


def _may_be_shared(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def _address_of(sock: socket.socket) -> SocketAddress | UnixAddress:
    name = sock.getsockname()
    return SocketAddress.from_sockaddr(name) if isinstance(name, tuple) else UnixAddress.from_sockaddr(name)
