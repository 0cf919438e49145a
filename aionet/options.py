"""What may be set on a stream: typed, checked before any I/O, and turned into `setsockopt` calls once.

Theory of operation
-------------------
An options object is a frozen value. It is checked when it is made, so that a bad value is a `TypeError` or
a `ValueError` at the line that wrote it, not an errno out of a later accept. The calls it amounts to are
worked out once for each socket family and kept with the object: applying options is a loop over ready-made
tuples, and the default options of a TCP stream are a single call, ``TCP_NODELAY``.

*None leaves the system's own setting alone* and costs nothing; a value is set even where it equals the
system's default, as the socket may have come from elsewhere.

*A listener is told everything, its connections nothing.* On Linux a TCP connection is born as a copy of its
listener's socket, so what was set on the listener holds for every connection accepted from it and accepting
costs no `setsockopt`. Unix sockets, and other systems, do not copy; `inherits_options` tells which it is, and
the layer that accepts then calls ``apply_to_stream(sock, connected=True)`` for each connection.

*Nothing is left out in silence.* An option that this system lacks is an `OSError` with ``ENOPROTOOPT``, one
that the kernel refuses keeps the kernel's errno; both name the option and its value.

*SO_LINGER is not among the calls.* With a positive time ``close()`` on Linux blocks the calling thread, here
the event loop, for as long as the peer likes, even on a non-blocking socket. `linger` is therefore a promise
that ``aclose()`` keeps by waiting in the loop; the abortive form, a zero, is set by the socket as it closes.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "KeepAlive",
    "SocketSetting",
    "StreamOptions",
    "TcpOptions",
    "UnixOptions",
    "inherits_options",
]

_LINUX = sys.platform == "linux"
_HIGHEST_INT = 2**31 - 1  # setsockopt takes a C int
_LONGEST_DEVICE = 15  # IFNAMSIZ, less the NUL
_DEFAULT_FAST_OPEN_QUEUE = 256

# Linux has these, but not every Python names them.
_NUMBERS = {"TCP_FASTOPEN_CONNECT": 30} if _LINUX else {}

# The same thing under another name: seconds of silence before the first probe, on macOS.
_OTHER_NAMES = {"TCP_KEEPIDLE": "TCP_KEEPALIVE"}


class SocketSetting(NamedTuple):
    """One ``setsockopt(level, number, value)``, and what to say of it when it fails."""

    level: int
    number: int
    value: int | bytes
    label: str
    """As in ``mark=7 (SO_MARK)``."""


def inherits_options(family: int) -> bool:
    """Whether a socket accepted here from a listener of *family* has all of the listener's options already.

    True for TCP on Linux. Where it is False, whoever accepts calls ``apply_to_stream(sock, connected=True)``.
    """
    return _LINUX and family in (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, kw_only=True)
class KeepAlive:
    """When an idle connection is probed and given up: after ``idle + interval * count`` seconds of silence.

    Raises `TypeError` or `ValueError`, naming the option and its value.
    """

    idle: int = 60
    """Seconds of silence before the first probe, 1..32767 (``TCP_KEEPIDLE``, tcp(7))."""
    interval: int = 10
    """Seconds between probes, 1..32767 (``TCP_KEEPINTVL``, tcp(7))."""
    count: int = 5
    """Unanswered probes after which the connection is lost, 1..127 (``TCP_KEEPCNT``, tcp(7))."""

    def __post_init__(self) -> None:
        _check_int("idle", self.idle, 1, 32767, "seconds")
        _check_int("interval", self.interval, 1, 32767, "seconds")
        _check_int("count", self.count, 1, 127, "probes")


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """What every kind of stream can be told. Use `TcpOptions` or `UnixOptions`.

    Raises `TypeError` or `ValueError`, naming the option and its value, when it is made.
    """

    linger: float = 2.0
    """Seconds that ``aclose()`` may spend on delivering what was written; then it aborts. 0: closing aborts
    at once, which on TCP sends a RST and destroys what was not yet delivered, as ``SO_LINGER`` with a zero
    does. No ``SO_LINGER`` with a positive time is ever set: on Linux ``close()`` would then block the whole
    thread, even for a non-blocking socket (socket(7))."""
    receive_buffer: int | None = None
    """Bytes the kernel holds for the reader (``SO_RCVBUF``, socket(7)). Linux doubles the figure for its own
    bookkeeping, caps it at ``net.core.rmem_max`` and stops tuning it by itself; without effect on a Unix
    socket (unix(7)). None: the system's choice, which for TCP is nearly always better."""
    send_buffer: int | None = None
    """Bytes the kernel holds for the peer (``SO_SNDBUF``, socket(7)); doubled, and capped at
    ``net.core.wmem_max``, likewise."""
    close_notify_wait: float = 1.0
    """Seconds, of those of `linger`, that ``aclose()`` of a TLS connection waits for the peer's close_notify
    after it has sent its own (RFC 8446, 6.1). 0: it does not wait."""

    def __post_init__(self) -> None:
        _check_seconds("linger", self.linger, zero=True)
        _check_seconds("close_notify_wait", self.close_notify_wait, zero=True)
        if self.receive_buffer is not None:
            _check_int("receive_buffer", self.receive_buffer, 1, _HIGHEST_INT, "bytes")
        if self.send_buffer is not None:
            _check_int("send_buffer", self.send_buffer, 1, _HIGHEST_INT, "bytes")

    def stream_settings(self, family: int, *, connected: bool = False) -> tuple[SocketSetting, ...]:
        """The calls that `apply_to_stream` makes on a socket of *family*, worked out once and kept.

        Raises `OSError` with ``ENOPROTOOPT`` for an option that this system lacks.
        """
        return self._kept(("connected" if connected else "stream", family))

    def listener_settings(self, family: int) -> tuple[SocketSetting, ...]:
        """The calls that `apply_to_listener` makes on a socket of *family*, worked out once and kept.

        Raises `OSError` with ``ENOPROTOOPT`` for an option that this system lacks.
        """
        return self._kept(("listener", family))

    def apply_to_stream(self, sock: socket.SocketType, *, connected: bool = False) -> None:
        """Set these options on a socket that is about to connect or, with *connected*, already is.

        Buffer sizes and fast open matter only before connecting; the latter is left out with *connected*,
        because the kernel refuses it by then.

        Raises `OSError`, naming option and value: ``ENOPROTOOPT`` where the system lacks the option,
        ``EPERM`` where it takes privileges (`TcpOptions.mark`, `TcpOptions.device`), or what the kernel says.
        """
        _apply(sock, self.stream_settings(sock.family, connected=connected))

    def apply_to_listener(self, sock: socket.SocketType) -> None:
        """Set these options on a socket that is going to listen; call it before ``listen()``.

        Raises `OSError` as `apply_to_stream` does. Whether accepted sockets need more: `inherits_options`.
        """
        _apply(sock, self.listener_settings(sock.family))

    def _kept(self, key: tuple[str, int]) -> tuple[SocketSetting, ...]:
        # Kept in the instance's own dictionary, past the frozen __setattr__: it is no part of the value, and
        # an lru_cache would hash every field at every look-up.
        cache: dict[tuple[str, int], tuple[SocketSetting, ...]] = self.__dict__.setdefault("_settings", {})
        settings = cache.get(key)
        if settings is None:
            settings = cache[key] = tuple(self._settings_for(*key))
        return settings

    def _settings_for(self, role: str, family: int) -> Iterator[SocketSetting]:
        if self.receive_buffer is not None:
            yield _setting("receive_buffer", self.receive_buffer, "SOL_SOCKET", "SO_RCVBUF")
        if self.send_buffer is not None:
            yield _setting("send_buffer", self.send_buffer, "SOL_SOCKET", "SO_SNDBUF")

    def __getstate__(self) -> dict[str, object]:
        # What was worked out here is not true elsewhere: a pickle may be read on another system.
        return {name: value for name, value in self.__dict__.items() if name != "_settings"}


