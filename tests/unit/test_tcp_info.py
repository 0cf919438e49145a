"""TCP_INFO: figures of a real connection, and structs of every length."""

from __future__ import annotations

import dataclasses
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aionet.tcp_info import TcpInfo, TcpState, read_tcp_info

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is read on Linux only")

BASE_SIZE = 104
# As in linux/tcp.h of Linux 6.1: name, first byte, packing, and what is worth one unit.
LATER = [
    ("pacing_rate", 104, "=Q", 1),
    ("bytes_acked", 120, "=Q", 1),
    ("bytes_received", 128, "=Q", 1),
    ("segs_out", 136, "=I", 1),
    ("segs_in", 140, "=I", 1),
    ("notsent_bytes", 144, "=I", 1),
    ("min_rtt", 148, "=I", 1e-6),
    ("delivery_rate", 160, "=Q", 1),
    ("busy_time", 168, "=Q", 1e-6),
    ("bytes_sent", 200, "=Q", 1),
    ("bytes_retrans", 208, "=Q", 1),
]


def numbered(size: int) -> bytes:
    """A struct in which the 32-bit word at byte n says n, and the 64-bit word at byte n too."""
    first = bytes([1, 0, 2, 3, 4, 5, 6, 7])
    data = bytearray(first + struct.pack("=254I", *range(8, 1024, 4)))
    for _, offset, packing, _ in LATER:
        struct.pack_into(packing, data, offset, offset)
    return bytes(data[:size])


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def connection(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a loopback connection: the one that connected, and the one that was accepted."""
    family, host = request.param
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.bind((host, 0))
        listener.listen()
        client = stack.enter_context(socket.socket(family))
        client.connect(listener.getsockname())
        accepted = stack.enter_context(listener.accept()[0])
        yield client, accepted


def pass_on(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    sender.sendall(b"x" * size)
    assert len(receiver.recv(size, socket.MSG_WAITALL)) == size


@linux_only
def test_a_connection_tells_how_many_bytes_went_each_way(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    client, accepted = connection
    # Data going back carries the acknowledgement of what came: no figure depends on when ACKs are sent.
    pass_on(client, accepted, 1000)
    pass_on(accepted, client, 10)
    ours = read_tcp_info(client)
    pass_on(client, accepted, 5)
    theirs = read_tcp_info(accepted)
    assert ours.state is theirs.state is TcpState.ESTABLISHED
    assert ours.bytes_acked == 1000 + 1  # the SYN
    assert ours.bytes_received == 10
    assert ours.bytes_sent in (1000, None)
    assert theirs.bytes_acked == 10
    assert theirs.bytes_received == 1005
    assert theirs.bytes_sent in (10, None)
    assert (ours.total_retrans, ours.retransmits, ours.lost, ours.unacked) == (0, 0, 0, 0)


@linux_only
def test_times_are_seconds_and_sizes_are_plausible(connection: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = connection
    client.sendall(b"x")
    accepted.recv(1)
    info = read_tcp_info(client)
    assert 0 < info.rtt < 10
    assert info.min_rtt is None or 0 < info.min_rtt <= info.rtt * 10
    assert 0.1 < info.rto < 60
    assert 500 < info.snd_mss < info.pmtu <= 65536
    assert info.snd_cwnd >= 1
    assert info.busy_time is None or 0 <= info.busy_time < 60


@linux_only
def test_unread_data_fills_the_sender_and_shows(connection: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = connection
    client.setblocking(False)
    written = 0
    with suppress(BlockingIOError):
        while True:
            written += client.send(bytes(65536))
    info = read_tcp_info(client)
    received = read_tcp_info(accepted).bytes_received
    assert received is not None
    assert 0 < received < written
    assert info.notsent_bytes is None or 0 < info.notsent_bytes < written


@linux_only
def test_states_follow_the_connection(connection: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = connection
    client.shutdown(socket.SHUT_WR)
    assert accepted.recv(1) == b""
    assert read_tcp_info(accepted).state is TcpState.CLOSE_WAIT
    assert read_tcp_info(client).state in (TcpState.FIN_WAIT1, TcpState.FIN_WAIT2)


@linux_only
def test_sockets_that_never_connected() -> None:
    with socket.socket() as sock:
        fresh = read_tcp_info(sock)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        listening = read_tcp_info(sock)
    assert fresh.state is TcpState.CLOSE
    assert fresh.min_rtt is None
    assert fresh.pacing_rate is None
    assert listening.state is TcpState.LISTEN


@linux_only
def test_a_listener_tells_how_many_wait() -> None:
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        select.select([listener], [], [])
        assert read_tcp_info(listener).unacked == 1


@linux_only
def test_a_socket_of_another_kind_or_a_closed_one_is_an_os_error() -> None:
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError):
        read_tcp_info(sock)
    with pytest.raises(OSError):
        read_tcp_info(sock)


def test_elsewhere_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "sunos5")
    with socket.socket() as sock, pytest.raises(NotImplementedError, match="on Linux only, not on sunos5"):
        read_tcp_info(sock)


def test_the_base_fields_come_from_their_places() -> None:
    info = TcpInfo.from_bytes(numbered(BASE_SIZE))
    assert (info.state, info.retransmits, info.probes, info.backoff) == (TcpState.ESTABLISHED, 2, 3, 4)
    assert (info.snd_mss, info.rcv_mss, info.unacked, info.sacked) == (16, 20, 24, 28)
    assert (info.lost, info.retrans) == (32, 36)
    assert (info.last_data_sent, info.last_data_received) == (pytest.approx(0.044), pytest.approx(0.052))
    assert (info.pmtu, info.snd_ssthresh, info.snd_cwnd, info.rcv_space) == (60, 76, 80, 96)
    assert info.total_retrans == 100
    assert (info.rto, info.rtt, info.rttvar) == pytest.approx((8e-6, 68e-6, 72e-6))


@pytest.mark.parametrize(("name", "offset", "packing", "unit"), LATER)
def test_a_later_field_is_there_as_soon_as_the_kernel_gives_all_of_it(
    name: str, offset: int, packing: str, unit: float
) -> None:
    end = offset + struct.calcsize(packing)
    assert getattr(TcpInfo.from_bytes(numbered(end - 1)), name) is None
    for size in (end, 232, 280, 1000):
        if size >= end:
            assert getattr(TcpInfo.from_bytes(numbered(size)), name) == pytest.approx(offset * unit)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_or_refused_with_a_value_error(data: bytes) -> None:
    try:
        info = TcpInfo.from_bytes(data)
    except ValueError:
        assert len(data) < BASE_SIZE or data[0] not in set(TcpState)
    else:
        assert info.state == data[0]
        assert dataclasses.replace(info) == info


def test_what_is_too_short_or_no_state_is_named() -> None:
    with pytest.raises(ValueError, match="104 bytes or more, got 103 bytes"):
        TcpInfo.from_bytes(bytes(103))
    with pytest.raises(ValueError, match="0 is not a valid TcpState"):
        TcpInfo.from_bytes(bytes(104))
