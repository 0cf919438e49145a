"""The file of a Unix socket: taking a path, also a dead server's, and giving it up.

Theory of operation
-------------------
*Taking.* bind(2) makes the file and the socket in it as one, or fails where the path exists, so of several
servers that start at a free path one wins. A file outlives a server that crashed, and is replaced if it is
dead: if it is a socket that no process has bound any more. A datagram socket that connects to the path finds
out (connect(2)): ``ECONNREFUSED`` where the socket is dead, ``EPROTOTYPE`` where a stream socket lives there,
also before it listens. A live server does not notice, and no queue of its own can be full.

*Replacing* must not remove what another server has put there in the meantime, and no system call removes a
file only if it is a certain one. So the file is first renamed to a name that no other process knows, and
looked at again; rename(2) waits for a bind(2) in the same directory, so the second look sees a finished one.
A dead socket is removed. Anything else is given back, and the path counts as taken.

*Giving up.* The file is removed before the socket is closed, and only if its device and inode are those that
were bound: an open socket keeps its inode, so another file cannot have the same numbers. The path is kept as
an absolute one, because the working directory may change. A fork's child leaves it to its parent.

*Mode and owner* are set after bind(2) and before listen(2): until then every connect(2) is refused, so there
is no moment in which the file admits a user that it is to keep out. They are set by a descriptor of that very
file (O_PATH), because a path may lead to another one by now.

*What is not excluded.* Nothing is locked, since a lock on what other users may open or make is theirs to
hold. So (1) a server that has just bound can lose its path for the moment in which another one, which had
found the dead socket before, renames the file and gives it back, and for good if a third server binds in that
moment; (2) between the look at closing and the removal another process may replace the file, which is then
removed. Both take microseconds, and a process that may rename files in that directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from .addresses import UnixAddress
from .wires.forks import forks

try:
    import grp
    import pwd
except ImportError:  # not a Unix
    grp = pwd = None  # type: ignore[assignment]

__all__ = ["AS_EVERY_FILE", "FileAccess", "SocketFile", "bind_to_path"]

_TRIES = 16
_SHORTEST_NAME = 8


@dataclass(frozen=True)
class FileAccess:
    """The owner of a socket file, and which users may connect: those with write permission (unix(7)).

    Args:
        mode: permission bits, as ``0o660``; ``None``: what the process's umask leaves.
        owner: a user's name or number; ``None``: the process's.
        group: a group's name or number; ``None``: as for every new file.

    Raises `TypeError`, or `ValueError` for a mode with other bits and for an unknown name.
    """

    mode: int | None = None
    owner: str | int | None = None
    group: str | int | None = None

    def __post_init__(self) -> None:
        if self.mode is not None:
            if isinstance(self.mode, bool) or not isinstance(self.mode, int):
                raise TypeError(f"mode must be permission bits, as 0o660, not {self.mode!r}")
            if not 0 <= self.mode <= 0o777:
                raise ValueError(f"mode must be within 0o777, not {self.mode:#o}")
        _number("owner", self.owner)
        _number("group", self.group)

    def __bool__(self) -> bool:
        """Whether anything is to be set."""
        return self != AS_EVERY_FILE

    def grant(self, file: SocketFile) -> None:
        """Set what is to be set on `file`. Raises `OSError`."""
        try:
            with file.opened() as path:
                if (self.owner, self.group) != (None, None):
                    os.chown(path, _number("owner", self.owner), _number("group", self.group))
                if self.mode is not None:  # afterwards: chown(2) may clear bits
                    os.chmod(path, self.mode)
        except OSError as error:
            what = "mode, owner or group of its file cannot be set"
            raise OSError(error.errno, f"{what}: {error.strerror}") from error


def _number(what: str, name: str | int | None) -> int:
    """Return the number of a user or group; -1 leaves it as it is (chown(2))."""
    if name is None:
        return -1
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise TypeError(f"{what} must be a name or a number, not {name!r}")
    if isinstance(name, int):
        if name < 0:
            raise ValueError(f"{what} must be a number from 0 on, not {name}")
        return name
    try:
        if grp is None:
            raise KeyError(name)
        return pwd.getpwnam(name).pw_uid if what == "owner" else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        kind = "user" if what == "owner" else "group"
        raise ValueError(f"{what}: there is no {kind} {name!r} here") from None


AS_EVERY_FILE = FileAccess()
"""Nothing is set."""


@dataclass(frozen=True)
class SocketFile:
    """The file of a bound Unix socket."""

    path: str
    """Absolute."""
    device: int
    inode: int
    forks: int = field(default_factory=forks)
    """As it was when the socket was bound: to a fork's child the file is not its own."""

    @classmethod
    def at(cls, path: str) -> SocketFile | None:
        """Return what is at `path`; ``None`` if there is nothing."""
        try:
            found = os.lstat(path)
            whole = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
            return cls(whole, found.st_dev, found.st_ino)
        except OSError:
            return None

    @contextlib.contextmanager
    def opened(self) -> Iterator[str]:
        """Give a path that leads to this very file, whatever is at its own by now. Raises `OSError`."""
        if not hasattr(os, "O_PATH") or not os.path.isdir("/proc/self/fd"):
            yield self.path
            return
        fd = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != (self.device, self.inode):
                raise OSError(errno.EADDRINUSE, "another server has just taken it")
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Remove the file if it is still this one; to be called while its socket is open. Raises nothing."""
        with contextlib.suppress(OSError):
            if SocketFile.at(self.path) == self:
                os.unlink(self.path)


def bind_to_path(sock: socket.socket, path: str) -> SocketFile | None:
    """Bind `sock` to `path`, in the place of a dead socket if there is one; return its file if it is there.

    Raises `OSError`: ``EADDRINUSE`` where a server lives, or where there is something other than a socket.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries_left:
                raise
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                _remove_dead_socket(path)
        else:
            break
    return SocketFile.at(path)


def _remove_dead_socket(path: str) -> None:
    """Remove the socket at `path` if no process has it. Raises `OSError` if one has, or may have."""
    taken = _name_beside(path)
    found = _identity(path)
    _refuse_unless_dead(path)
    if _identity(path) != found:
        return
    os.rename(path, taken)
    try:
        if _identity(taken) != found:
            raise OSError(errno.EADDRINUSE, "another server has just taken it")
        _refuse_unless_dead(taken)
    except BaseException:
        _give_back(taken, path)
        raise
    os.unlink(taken)


def _identity(path: str) -> tuple[int, int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns  # a number may be given out again, the time not


def _refuse_unless_dead(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EADDRINUSE, "there is something other than a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(path)
    if result == errno.ENOENT:
        raise FileNotFoundError(result, os.strerror(result))
    if result != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, "another server has it")


def _name_beside(path: str) -> str:
    """Return a name in the same directory that no other process knows.

    It is no longer than the name that was bound, unless that is very short: `sun_path` has little room.
    """
    directory, name = os.path.split(os.fsencode(path))
    length = max(len(name), _SHORTEST_NAME) - 1
    renamed = os.path.join(directory, b"." + secrets.token_hex(length).encode()[:length])
    try:
        return UnixAddress(renamed).path
    except ValueError:
        raise OSError(errno.EADDRINUSE, "there is a dead socket, with no room for a longer name") from None


def _give_back(taken: str, path: str) -> None:
    """Put what is not dead at its path again, unless there is something else by now; it is never removed."""
    try:
        os.link(taken, path)
    except FileExistsError:
        return
    except OSError:  # a directory; or another user's socket (fs.protected_hardlinks, proc(5))
        if not os.path.lexists(path):
            os.rename(taken, path)
        return
    os.unlink(taken)