@dataclass(frozen=True, kw_only=True)
class UnixOptions(StreamOptions):
    """What a Unix stream can be told; see `StreamOptions` for each option."""


@dataclass(frozen=True, kw_only=True)
class TcpOptions(StreamOptions):
    """What a TCP stream or listener can be told. None leaves an option as the system has it.

    Raises `TypeError` or `ValueError`, naming the option and its value, when it is made.
    """

    nodelay: bool = True
    """Send at once what is written, however little (``TCP_NODELAY``, tcp(7)). False lets small writes wait
    for the acknowledgement of earlier ones (Nagle's algorithm)."""
    keepalive: KeepAlive | bool | None = None
    """Probe an idle connection (``SO_KEEPALIVE``, socket(7)): True with the system's times, `KeepAlive` with
    your own."""
    user_timeout: float | None = None
    """Seconds that written data may stay unacknowledged until the connection is lost (``TCP_USER_TIMEOUT``,
    tcp(7); the kernel counts milliseconds, rounded up). With keepalive it overrides `KeepAlive.count`."""
    traffic_class: int | None = None
    """0..255: the DS field of outgoing packets (``IP_TOS``, ip(7); ``IPV6_TCLASS``, ipv6(7)). On Linux both
    are set on an IPv6 socket, as its peer may be IPv4-mapped. TCP keeps the two low bits, which are ECN's."""
    mark: int | None = None
    """0..2**32-1: the firewall mark of outgoing packets (``SO_MARK``, socket(7)). Takes ``CAP_NET_ADMIN`` or
    ``CAP_NET_RAW``."""
    device: str | None = None
    """The name of the one interface to use, such as ``"eth0"`` (``SO_BINDTODEVICE``, socket(7)). May take
    ``CAP_NET_RAW``."""
    defer_accept: float | None = None
    """Listeners only. Seconds for which a connection is kept from ``accept()`` until the client has sent
    something (``TCP_DEFER_ACCEPT``, tcp(7)); rounded up to whole seconds, then by the kernel to the time of a
    retransmission. For protocols in which the client speaks first."""
    fast_open: int | bool | None = None
    """TCP Fast Open (RFC 7413). On a listener the number of requests that may be pending, or True for 256
    (``TCP_FASTOPEN``, tcp(7)); on a client true to send the first data with the SYN
    (``TCP_FASTOPEN_CONNECT``): connecting then seems to succeed at once, and a refusal shows at the first
    read or write. ``net.ipv4.tcp_fastopen`` must allow it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_type("nodelay", self.nodelay, bool, "True or False")
        if self.keepalive is not None:
            _check_type("keepalive", self.keepalive, (KeepAlive, bool), "KeepAlive, True, False or None")
        if self.user_timeout is not None:
            _check_seconds("user_timeout", self.user_timeout, most=_HIGHEST_INT // 1000)
        if self.traffic_class is not None:
            _check_int("traffic_class", self.traffic_class, 0, 255)
        if self.mark is not None:
            _check_int("mark", self.mark, 0, 2**32 - 1)
        if self.device is not None:
            _check_device(self.device)
        if self.defer_accept is not None:
            _check_seconds("defer_accept", self.defer_accept, most=_HIGHEST_INT)
        if self.fast_open is not None and not isinstance(self.fast_open, bool):
            _check_int("fast_open", self.fast_open, 0, _HIGHEST_INT, "pending requests")

    def _settings_for(self, role: str, family: int) -> Iterator[SocketSetting]:
        yield _setting("nodelay", self.nodelay, "IPPROTO_TCP", "TCP_NODELAY")
        yield from super()._settings_for(role, family)
        yield from self._timing()
        yield from self._routing(family)
        if role == "listener":
            yield from self._listening()
        elif role == "stream" and self.fast_open:
            yield _setting("fast_open", self.fast_open, "IPPROTO_TCP", "TCP_FASTOPEN_CONNECT", 1)

    def _timing(self) -> Iterator[SocketSetting]:
        alive = self.keepalive
        if alive is not None:
            yield _setting("keepalive", alive, "SOL_SOCKET", "SO_KEEPALIVE", int(alive is not False))
        if isinstance(alive, KeepAlive):
            yield _setting("keepalive.idle", alive.idle, "IPPROTO_TCP", "TCP_KEEPIDLE")
            yield _setting("keepalive.interval", alive.interval, "IPPROTO_TCP", "TCP_KEEPINTVL")
            yield _setting("keepalive.count", alive.count, "IPPROTO_TCP", "TCP_KEEPCNT")
        if self.user_timeout is not None:
            milliseconds = math.ceil(self.user_timeout * 1000)
            yield _setting("user_timeout", self.user_timeout, "IPPROTO_TCP", "TCP_USER_TIMEOUT", milliseconds)

    def _routing(self, family: int) -> Iterator[SocketSetting]:
        if self.traffic_class is not None:
            if family == socket.AF_INET6:
                yield _setting("traffic_class", self.traffic_class, "IPPROTO_IPV6", "IPV6_TCLASS")
            if family == socket.AF_INET or _LINUX:  # elsewhere an IPv6 socket refuses it
                yield _setting("traffic_class", self.traffic_class, "IPPROTO_IP", "IP_TOS")
        if self.mark is not None:
            # Packed, because an int above 2**31-1 is refused although the kernel's mark has 32 bits.
            yield _setting("mark", self.mark, "SOL_SOCKET", "SO_MARK", struct.pack("=I", self.mark))
        if self.device is not None:
            name = os.fsencode(self.device) + b"\0"
            yield _setting("device", self.device, "SOL_SOCKET", "SO_BINDTODEVICE", name)

    def _listening(self) -> Iterator[SocketSetting]:
        if self.defer_accept is not None:
            seconds = math.ceil(self.defer_accept)
            yield _setting("defer_accept", self.defer_accept, "IPPROTO_TCP", "TCP_DEFER_ACCEPT", seconds)
        if self.fast_open:
            queue = _DEFAULT_FAST_OPEN_QUEUE if self.fast_open is True else self.fast_open
            yield _setting("fast_open", self.fast_open, "IPPROTO_TCP", "TCP_FASTOPEN", queue)


def _setting(
    option: str, given: object, level: str, name: str, value: int | bytes | None = None
) -> SocketSetting:
    """The call that sets *option*, as *given* by the user, through the system's *name*."""
    label = f"{option}={given!r} ({name})"
    level_number, number = _number(level), _number(name)
    if level_number is None or number is None:
        raise OSError(errno.ENOPROTOOPT, f"{label}: {sys.platform} has no such socket option")
    if value is None:
        assert isinstance(given, int)
        value = int(given)
    return SocketSetting(level_number, number, value, label)


