"""What the kernel knows of a TCP connection: its state, its times, its losses.

Theory of operation
-------------------
Linux describes a connection in ``struct tcp_info`` (linux/tcp.h), which has only ever grown at its end: a
kernel fills what it knows and says how long that is. `TcpInfo.from_bytes` reads it without a socket. The
part that every kernel since 2.6 returns is always there; a field further on is None where the kernel is
older than the field, and what a newer kernel adds is skipped. Bytes are in the machine's own order, so what
is read on one machine is not to be parsed on another.

Units are those of the rest of aionet, not the kernel's: times in seconds (it keeps microseconds), rates in
bytes per second, "never measured" as None (it writes all ones).

Other systems have calls of the same or a similar name and other layouts; none is read here, and asking is a
`NotImplementedError` rather than figures that mean something else.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "TcpInfo",
    "TcpState",
    "idle_seconds",
    "read_tcp_info",
]

# tcpi_state .. tcpi_total_retrans: eight bytes, then 24 numbers of 32 bits.
_BASE = struct.Struct("=8B24I")

_LAST_DATA = struct.Struct("=44xI4xI")  # tcpi_last_data_sent, tcpi_last_data_recv

# Everything behind the base: where it starts, and how it is packed.
_LATER = {
    "pacing_rate": (104, struct.Struct("=Q")),
    "bytes_acked": (120, struct.Struct("=Q")),
    "bytes_received": (128, struct.Struct("=Q")),
    "segs_out": (136, struct.Struct("=I")),
    "segs_in": (140, struct.Struct("=I")),
    "notsent_bytes": (144, struct.Struct("=I")),
    "min_rtt": (148, struct.Struct("=I")),
    "delivery_rate": (160, struct.Struct("=Q")),
    "busy_time": (168, struct.Struct("=Q")),
    "bytes_sent": (200, struct.Struct("=Q")),
    "bytes_retrans": (208, struct.Struct("=Q")),
}

# All ones stand for "not limited" and "never measured" in these two, and for a number in no other.
_ALL_ONES = {"pacing_rate": 2**64 - 1, "min_rtt": 2**32 - 1}

_MICROSECONDS = 1e-6
_MILLISECONDS = 1e-3
_ROOM = 512  # bytes to ask for: 280 are in use in Linux 6.18


class TcpState(IntEnum):
    """The state of a connection (RFC 9293, 3.3.2), numbered as in Linux's net/tcp_states.h."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class TcpInfo:
    """One look at a TCP connection, as the kernel saw it at that moment.

    A field that may be None is None where the kernel is too old to tell.
    """

    state: TcpState
    retransmits: int
    """Retransmissions in a row that are still unanswered; 0 in good health."""
    probes: int
    """Unanswered window or keepalive probes in a row."""
    backoff: int
    """How often the retransmission time has been doubled by now."""
    rto: float
    """Seconds until an unacknowledged segment is sent again."""
    rtt: float
    """Smoothed round-trip time in seconds; 0.0 before the first measurement."""
    rttvar: float
    """Mean deviation of the round-trip time in seconds."""
    snd_mss: int
    """Bytes of data in the largest segment sent."""
    rcv_mss: int
    """Bytes of data in the largest segment expected from the peer."""
    unacked: int
    """Segments sent and not yet acknowledged; on a listener, connections waiting for ``accept()``."""
    sacked: int
    """Segments acknowledged out of order; on a listener, the most connections that may wait: its backlog."""
    lost: int
    """Segments taken for lost at this moment."""
    retrans: int
    """Segments sent again and not yet acknowledged."""
    total_retrans: int
    """Segments sent again since the connection began."""
    snd_cwnd: int
    """Congestion window in segments."""
    snd_ssthresh: int
    """Slow-start threshold in segments; 2**31-1 while nothing was lost."""
    last_data_sent: float
    """Seconds since data was sent last, or the connection began."""
    last_data_received: float
    """Seconds since data came last, or the connection began."""
    pmtu: int
    """Bytes in the largest packet that fits the path."""
    rcv_space: int
    """Bytes that the reader consumes in a round trip, by which the kernel tunes the receive buffer."""
    min_rtt: float | None
    """Lowest round-trip time of late in seconds; None also before the first measurement."""
    bytes_acked: int | None
    """Bytes that the peer's TCP has acknowledged. The kernel counts this side's FIN, and the SYN of the side
    that connected, as one byte each."""
    bytes_received: int | None
    """Bytes that were received and acknowledged to the peer; its FIN counts as one."""
    bytes_sent: int | None
    """Bytes sent, repetitions included (Linux 4.19)."""
    bytes_retrans: int | None
    """Bytes sent again (Linux 4.19)."""
    segs_out: int | None
    """Segments sent, with and without data."""
    segs_in: int | None
    """Segments received, with and without data."""
    notsent_bytes: int | None
    """Bytes written that were not even sent yet."""
    delivery_rate: int | None
    """Bytes per second that reached the peer lately; 0 before the first measurement."""
    pacing_rate: int | None
    """Bytes per second at which sending is spread out; None also where it is not limited."""
    busy_time: float | None
    """Seconds spent with data on the way or waiting to be sent."""

    @classmethod
    def from_bytes(cls, data: bytes) -> TcpInfo:
        """What a ``struct tcp_info`` says, as far as it goes. Shorter and longer structs are fine.

        Raises `ValueError` where *data* is shorter than the smallest such struct, 104 bytes, or its state is
        none of `TcpState`.
        """
        if len(data) < _BASE.size:
            raise ValueError(
                f"expected a struct tcp_info of {_BASE.size} bytes or more, got {len(data)} bytes"
            )
        state, _, retransmits, probes, backoff, _, _, _, *words = _BASE.unpack_from(data)
        return cls(
            state=TcpState(state),
            retransmits=retransmits,
            probes=probes,
            backoff=backoff,
            rto=words[0] * _MICROSECONDS,
            snd_mss=words[2],
            rcv_mss=words[3],
            unacked=words[4],
            sacked=words[5],
            lost=words[6],
            retrans=words[7],
            last_data_sent=words[9] * _MILLISECONDS,
            last_data_received=words[11] * _MILLISECONDS,
            pmtu=words[13],
            rtt=words[15] * _MICROSECONDS,
            rttvar=words[16] * _MICROSECONDS,
            snd_ssthresh=words[17],
            snd_cwnd=words[18],
            rcv_space=words[22],
            total_retrans=words[23],
            min_rtt=_seconds(data, "min_rtt"),
            bytes_acked=_later(data, "bytes_acked"),
            bytes_received=_later(data, "bytes_received"),
            bytes_sent=_later(data, "bytes_sent"),
            bytes_retrans=_later(data, "bytes_retrans"),
            segs_out=_later(data, "segs_out"),
            segs_in=_later(data, "segs_in"),
            notsent_bytes=_later(data, "notsent_bytes"),
            delivery_rate=_later(data, "delivery_rate"),
            pacing_rate=_later(data, "pacing_rate"),
            busy_time=_seconds(data, "busy_time"),
        )


def read_tcp_info(sock: socket.socket) -> TcpInfo:
    """What the kernel knows of *sock*, connected or not. One system call; does not block.

    Raises `NotImplementedError` on systems other than Linux, and `OSError` where *sock* is closed or is no
    TCP socket.
    """
    if sys.platform != "linux":
        raise NotImplementedError(f"TCP_INFO is read on Linux only, not on {sys.platform}")
    return TcpInfo.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ROOM))


def idle_seconds(fd: int) -> float | None:
    """Seconds since the socket at `fd` last sent or received data, to a few milliseconds.

    ``None`` where that is not known, as of a Unix socket. Raises `OSError` where `fd` is no socket.
    """
    if sys.platform != "linux":
        return None
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)  # whatever it is: nothing is asked of it
    try:
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.size)
    except OSError:  # no TCP
        return None
    finally:
        sock.detach()
    return min(_LAST_DATA.unpack(data)) * _MILLISECONDS if len(data) == _LAST_DATA.size else None


def _later(data: bytes, name: str) -> int | None:
    offset, packing = _LATER[name]
    if len(data) < offset + packing.size:
        return None
    value: int = packing.unpack_from(data, offset)[0]
    return None if value == _ALL_ONES.get(name) else value


def _seconds(data: bytes, name: str) -> float | None:
    microseconds = _later(data, name)
    return None if microseconds is None else microseconds * _MICROSECONDS
