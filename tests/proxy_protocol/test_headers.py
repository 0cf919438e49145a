"""`ProxyHeader`: what one can say, what it reads, and what it becomes on the wire."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from aionet import ProxyHeader, ProxyTls, SocketAddress, UnixAddress
from aionet.proxy_protocol import TlvType, parse_header
from aionet.proxy_protocol.crc32c import crc32c

from .strategies import SIGNATURE, tlv, v2

CLIENT, SERVER = SocketAddress("192.0.2.7", 56324), SocketAddress("198.51.100.1", 443)
CLIENT6, SERVER6 = SocketAddress("2001:db8::7", 56324), SocketAddress("2001:db8::1", 443)

untyped_header: Any = ProxyHeader  # as somebody sees it who does not check types


def test_version_1_is_the_line_of_the_specification() -> None:
    header = ProxyHeader(version=1, source=CLIENT, destination=SERVER)
    assert header.to_bytes() == b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
    header = ProxyHeader(version=1, source=CLIENT6, destination=SERVER6)
    assert header.to_bytes() == b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n"
    assert ProxyHeader(version=1).to_bytes() == b"PROXY UNKNOWN\r\n"


def test_version_2_is_the_structure_of_the_specification() -> None:
    ports = b"\xdc\x04\x01\xbb"
    header = ProxyHeader(source=CLIENT, destination=SERVER)
    assert (
        header.to_bytes() == SIGNATURE + b"\x21\x11\x00\x0c" + bytes([192, 0, 2, 7, 198, 51, 100, 1]) + ports
    )
    assert dataclasses.replace(header, transport="datagram").to_bytes()[13] == 0x12
    header = ProxyHeader(source=CLIENT6, destination=SERVER6)
    assert header.to_bytes()[12:16] == b"\x21\x21\x00\x24"
    assert header.to_bytes().endswith(ports)
    header = ProxyHeader(source=UnixAddress("/run/a"), destination=UnixAddress("\0b"))
    assert header.to_bytes()[16:] == b"/run/a".ljust(108, b"\0") + b"\0b".ljust(108, b"\0")
    assert ProxyHeader(command="local").to_bytes() == SIGNATURE + b"\x20\x00\x00\x00"
    assert ProxyHeader().to_bytes() == SIGNATURE + b"\x21\x00\x00\x00"
    assert ProxyHeader(tlvs=((0xE0, b"xy"),)).to_bytes() == SIGNATURE + b"\x21\x00\x00\x05\xe0\x00\x02xy"


def test_the_checksum_is_that_of_the_rfc() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


def test_a_checksum_is_computed_over_zeros() -> None:
    built = ProxyHeader(source=CLIENT, destination=SERVER).to_bytes(checksum=True)
    assert built[-7:-4] == b"\x03\x00\x04"
    assert int.from_bytes(built[-4:]) == crc32c(built[:-4] + bytes(4))


def test_a_scope_does_not_travel() -> None:
    ends = {"source": SocketAddress("fe80::1%lo", 1), "destination": SocketAddress("fe80::2%1", 2)}
    for version in (1, 2):
        parsed = parse_header(ProxyHeader(version=version, **ends).to_bytes())
        assert parsed is not None
        assert parsed[0].source == SocketAddress("fe80::1", 1)


@pytest.mark.parametrize("version", [1, 2])
def test_between_says_what_the_version_can_tell(version: Any) -> None:
    unix = UnixAddress("/run/a")
    assert ProxyHeader.between(CLIENT, SERVER, version=version).source == CLIENT
    for source, destination in [(None, None), (CLIENT, None), (CLIENT, SERVER6), (SocketAddress(1), SERVER)]:
        header = ProxyHeader.between(source, destination, version=version)
        assert header == ProxyHeader(version=version)
    assert ProxyHeader.between(unix, unix, version=version).source == (unix if version == 2 else None)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"version": 3}, "version 3"),
        ({"command": "remote"}, "command 'remote'"),
        ({"transport": "tcp"}, "transport 'tcp'"),
        ({"transport": "datagram"}, "without addresses"),
        ({"command": "local", "source": CLIENT, "destination": SERVER}, "neither addresses nor TLVs"),
        ({"command": "local", "tlvs": ((0xE0, b""),)}, "neither addresses nor TLVs"),
        ({"version": 1, "command": "local"}, "no command 'local'"),
        ({"version": 1, "tlvs": ((0xE0, b""),)}, "no TLVs"),
        (
            {"version": 1, "source": UnixAddress("/a"), "destination": UnixAddress("/b")},
            "IPv4 and IPv6 only",
        ),
        (
            {"version": 1, "source": CLIENT, "destination": SERVER, "transport": "datagram"},
            "IPv4 and IPv6 only",
        ),
        ({"source": CLIENT}, "not of one family"),
        ({"destination": CLIENT}, "not of one family"),
        ({"source": CLIENT, "destination": SERVER6}, "not of one family"),
        ({"source": CLIENT, "destination": UnixAddress("/a")}, "not of one family"),
        ({"source": SocketAddress("name.example", 1), "destination": SERVER}, "no IP address"),
        ({"source": SocketAddress(1), "destination": SocketAddress(2)}, "no IP address"),
        ({"tlvs": ((256, b""),)}, "TLV 256"),
        ({"tlvs": ((-1, b""),)}, "TLV -1"),
        ({"tlvs": ((0xE0, bytes(65536)),)}, "of 65536 bytes"),
        ({"tlvs": ((TlvType.CRC32C, bytes(4)),)}, "TLV type 0x03"),
        ({"tlvs": ((TlvType.NOOP, b""),)}, "TLV type 0x04"),
        ({"tlvs": ((TlvType.UNIQUE_ID, bytes(129)),)}, "unique id of 129 bytes"),
        ({"tlvs": ((TlvType.AUTHORITY, b"\xff"),)}, "authority b'\\xff' is no UTF-8 text"),
        ({"tlvs": ((TlvType.NETNS, "é".encode()),)}, "no ASCII text"),
        ({"tlvs": ((TlvType.SSL, b"\x01\0\0\0"),)}, "SSL TLV has 4 bytes"),
        ({"tlvs": ((TlvType.SSL, bytes(5) + b"\x21\0\x01"),)}, "has 0 of its 1 bytes"),
        ({"tlvs": ((TlvType.SSL, bytes(5) + tlv(0x22, b"\xff")),)}, "common name"),
    ],
)
def test_what_does_not_go_together_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        untyped_header(**parts)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "parts",
    [
        {"source": "192.0.2.7:1", "destination": "192.0.2.7:2"},
        {"tlvs": ((0xE0, "text"),)},
        {"tlvs": (("type", b""),)},
    ],
)
def test_wrong_types_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        untyped_header(**parts)


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="room for 65535"):
        ProxyHeader(tlvs=((0xE0, bytes(40000)), (0xE1, bytes(40000)))).to_bytes()
    with pytest.raises(ValueError, match="no checksum"):
        ProxyHeader(version=1).to_bytes(checksum=True)


def test_the_well_known_tlvs_are_readable() -> None:
    details = b"\x07" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x22, "bücher".encode()) + tlv(0x23, b"AES")
    header = ProxyHeader(
        tlvs=(
            (TlvType.ALPN, b"h2"),
            (TlvType.AUTHORITY, "bücher.example".encode()),
            (TlvType.UNIQUE_ID, b"\0\xff"),
            (TlvType.SSL, details + tlv(0x24, b"RSA-SHA256") + tlv(0x25, b"RSA2048") + tlv(0x2F, b"later")),
            (TlvType.NETNS, b"blue"),
            (0xE0, b"first"),
            (0xE0, b"second"),
        )
    )
    assert (header.alpn, header.authority, header.unique_id) == (b"h2", "bücher.example", b"\0\xff")
    assert (header.netns, header.tlv(0xE0), header.tlv(0xE1)) == ("blue", b"first", None)
    assert header.tls == ProxyTls(
        encrypted=True,
        certificate_in_connection=True,
        certificate_in_session=True,
        verify=0,
        version="TLSv1.3",
        common_name="bücher",
        cipher="AES",
        signature_algorithm="RSA-SHA256",
        key_algorithm="RSA2048",
    )
    bare = ProxyHeader()
    assert bare.alpn is bare.authority is bare.unique_id is bare.tls is bare.netns is None


@pytest.mark.parametrize(
    ("client", "verify", "verified"),
    [(0x07, 0, True), (0x05, 0, True), (0x03, 0, True), (0x07, 1, False), (0x01, 0, False), (0x06, 0, False)],
)
def test_a_client_without_a_certificate_is_not_verified(client: int, verify: int, verified: bool) -> None:
    details = ProxyTls.parse(bytes([client]) + verify.to_bytes(4))
    assert details.client_verified is verified


def test_headers_are_values() -> None:
    header = ProxyHeader(source=CLIENT, destination=SERVER)
    assert len({header, dataclasses.replace(header)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        header.version = 1  # type: ignore[misc]
    assert parse_header(v2(0x11, header.to_bytes()[16:])) == (header, 28)