def _number(name: str) -> int | None:
    number: int | None = getattr(socket, name, None)
    if number is None:
        number = getattr(socket, _OTHER_NAMES.get(name, name), None)
    return _NUMBERS.get(name) if number is None else number


def _apply(sock: socket.SocketType, settings: Iterable[SocketSetting]) -> None:
    for level, number, value, label in settings:
        try:
            sock.setsockopt(level, number, value)
        except OSError as exc:
            raise OSError(exc.errno, f"{label}: {exc.strerror}") from exc


def _check_type(option: str, value: object, types: type | tuple[type, ...], expected: str) -> None:
    if not isinstance(value, types):
        raise TypeError(f"{option}={value!r}: expected {expected}")


def _check_int(option: str, value: object, least: int, most: int, unit: str = "") -> None:
    expected = f"expected an integer in {least}..{most}{unit and f' ({unit})'}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{option}={value!r}: {expected}")
    if not least <= value <= most:
        raise ValueError(f"{option}={value!r}: {expected}")


def _check_seconds(option: str, value: object, *, zero: bool = False, most: float = math.inf) -> None:
    expected = f"expected {'zero or more' if zero else 'more than zero'} seconds, and a finite number of them"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{option}={value!r}: {expected}")
    # A NaN fails every comparison, so ask for what is right and not for what is wrong.
    if not (0 <= value < math.inf and (zero or value > 0)):
        raise ValueError(f"{option}={value!r}: {expected}")
    if value > most:
        raise ValueError(f"{option}={value!r}: expected at most {most} seconds")


def _check_device(device: object) -> None:
    _check_type("device", device, str, "the name of an interface, such as 'eth0'")
    name = str(device)
    if not name or not name.isprintable() or any(char in " /:" for char in name):
        raise ValueError(f"device={device!r}: expected the name of an interface, such as 'eth0'")
    if len(os.fsencode(name)) > _LONGEST_DEVICE:
        raise ValueError(f"device={device!r}: expected at most {_LONGEST_DEVICE} bytes")
