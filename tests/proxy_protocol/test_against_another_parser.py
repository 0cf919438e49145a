"""The same bytes for the package ``proxy-protocol``: where both take a header, they read the same from it.

That package is more lenient (it takes what the specification refuses), and fails with whatever exception its
parts raise; so only acceptance is compared, not refusal.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from aionet import ProxyHeader, ProxyProtocolError, SocketAddress, UnixAddress
from aionet.proxy_protocol import parse_header

from .strategies import EXAMPLES, headers

FAMILY = 13
"""Where the family and the transport of a version 2 header stand; two bytes of the block's length follow."""

WITHOUT_TRANSPORT = (0x10, 0x20, 0x30)

OTHERS = {1: ProxyProtocolV1(), 2: ProxyProtocolV2()}


def expected_ends(header: ProxyHeader) -> tuple[Any, Any]:
    """The ends of `header` as the other package shows them."""

    def end(address: SocketAddress | UnixAddress | None) -> Any:
        if isinstance(address, SocketAddress):
            return address.ip, address.port
        return None if address is None else address.path

    return end(header.source), end(header.destination)


def read_by_the_other(data: bytes, header: ProxyHeader) -> Any:
    result = OTHERS[header.version].unpack(data)
    if header.source is None:
        assert result.source is result.dest is None
    else:
        assert (result.source, result.dest) == expected_ends(header)
    assert result.proxied is (header.command == "proxy")
    return result


def known_to_the_other(header: ProxyHeader) -> bool:
    """It takes the paths of Unix sockets for ASCII."""
    return not isinstance(header.source, UnixAddress) or all(
        str(end).isascii() for end in expected_ends(header)
    )


@given(headers)
def test_it_reads_what_we_write(header: ProxyHeader) -> None:
    assume(known_to_the_other(header))
    result = read_by_the_other(header.to_bytes(), header)
    if header.source is not None and header.version == 2:
        assert dict(result.tlv) == dict(header.tlvs)


@given(headers.filter(lambda header: header.source is not None))
def test_we_read_what_it_writes(header: ProxyHeader) -> None:
    assume(known_to_the_other(header))
    other = OTHERS[header.version]
    found = parse_header(other.pack(other.unpack(header.to_bytes())))
    assert found is not None
    assert (found[0].source, found[0].destination) == (header.source, header.destination)
    assert dict(found[0].tlvs) == dict(header.tlvs)


@pytest.mark.parametrize("data", EXAMPLES[:-1])  # not Unix: it takes what follows a path's NUL for the path
@given(changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=3))
def test_it_accepts_what_we_accept(data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for place, byte in changes:
        changed[place % len(data)] = byte
    try:
        found = parse_header(bytes(changed))
    except ProxyProtocolError:
        return
    if found is None or not known_to_the_other(found[0]):
        return
    header, length = found
    if header.version == 2 and header.command == "local":  # what follows is skipped, right or wrong
        changed[FAMILY:length] = bytes(3)
        length = FAMILY + 3
    elif header.version == 2 and changed[FAMILY] in WITHOUT_TRANSPORT:
        return  # it shows the addresses all the same
    read_by_the_other(bytes(changed[:length]), header)
