"""Options: bad values are refused where they are written, good ones reach every kind of socket."""

from __future__ import annotations

import copy
import dataclasses
import errno
import pickle
import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from aionet import options as options_module
from aionet.options import KeepAlive, SocketSetting, StreamOptions, TcpOptions, UnixOptions, inherits_options

TCP = socket.IPPROTO_TCP
LOOPBACK_DEVICE = "lo"

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="how Linux names, rounds and inherits options"
)

families = pytest.mark.parametrize(
    ("family", "host"),
    [pytest.param(socket.AF_INET, "127.0.0.1", id="IPv4"), pytest.param(socket.AF_INET6, "::1", id="IPv6")],
)

# What to set, and what the kernel must say of it afterwards.
readable = pytest.mark.parametrize(
    ("options", "level", "number", "expected"),
    [
        pytest.param(TcpOptions(), TCP, "TCP_NODELAY", 1, id="default"),
        pytest.param(TcpOptions(nodelay=False), TCP, "TCP_NODELAY", 0, id="nodelay-off"),
        pytest.param(TcpOptions(keepalive=True), socket.SOL_SOCKET, "SO_KEEPALIVE", 1, id="keepalive"),
        pytest.param(TcpOptions(keepalive=False), socket.SOL_SOCKET, "SO_KEEPALIVE", 0, id="keepalive-off"),
        pytest.param(
            TcpOptions(keepalive=KeepAlive()), socket.SOL_SOCKET, "SO_KEEPALIVE", 1, id="keepalive-on"
        ),
        pytest.param(TcpOptions(keepalive=KeepAlive(idle=33)), TCP, "TCP_KEEPIDLE", 33, id="idle"),
        pytest.param(TcpOptions(keepalive=KeepAlive(interval=7)), TCP, "TCP_KEEPINTVL", 7, id="interval"),
        pytest.param(TcpOptions(keepalive=KeepAlive(count=4)), TCP, "TCP_KEEPCNT", 4, id="count"),
        pytest.param(TcpOptions(user_timeout=12.3451), TCP, "TCP_USER_TIMEOUT", 12346, id="user-timeout"),
        pytest.param(TcpOptions(user_timeout=1e-9), TCP, "TCP_USER_TIMEOUT", 1, id="user-timeout-tiny"),
        pytest.param(
            TcpOptions(receive_buffer=50_000), socket.SOL_SOCKET, "SO_RCVBUF", 100_000, id="receive-buffer"
        ),
        pytest.param(
            TcpOptions(send_buffer=60_000), socket.SOL_SOCKET, "SO_SNDBUF", 120_000, id="send-buffer"
        ),
        pytest.param(TcpOptions(traffic_class=0xB8), socket.IPPROTO_IP, "IP_TOS", 0xB8, id="traffic-class"),
        pytest.param(TcpOptions(mark=2**32 - 2), socket.SOL_SOCKET, "SO_MARK", -2, id="mark"),
        pytest.param(
            TcpOptions(device=LOOPBACK_DEVICE), socket.SOL_SOCKET, "SO_BINDTODEVICE", b"lo\0", id="device"
        ),
    ],
)


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Whatever is entered here is closed after the test."""
    with ExitStack() as stack:
        yield stack


def apply_or_skip(apply: Callable[[socket.socket], None], sock: socket.socket) -> None:
    try:
        apply(sock)
    except PermissionError as exc:
        pytest.skip(f"takes privileges: {exc}")


def listen(sockets: ExitStack, options: StreamOptions, family: int, host: str) -> socket.socket:
    listener = sockets.enter_context(socket.socket(family))
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    apply_or_skip(options.apply_to_listener, listener)
    listener.bind((host, 0))
    listener.listen()
    return listener


def accept_one(sockets: ExitStack, listener: socket.socket, family: int, host: str) -> socket.socket:
    client = sockets.enter_context(socket.socket(family))
    client.connect((host, listener.getsockname()[1]))
    accepted, _ = listener.accept()
    return sockets.enter_context(accepted)


def read_back(sock: socket.socket, level: int, number: str, expected: int | bytes) -> int | bytes:
    if isinstance(expected, bytes):
        return sock.getsockopt(level, getattr(socket, number), 16)
    return sock.getsockopt(level, getattr(socket, number))


# --- what reaches the kernel ---------------------------------------------------------------------------


@linux_only
@families
@readable
def test_a_stream_has_what_was_asked_for(
    sockets: ExitStack,
    family: int,
    host: str,
    options: TcpOptions,
    level: int,
    number: str,
    expected: int | bytes,
) -> None:
    stream = sockets.enter_context(socket.socket(family))
    apply_or_skip(options.apply_to_stream, stream)
    assert read_back(stream, level, number, expected) == expected


@linux_only
@families
@readable
def test_an_accepted_stream_has_what_its_listener_was_told(
    sockets: ExitStack,
    family: int,
    host: str,
    options: TcpOptions,
    level: int,
    number: str,
    expected: int | bytes,
) -> None:
    assert inherits_options(family)
    listener = listen(sockets, options, family, host)
    accepted = accept_one(sockets, listener, family, host)
    assert read_back(accepted, level, number, expected) == expected


@linux_only
@families
@readable
def test_a_connected_stream_can_be_told_as_well(
    sockets: ExitStack,
    family: int,
    host: str,
    options: TcpOptions,
    level: int,
    number: str,
    expected: int | bytes,
) -> None:
    accepted = accept_one(sockets, listen(sockets, TcpOptions(), family, host), family, host)
    apply_or_skip(lambda sock: options.apply_to_stream(sock, connected=True), accepted)
    assert read_back(accepted, level, number, expected) == expected


@linux_only
@pytest.mark.parametrize(
    "client", [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")], ids=["IPv6", "mapped"]
)
def test_the_traffic_class_holds_for_both_kinds_of_peers_of_a_dual_stack_listener(
    sockets: ExitStack, client: tuple[int, str]
) -> None:
    listener = listen(sockets, TcpOptions(traffic_class=0x28), socket.AF_INET6, "::")
    accepted = accept_one(sockets, listener, *client)
    assert accepted.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 0x28
    assert accepted.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0x28


@linux_only
@families
def test_fast_open_on_a_listener_and_on_a_client(sockets: ExitStack, family: int, host: str) -> None:
    for given, queue in ((True, 256), (5, 5), (0, 0), (False, 0)):
        listener = listen(sockets, TcpOptions(fast_open=given), family, host)
        assert listener.getsockopt(TCP, socket.TCP_FASTOPEN) == queue
    for given, on in ((True, 1), (5, 1), (0, 0), (False, 0)):
        client = sockets.enter_context(socket.socket(family))
        TcpOptions(fast_open=given).apply_to_stream(client)
        assert client.getsockopt(TCP, 30) == on


@linux_only
@families
def test_a_deferred_connection_is_accepted_only_with_its_first_bytes(
    sockets: ExitStack, family: int, host: str
) -> None:
    options = TcpOptions(defer_accept=0.5)
    listener = listen(sockets, options, family, host)
    assert listener.getsockopt(TCP, socket.TCP_DEFER_ACCEPT) == 1
    client = sockets.enter_context(socket.socket(family))
    client.connect(listener.getsockname())
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    client.sendall(b"first")
    select.select([listener], [], [])
    accepted = sockets.enter_context(listener.accept()[0])
    assert accepted.recv(5) == b"first"


def test_defer_accept_says_nothing_to_a_stream() -> None:
    assert TcpOptions(defer_accept=1).stream_settings(socket.AF_INET) == TcpOptions().stream_settings(
        socket.AF_INET
    )


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_unix_options_reach_a_stream_which_inherits_nothing() -> None:
    assert not inherits_options(socket.AF_UNIX)
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        before = right.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        UnixOptions(send_buffer=30_000, receive_buffer=20_000).apply_to_stream(left, connected=True)
        assert left.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) in (30_000, 60_000)
        assert left.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) in (20_000, 40_000)
        assert right.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before


# --- what it costs -------------------------------------------------------------------------------------


class CountingSocket:
    """Enough of a socket to count what is set on it, or to refuse it."""

    def __init__(self, family: int = socket.AF_INET, refuse: int | None = None) -> None:
        self.family = family
        self.calls: list[tuple[int, int, object]] = []
        self._refuse = refuse

    def setsockopt(self, level: int, number: int, value: object) -> None:
        self.calls.append((level, number, value))
        if self._refuse is not None:
            raise OSError(self._refuse, "refused")


def test_the_default_options_cost_one_call_on_a_tcp_stream_and_none_on_a_unix_stream() -> None:
    tcp: Any = CountingSocket()
    TcpOptions().apply_to_stream(tcp)
    assert tcp.calls == [(TCP, socket.TCP_NODELAY, 1)]
    unix: Any = CountingSocket()
    UnixOptions().apply_to_stream(unix)
    UnixOptions().apply_to_listener(unix)
    assert unix.calls == []


def test_the_calls_are_worked_out_once_for_each_family_and_role() -> None:
    options = TcpOptions(traffic_class=8, user_timeout=3)
    for family in (socket.AF_INET, socket.AF_INET6):
        assert options.stream_settings(family) is options.stream_settings(family)
        assert options.listener_settings(family) is options.listener_settings(family)
    assert options.stream_settings(socket.AF_INET) != options.stream_settings(socket.AF_INET6)


def test_linger_is_left_to_closing() -> None:
    for linger in (0, 0.5, 30):
        assert TcpOptions(linger=linger).stream_settings(socket.AF_INET) == TcpOptions().stream_settings(
            socket.AF_INET
        )


# --- what goes wrong at the system ---------------------------------------------------------------------


def test_an_option_the_system_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_MARK", raising=False)
    sock: Any = CountingSocket()
    with pytest.raises(OSError, match=r"mark=7 \(SO_MARK\): .* has no such socket option") as caught:
        TcpOptions(mark=7).apply_to_stream(sock)
    assert caught.value.errno == errno.ENOPROTOOPT
    assert sock.calls == []


def test_the_first_keepalive_probe_is_set_under_its_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_KEEPIDLE", raising=False)
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", 0x10, raising=False)
    settings = TcpOptions(keepalive=KeepAlive(idle=9)).stream_settings(socket.AF_INET)
    assert (TCP, 0x10, 9) in [setting[:3] for setting in settings]


def test_elsewhere_an_ipv6_socket_gets_the_ipv6_traffic_class_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "_LINUX", False)
    settings = TcpOptions(traffic_class=8).stream_settings(socket.AF_INET6)
    assert [setting[:2] for setting in settings] == [
        (TCP, socket.TCP_NODELAY),
        (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    ]
    assert not inherits_options(socket.AF_INET6)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (TcpOptions(), r"nodelay=True \(TCP_NODELAY\)"),
        (UnixOptions(send_buffer=7), r"send_buffer=7 \(SO_SNDBUF\)"),
    ],
)
def test_an_option_the_kernel_refuses_is_named_and_its_errno_kept(options: StreamOptions, label: str) -> None:
    for apply in (options.apply_to_stream, options.apply_to_listener):
        sock: Any = CountingSocket(refuse=errno.EPERM)
        with pytest.raises(PermissionError, match=f"{label}: refused") as caught:
            apply(sock)
        assert caught.value.errno == errno.EPERM
        assert isinstance(caught.value.__cause__, PermissionError)


@linux_only
def test_a_device_that_is_not_there_is_named(sockets: ExitStack) -> None:
    sock = sockets.enter_context(socket.socket())
    with pytest.raises(OSError, match=r"device='no-such-dev' \(SO_BINDTODEVICE\)") as caught:
        apply_or_skip(TcpOptions(device="no-such-dev").apply_to_stream, sock)
    assert caught.value.errno == errno.ENODEV


@linux_only
def test_tcp_options_on_a_unix_socket_are_refused_by_name(sockets: ExitStack) -> None:
    sock = sockets.enter_context(socket.socket(socket.AF_UNIX))
    with pytest.raises(OSError, match=r"nodelay=True \(TCP_NODELAY\)"):
        TcpOptions().apply_to_stream(sock)


# --- what is refused at once ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "option", "value", "error", "message"),
    [
        (TcpOptions, "nodelay", 1, TypeError, "expected True or False"),
        (TcpOptions, "keepalive", 60, TypeError, "expected KeepAlive, True, False or None"),
        (TcpOptions, "user_timeout", 0, ValueError, "expected more than zero seconds"),
        (TcpOptions, "user_timeout", -1.0, ValueError, "expected more than zero seconds"),
        (TcpOptions, "user_timeout", float("nan"), ValueError, "a finite number"),
        (TcpOptions, "user_timeout", float("inf"), ValueError, "a finite number"),
        (TcpOptions, "user_timeout", 2147484, ValueError, "expected at most 2147483 seconds"),
        (TcpOptions, "user_timeout", "3", TypeError, "expected more than zero seconds"),
        (TcpOptions, "user_timeout", True, TypeError, "expected more than zero seconds"),
        (TcpOptions, "linger", -0.1, ValueError, "expected zero or more seconds"),
        (TcpOptions, "linger", float("nan"), ValueError, "expected zero or more seconds"),
        (TcpOptions, "linger", None, TypeError, "expected zero or more seconds"),
        (UnixOptions, "linger", float("inf"), ValueError, "expected zero or more seconds"),
        (TcpOptions, "receive_buffer", 0, ValueError, r"expected an integer in 1..2147483647 \(bytes\)"),
        (TcpOptions, "receive_buffer", 1.5, TypeError, "expected an integer in 1..2147483647"),
        (UnixOptions, "send_buffer", 2**31, ValueError, "expected an integer in 1..2147483647"),
        (UnixOptions, "send_buffer", True, TypeError, "expected an integer in 1..2147483647"),
        (TcpOptions, "traffic_class", 256, ValueError, "expected an integer in 0..255"),
        (TcpOptions, "traffic_class", -1, ValueError, "expected an integer in 0..255"),
        (TcpOptions, "mark", 2**32, ValueError, "expected an integer in 0..4294967295"),
        (TcpOptions, "mark", "7", TypeError, "expected an integer in 0..4294967295"),
        (TcpOptions, "device", "", ValueError, "expected the name of an interface"),
        (TcpOptions, "device", "a b", ValueError, "expected the name of an interface"),
        (TcpOptions, "device", "a\0b", ValueError, "expected the name of an interface"),
        (TcpOptions, "device", "a" * 16, ValueError, "expected at most 15 bytes"),
        (TcpOptions, "device", b"lo", TypeError, "expected the name of an interface"),
        (TcpOptions, "defer_accept", 0, ValueError, "expected more than zero seconds"),
        (TcpOptions, "defer_accept", 2**31, ValueError, "expected at most 2147483647 seconds"),
        (
            TcpOptions,
            "fast_open",
            -1,
            ValueError,
            r"expected an integer in 0..2147483647 \(pending requests\)",
        ),
        (TcpOptions, "fast_open", 1.0, TypeError, "expected an integer"),
        (KeepAlive, "idle", 0, ValueError, r"expected an integer in 1..32767 \(seconds\)"),
        (KeepAlive, "idle", 1.5, TypeError, "expected an integer in 1..32767"),
        (KeepAlive, "interval", 32768, ValueError, "expected an integer in 1..32767"),
        (KeepAlive, "count", 128, ValueError, "expected an integer in 1..127"),
        (KeepAlive, "count", True, TypeError, "expected an integer in 1..127"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(
    kind: type[Any], option: str, value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        kind(**{option: value})
    assert str(caught.value).startswith(f"{option}={value!r}: ")


@families
@pytest.mark.parametrize(
    "options",
    [
        TcpOptions(keepalive=KeepAlive(idle=1, interval=1, count=1), user_timeout=0.001, linger=0),
        TcpOptions(keepalive=KeepAlive(idle=32767, interval=32767, count=127), user_timeout=2147483),
        TcpOptions(traffic_class=0, receive_buffer=1, send_buffer=1, defer_accept=0.001, fast_open=0),
        TcpOptions(
            traffic_class=255, receive_buffer=2**31 - 1, send_buffer=2**31 - 1, defer_accept=2**31 - 1
        ),
        TcpOptions(fast_open=2**31 - 1),
    ],
)
@linux_only
def test_the_kernel_takes_the_lowest_and_highest_values(
    sockets: ExitStack, family: int, host: str, options: TcpOptions
) -> None:
    options.apply_to_listener(sockets.enter_context(socket.socket(family)))
    options.apply_to_stream(sockets.enter_context(socket.socket(family)))


# --- a value -------------------------------------------------------------------------------------------


def test_options_are_values() -> None:
    options = TcpOptions(keepalive=KeepAlive(idle=9), user_timeout=3.0, device="lo")
    options.stream_settings(socket.AF_INET)  # what is kept with it must not show
    same = TcpOptions(keepalive=KeepAlive(idle=9), user_timeout=3.0, device="lo")
    copies = [same, pickle.loads(pickle.dumps(options)), copy.deepcopy(options), dataclasses.replace(options)]
    for other in copies:
        assert other == options
        assert hash(other) == hash(options)
        assert repr(other) == repr(options)
        assert other.stream_settings(socket.AF_INET) == options.stream_settings(socket.AF_INET)
    assert dataclasses.replace(options, nodelay=False) != options
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.nodelay = False  # type: ignore[misc]


def test_a_changed_copy_does_not_use_the_calls_of_the_original() -> None:
    options = TcpOptions()
    options.stream_settings(socket.AF_INET)
    changed = dataclasses.replace(options, nodelay=False)
    assert changed.stream_settings(socket.AF_INET) == (
        SocketSetting(TCP, socket.TCP_NODELAY, 0, "nodelay=False (TCP_NODELAY)"),
    )


def test_options_are_given_by_name() -> None:
    for kind in (TcpOptions, UnixOptions, KeepAlive):
        with pytest.raises(TypeError):
            kind(1)  # type: ignore[call-arg]
