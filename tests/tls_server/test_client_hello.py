"""What is read from a ClientHello: the standard library's, and what is left of it after accidents."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aionet.tls.client_hello import NO_APPLICATION_PROTOCOL, bytes_wanted, protocols_offered


def hello(*protocols: str, name: str = "localhost") -> bytes:
    """The first flight of a client."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


@pytest.mark.parametrize("protocols", [(), ("h2",), ("h2", "http/1.1", "x" * 255)])
def test_the_offer(protocols: tuple[str, ...]) -> None:
    record = hello(*protocols)
    assert protocols_offered(record) == protocols
    assert bytes_wanted(record) == bytes_wanted(record[:5]) == len(record)
    assert bytes_wanted(record[:2]) == 5


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"\x16\x02\x00", b"\x80", b"\x16\x03\x01\xff\xff"])
def test_what_is_no_record_is_not_waited_for(start: bytes) -> None:
    assert bytes_wanted(start) == 0
    assert protocols_offered(start) == ()


def test_every_beginning_and_every_changed_byte_is_survived() -> None:
    record = hello("h2")
    for length in range(len(record)):
        assert protocols_offered(record[:length]) == ()
    for place in range(len(record)):
        for value in (0, 255, record[place] ^ 1):
            protocols_offered(record[:place] + bytes([value]) + record[place + 1 :])


@given(st.binary(max_size=300))
def test_anything_is_survived(data: bytes) -> None:
    protocols_offered(data)
    assert 0 <= bytes_wanted(data) <= 5 + 16384


def test_the_alert_is_understood() -> None:
    received = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(received, ssl.MemoryBIO(), server_hostname="localhost")
    received.write(NO_APPLICATION_PROTOCOL)
    with pytest.raises(ssl.SSLError, match="alert no application protocol"):
        client.do_handshake()
