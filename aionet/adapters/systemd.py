"""systemd: sockets that it has opened for us, and the messages that it waits for.

Theory of operation
-------------------
*Sockets* (sd_listen_fds(3)). systemd binds the addresses of a ``.socket`` unit and passes them on, from
descriptor 3 upward; ``LISTEN_PID`` says to whom, ``LISTEN_FDS`` how many, ``LISTEN_FDNAMES`` what each is
called. Variables that are meant for another process are left alone, because that one may yet be our child.
Ours are removed once they were read, so that no child believes them, and the descriptors close on exec.
systemd keeps copies: connections queue while the service is down, and a restart refuses nobody.

*Messages* (sd_notify(3)). One datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names; a
name that begins with ``@`` is abstract. Without the variable nothing is sent. systemd reads its socket
quickly, but not always at once; a message waits for it for a second at most, a sign of life not at all. What
cannot be delivered is not worth ending a service for: it is logged, and `Notifier.notify` returns ``False``.
What a socket's path holds beside UTF-8 is escaped in a status.

*Watchdog*. If ``WATCHDOG_USEC`` is set systemd kills the service when it was silent for so long. The sign of
life comes from the event loop, at half of that time: a loop that is stuck sends none, which is what the
watchdog is for.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Self

from ..announcing import Log
from ..open_files import reserved

__all__ = ["Notifier", "inherited_listeners"]

_log = Log("aionet")

_FIRST = 3  # SD_LISTEN_FDS_START
_UNNAMED = "unknown"  # what systemd calls a descriptor without FileDescriptorName=
_LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def inherited_listeners(
    environment: MutableMapping[str, str] | None = None,
) -> dict[str, list[socket.socket]]:
    """Return the sockets that systemd passed to this process, by name; the caller owns them.

    The names are those of ``FileDescriptorName=``, by default the unit's own, such as ``app.socket``; several
    sockets of a unit share one. Empty if systemd passed none, or not to this process. The variables are
    removed, so a second call finds nothing.

    Raises `ValueError` for variables that make no sense, `OSError` for a descriptor that is no open socket.
    """
    variables = os.environ if environment is None else environment
    if variables.get("LISTEN_PID") != str(os.getpid()):
        return {}
    texts = {name: variables.pop(name, "") for name in _LISTEN_VARIABLES}
    count = texts["LISTEN_FDS"]
    if not (count.isascii() and count.isdigit()):
        raise ValueError(f"LISTEN_FDS={count!r}: expected a number of descriptors")
    numbers = range(_FIRST, _FIRST + int(count))
    names = texts["LISTEN_FDNAMES"].split(":") if texts["LISTEN_FDNAMES"] else [_UNNAMED] * len(numbers)
    if len(names) != len(numbers):
        raise ValueError(f"LISTEN_FDNAMES has {len(names)} names for {len(numbers)} descriptors")
    found: dict[str, list[socket.socket]] = {}
    try:
        for fd, name in zip(numbers, names, strict=True):
            os.set_inheritable(fd, False)
            found.setdefault(name, []).append(socket.socket(fileno=fd))
    except OSError as error:
        for sock in (sock for sockets in found.values() for sock in sockets):
            sock.close()
        raise OSError(error.errno, f"descriptor {fd} from systemd: {error.strerror}") from error
    return found


class Notifier:
    """Tells systemd how the service is. Where nobody listens, every method does nothing.

    Args:
        address: the path of systemd's socket, or ``@NAME`` for an abstract one; ``None``: there is none.
        watchdog: seconds after which systemd takes silence for a hang; ``None``: it does not.
    """

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self._address = None if not address else "\0" + address[1:] if address[0] == "@" else address
        self._watchdog = watchdog
        self._next: asyncio.TimerHandle | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """Make one as ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` say.

        The variables stay: a successor of this process needs them. Raises `ValueError` for a time that is no
        number.
        """
        microseconds = os.environ.get("WATCHDOG_USEC")
        meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
        watchdog = None
        if microseconds is not None and meant_for == str(os.getpid()):
            if not (microseconds.isascii() and microseconds.isdigit() and int(microseconds)):
                raise ValueError(f"WATCHDOG_USEC={microseconds!r}: expected a number of microseconds")
            watchdog = int(microseconds) / 1e6
        return cls(os.environ.get("NOTIFY_SOCKET"), watchdog)

    def notify(self, *lines: str, patience: float = 1.0) -> bool:
        """Send `lines`, each ``NAME=value``, as one message; return whether it was delivered.

        It blocks for up to `patience` seconds where systemd does not read.

        Raises `ValueError` for a line that holds a newline or lacks its ``=``.
        """
        for line in lines:
            if "\n" in line or "=" not in line:
                raise ValueError(f"{line!r}: expected one line of the form NAME=value")
        if self._address is None:
            return False
        try:
            with reserved():
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with sock:
                sock.settimeout(patience)
                sock.sendto("\n".join(lines).encode(errors="backslashreplace"), self._address)
        except OSError as error:
            _log.warning("cannot tell systemd %s: %s", lines[0], error.strerror or "it does not read")
            return False
        return True

    def ready(self, status: str = "") -> bool:
        """The service serves, or has been reloaded."""
        return self.notify("READY=1", *_status(status))

    def reloading(self) -> bool:
        """A reload begins; `ready` says that it is over (``Type=notify-reload`` wants both)."""
        return self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        """The service is about to end."""
        return self.notify("STOPPING=1", *_status(status))

    def status(self, text: str) -> bool:
        """A line for people, which ``systemctl status`` shows."""
        return self.notify(*_status(text))

    def main_process(self, pid: int) -> bool:
        """Another process is the service's main one from now on; only the present one may say so."""
        return self.notify(f"MAINPID={pid}")

    def watch(self) -> None:
        """Send signs of life from the running event loop, if systemd wants them, until `stop_watching`."""
        if self._watchdog is None or self._address is None or self._next is not None:
            return
        self._sign_of_life(asyncio.get_running_loop(), self._watchdog / 2)

    def stop_watching(self) -> None:
        """Send no more signs of life."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _sign_of_life(self, loop: asyncio.AbstractEventLoop, period: float) -> None:
        self._next = loop.call_later(period, self._sign_of_life, loop, period)
        self.notify("WATCHDOG=1", patience=0)


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []
