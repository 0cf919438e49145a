"""Headers for hypothesis, and examples of them."""

from __future__ import annotations

from hypothesis import strategies as st

from aionet import ProxyHeader, SocketAddress, UnixAddress
from aionet.proxy_protocol import TlvType

__all__ = ["EXAMPLES", "SIGNATURE", "headers", "line_headers", "tlv", "v2"]

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"


def v2(kind: int, block: bytes, *, command: int = 0x21, length: int | None = None) -> bytes:
    """A version 2 header, written out."""
    return SIGNATURE + bytes([command, kind]) + (len(block) if length is None else length).to_bytes(2) + block


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


_ports = st.integers(0, 65535)


def _ends(ips: st.SearchStrategy) -> st.SearchStrategy:
    end = st.builds(SocketAddress, ips, _ports)
    return st.tuples(end, end)


_paths = st.binary(max_size=107).filter(lambda raw: b"\0" not in raw and not raw.startswith(b"@"))
_abstract = (
    st.binary(min_size=1, max_size=107).filter(lambda raw: raw[-1:] != b"\0").map(lambda raw: b"\0" + raw)
)
_unix_end = st.builds(UnixAddress, _paths | _abstract)

_tcp_ends = _ends(st.ip_addresses(v=4)) | _ends(st.ip_addresses(v=6))
_all_ends = _tcp_ends | st.tuples(_unix_end, _unix_end)

_ascii = st.text(st.characters(codec="ascii"), max_size=20).map(str.encode)
_tls_parts = st.lists(st.tuples(st.integers(0x21, 0x2F), _ascii), max_size=4)
_tls_values = st.builds(
    lambda client, verify, parts: (
        bytes([client]) + verify.to_bytes(4) + b"".join(tlv(*part) for part in parts)
    ),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    _tls_parts,
)
_known_tlvs = st.one_of(
    st.tuples(st.just(TlvType.ALPN.value), st.binary(max_size=20)),
    st.tuples(st.just(TlvType.AUTHORITY.value), st.text(max_size=20).map(str.encode)),
    st.tuples(st.just(TlvType.UNIQUE_ID.value), st.binary(max_size=128)),
    st.tuples(st.just(TlvType.SSL.value), _tls_values),
    st.tuples(st.just(TlvType.NETNS.value), _ascii),
)
_custom_tlvs = st.tuples(st.integers(0xE0, 0xFF), st.binary(max_size=60))
_tlvs = st.lists(_known_tlvs | _custom_tlvs, max_size=5).map(tuple)

line_headers = st.just(ProxyHeader(version=1)) | _tcp_ends.map(
    lambda ends: ProxyHeader(version=1, source=ends[0], destination=ends[1])
)
"""Of version 1."""

binary_headers = st.one_of(
    st.just(ProxyHeader(command="local")),
    st.builds(ProxyHeader, tlvs=_tlvs),
    st.builds(
        lambda ends, transport, tlvs: ProxyHeader(
            source=ends[0], destination=ends[1], transport=transport, tlvs=tlvs
        ),
        _all_ends,
        st.sampled_from(["stream", "datagram"]),
        _tlvs,
    ),
)

headers = line_headers | binary_headers
"""Of both versions."""

EXAMPLES = [
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n",
    b"PROXY TCP6 2001:db8::7 2001:db8::1 65535 0\r\n",
    b"PROXY UNKNOWN\r\n",
    v2(0x11, bytes([192, 0, 2, 7, 198, 51, 100, 1]) + (56324).to_bytes(2) + (443).to_bytes(2)),
    v2(0x00, tlv(0x05, b"id")),
    v2(0x00, b"", command=0x20),
    ProxyHeader(source=UnixAddress("/run/a"), destination=UnixAddress("\0b")).to_bytes(checksum=True),
]
"""Headers, as bytes."""
