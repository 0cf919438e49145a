"""The grammar: what is a header, what is not, and what may become one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aionet import ProxyHeader, ProxyProtocolError, SocketAddress, UnixAddress
from aionet.proxy_protocol import parse_header

from .strategies import EXAMPLES, SIGNATURE, headers, line_headers, tlv, v2

IPV4 = bytes([192, 0, 2, 7, 198, 51, 100, 1, 0xDC, 0x04, 0x01, 0xBB])
IPV6 = bytes(15) + b"\1" + bytes(15) + b"\2" + b"\0\1\0\2"

anything = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda rest: b"PROXY " + rest),
    st.text("PROXYTCUNKW46 \r\n.:0123456789af%", max_size=120).map(
        lambda text: f"PROXY TCP{text}\r\n".encode()
    ),
    st.binary(max_size=300).map(lambda rest: SIGNATURE + rest),
    st.builds(
        lambda command, kind, block: v2(kind, block, command=command),
        st.sampled_from([0x20, 0x21]),
        st.sampled_from([0x00, 0x01, 0x10, 0x11, 0x12, 0x21, 0x31]),
        st.binary(max_size=300),
    ),
)


def parsed(data: bytes) -> ProxyHeader:
    found = parse_header(data)
    assert found is not None
    header, length = found
    assert length == len(data)
    return header


def refusal(data: bytes, **options: int) -> str:
    with pytest.raises(ProxyProtocolError) as caught:
        parse_header(data, **options)
    return str(caught.value)


# Whatever comes ---------------------------------------------------------------------------------------


@given(headers, st.booleans(), st.binary(max_size=20))
def test_a_header_comes_back_and_what_follows_is_left(
    header: ProxyHeader, checksum: bool, rest: bytes
) -> None:
    built = header.to_bytes(checksum=checksum and header.version == 2)
    assert parse_header(built + rest) == (header, len(built))


@given(line_headers)
def test_a_line_is_never_too_long(header: ProxyHeader) -> None:
    assert len(header.to_bytes()) <= 107


@given(headers, st.booleans())
def test_every_beginning_of_a_header_asks_for_more(header: ProxyHeader, checksum: bool) -> None:
    built = header.to_bytes(checksum=checksum and header.version == 2)
    assert {parse_header(built[:end]) for end in range(len(built))} == {None}


@given(anything)
@example(b"P\r\n")
@example(b"PROXY\r\n")
@example(b"PROXY \r\n")
@example(b"PROXY TCP4\r\n")
def test_anything_is_a_header_or_an_error(data: bytes) -> None:
    try:
        found = parse_header(data)
    except ProxyProtocolError:
        return
    if found is not None:
        header, length = found
        assert length <= len(data)
        assert header.to_bytes()  # what can be read can be written
        _ = header.alpn, header.authority, header.unique_id, header.tls, header.netns


@given(anything)
def test_what_was_refused_stays_refused(data: bytes) -> None:
    """No answer depends on how the input was cut."""
    answers = []
    for end in range(len(data) + 1):
        try:
            answers.append(parse_header(data[:end]))
        except ProxyProtocolError:
            answers.append("refused")
    known = [answer for answer in answers if answer is not None]
    assert len(set(known)) <= 1
    assert answers == [None] * (len(answers) - len(known)) + known


@pytest.mark.parametrize("data", EXAMPLES)
def test_one_changed_bit_is_another_header_or_an_error(data: bytes) -> None:
    for place in range(len(data) * 8):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        try:
            found = parse_header(bytes(changed))
        except ProxyProtocolError:
            continue
        assert found is None or found[0].to_bytes()


COVERED = (*range(16, 232), *range(235, 315), *range(318, 322))
"""Two addresses, the value of a TLV, and the checksum: the head of a TLV could hide the checksum."""


@given(st.sampled_from(COVERED), st.integers(1, 255))
def test_a_checksum_finds_every_changed_byte(place: int, change: int) -> None:
    header = ProxyHeader(source=UnixAddress("/a"), destination=UnixAddress("/b"), tlvs=((0xE0, bytes(80)),))
    built = bytearray(header.to_bytes(checksum=True))
    built[place] ^= change
    assert refusal(bytes(built))


# Version 1 --------------------------------------------------------------------------------------------


def test_version_1() -> None:
    assert parsed(b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n") == ProxyHeader(
        version=1,
        source=SocketAddress("255.255.255.255", 65535),
        destination=SocketAddress("0.0.0.0", 0),
    )
    longest = b"PROXY TCP6 " + b" ".join([b":".join([b"FFFF"] * 8)] * 2) + b" 65535 65535\r\n"
    assert parsed(longest).source == SocketAddress(":".join(["ffff"] * 8), 65535)
    mapped = parsed(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n")  # as inet_ntop() writes it
    assert mapped.source == SocketAddress("::ffff:192.0.2.7", 1)


@pytest.mark.parametrize("rest", [b"", b" ", b" ffff::1 ffff::2 1 2", b" \xff\0\n\r  ", b" " + b"x" * 91])
def test_after_unknown_everything_is_ignored(rest: bytes) -> None:
    assert parsed(b"PROXY UNKNOWN" + rest + b"\r\n") == ProxyHeader(version=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "protocol b'': expected TCP4, TCP6 or UNKNOWN"),
        (b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n", "protocol b'tcp4'"),
        (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", "protocol b'UDP4'"),
        (b"PROXY UNKNOWNX\r\n", "protocol b'UNKNOWNX'"),
        (b"PROXY UNKNOWN\t\r\n", "protocol b'UNKNOWN\\t'"),
        (b"PROXY \r\n", "protocol b''"),
        (b"PROXY TCP4\r\n", "0 fields after TCP4: expected 4"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", "3 fields"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", "5 fields"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", "5 fields"),
        (b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n", "5 fields"),
        (b"PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n", "protocol b'TCP4\\t1.2.3.4'"),
        (b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n", "address b'1.2.3.04': expected the text of an IPv4Address"),
        (b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n", "address b'1.2.3.256'"),
        (b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n", "address b'1.2.3'"),
        (b"PROXY TCP4 0x1.2.3.4 5.6.7.8 1 2\r\n", "address"),
        (b"PROXY TCP4 \xd9\xa1.2.3.4 5.6.7.8 1 2\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4/8 5.6.7.8 1 2\r\n", "address"),
        (b"PROXY TCP4 +1.2.3.4 5.6.7.8 1 2\r\n", "address"),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", "address b'::1': expected the text of an IPv4Address"),
        (b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", "address b'1.2.3.4': expected the text of an IPv6Address"),
        (b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", "address b'fe80::1%lo'"),
        (b"PROXY TCP6 fe80::1%eth0/64 ::1 1 2\r\n", "address"),
        (b"PROXY TCP6 [::1] ::1 1 2\r\n", "address"),
        (b"PROXY TCP6 1::2::3 ::1 1 2\r\n", "address"),
        (b"PROXY TCP6 00001::2 ::1 1 2\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", "port b'01': expected 0 to 65535"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n", "port b'65536'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n", "port b'-1'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", "port b'+1'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1_0 2\r\n", "port b'1_0'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n", "port b''"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n\r\n", "port b'2\\n'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n", "port b'2\\r'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \xd9\xa1\r\n", "port"),
    ],
)
def test_lines_that_are_not_quite_right(line: bytes, message: str) -> None:
    assert message in refusal(line)


def test_a_line_ends_within_107_bytes() -> None:
    line = b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r\n"
    assert parsed(line) == ProxyHeader(version=1)
    assert parse_header(line[:106]) is None
    assert "no CRLF within 107 bytes" in refusal(b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n")
    assert "no CRLF within 107 bytes" in refusal(b"PROXY UNKNOWN ".ljust(107, b"x"))
    assert "no CRLF within 107 bytes" in refusal(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n" * 4)


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"\r\n\r\n\0\r\nQUIX",
        b"PRO\r",
        b"proxy ",
        b"\0",
    ],
)
def test_other_protocols_are_told_apart_by_their_first_bytes(data: bytes) -> None:
    assert refusal(data) == f"found {data!r}: expected a PROXY protocol header, version 1 or 2"


def test_a_message_shows_a_little_of_what_was_found() -> None:
    assert len(refusal(b"x" * 100_000)) < 120


# Version 2 --------------------------------------------------------------------------------------------


def test_version_2() -> None:
    client, server = SocketAddress("192.0.2.7", 56324), SocketAddress("198.51.100.1", 443)
    assert parsed(v2(0x11, IPV4)) == ProxyHeader(source=client, destination=server)
    assert parsed(v2(0x12, IPV4)).transport == "datagram"
    assert parsed(v2(0x21, IPV6)).source == SocketAddress("::1", 1)
    assert parsed(v2(0x11, IPV4 + tlv(0xE0, b"x") + tlv(0x04, bytes(9)))).tlvs == ((0xE0, b"x"),)


def test_unix_addresses() -> None:
    def ends(source: bytes, destination: bytes) -> ProxyHeader:
        return parsed(v2(0x31, source.ljust(108, b"\0") + destination.ljust(108, b"\0")))

    assert ends(b"/run/app", b"").source == UnixAddress("/run/app")
    assert ends(b"/run/app", b"").destination == UnixAddress("")
    assert ends(b"/run/app\0rubbish", b"\0name").source == UnixAddress("/run/app")
    assert ends(b"/run/app", b"\0name").destination == UnixAddress("\0name")
    assert ends(b"/\xff", b"").source == UnixAddress(b"/\xff")
    assert "is 108 bytes long" in refusal(v2(0x31, b"/" * 216))


@pytest.mark.parametrize("kind", [0x00, 0x11, 0x31, 0x99, 0xFF])
@pytest.mark.parametrize("block", [b"", b"\xff", IPV4, IPV4 + tlv(0x03, b"bad!"), bytes(4096)])
def test_the_block_of_a_local_header_is_ignored(kind: int, block: bytes) -> None:
    assert parsed(v2(kind, block, command=0x20)) == ProxyHeader(command="local")


def test_what_is_not_specified_has_no_address() -> None:
    assert parsed(v2(0x00, b"")) == ProxyHeader()
    assert parsed(v2(0x00, tlv(0x05, b"id"))).unique_id == b"id"
    assert parsed(v2(0x01, tlv(0x05, b"id"))).unique_id == b"id"
    without_transport = parsed(v2(0x10, IPV4 + tlv(0x05, b"id")))
    assert (without_transport.source, without_transport.unique_id) == (None, b"id")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (v2(0x11, IPV4, command=0x11), "version 1 after the signature of version 2"),
        (v2(0x11, IPV4, command=0x31), "version 3 after"),
        (v2(0x11, IPV4, command=0x22), "command 0x2"),
        (v2(0x41, IPV4), "family and transport 0x41"),
        (v2(0x13, IPV4), "family and transport 0x13"),
        (v2(0x11, b""), "0 bytes for the addresses of family 1: expected 12 or more"),
        (v2(0x21, IPV4), "12 bytes for the addresses of family 2: expected 36"),
        (v2(0x31, IPV6), "expected 216"),
        (v2(0x11, IPV4 + b"\xe0"), "1 bytes after the last TLV"),
        (v2(0x11, IPV4 + b"\xe0\0"), "2 bytes after the last TLV"),
        (v2(0x11, IPV4 + b"\xe0\xff\xff"), "TLV 0xe0 has 0 of its 65535 bytes"),
        (v2(0x11, IPV4 + tlv(0x02, b"\xff")), "authority"),
        (v2(0x11, IPV4 + tlv(0x05, bytes(129))), "unique id"),
        (v2(0x11, IPV4 + tlv(0x20, b"")), "SSL TLV"),
        (v2(0x11, IPV4 + tlv(0x03, b"123")), "one checksum, of 4 bytes"),
        (v2(0x11, IPV4 + 2 * tlv(0x03, bytes(4))), "one checksum, of 4 bytes"),
        (v2(0x11, IPV4 + tlv(0x03, bytes(4))), "checksum 0x00000000: the header's is 0x"),
        (v2(0x00, 129 * tlv(0x04, b"")), "more than 128 TLVs"),
    ],
)
def test_binary_headers_that_are_not_quite_right(data: bytes, message: str) -> None:
    assert message in refusal(data)


def test_what_is_wrong_in_the_first_16_bytes_is_not_waited_for() -> None:
    for data in (v2(0x41, b"", length=12), v2(0x11, b"", length=3), v2(0x11, b"", length=4097)):
        assert refusal(data)


def test_the_cap_is_exact() -> None:
    data = v2(0x11, IPV4 + tlv(0xE0, bytes(85)))  # 100 bytes after the first 16
    assert parse_header(data, max_header_bytes=100) is not None
    assert "100 bytes after the first 16 of the header: 99 are allowed" in refusal(data, max_header_bytes=99)
