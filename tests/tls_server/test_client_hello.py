"""What is read from a ClientHello: the standard library's, and what is left of it after accidents."""

from __future__ import annotations

import asyncio
import random
import ssl
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import RawPeer

import aionet
from aionet import ServerTls
from aionet.tls.client_hello import ClientHello, HelloReader
from aionet.tls_failure import TlsFailure
from aionet.wires.tls.choice import RefusedHandshakeError

from .authority import Authority

NOTHING = (None, ())


def hello(*protocols: str, name: str | None = "localhost") -> bytes:
    """The first flight of a client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def with_extension(flight: bytes, kind: int, content: bytes) -> bytes:
    """The same with one more extension, the last one."""
    message = flight[9:]
    at = 34
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2])
    at += 1 + message[at]
    extensions = message[at + 2 :] + kind.to_bytes(2) + len(content).to_bytes(2) + content
    message = message[:at] + len(extensions).to_bytes(2) + extensions
    return in_records(b"\x01" + len(message).to_bytes(3) + message, 16384)


def in_records(message: bytes, size: int) -> bytes:
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces)


def asked(found: ClientHello | None) -> tuple[str | None, tuple[str, ...]] | None:
    """What a server looks at: the name, and the application protocols."""
    return None if found is None else (found.server_name, tuple(found.protocols))


def read(data: bytes) -> tuple[str | None, tuple[str, ...]] | None:
    return asked(HelloReader().feed(data))


@pytest.mark.parametrize("protocols", [(), ("h2",), ("h2", "http/1.1", "x" * 255)])
@pytest.mark.parametrize("name", [None, "localhost", "a" * 60 + ".example"])
def test_what_a_client_asks_for(name: str | None, protocols: tuple[str, ...]) -> None:
    assert read(hello(*protocols, name=name)) == (name, protocols)
    assert read(hello(*protocols, name=name) + b"\x14\x03\x03\x00\x01\x01") == (name, protocols)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 100, 16384])
@pytest.mark.parametrize("seed", range(3))
def test_pieces_of_any_size(size: int, seed: int) -> None:
    flight, chance, reader = in_records(hello("h2")[5:], size), random.Random(seed), HelloReader()
    found, at = None, 0
    while at < len(flight):
        assert found is None
        count = chance.randint(1, 3 if seed else 1)
        found, at = reader.feed(flight[at : at + count]), at + count
    assert asked(found) == ("localhost", ("h2",))


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x02\x00",
        b"\x80",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x00",
        b"\x15\x03\x01\x00\x02\x01\x70",
        b"\x16\x03\x01\x00\x01\x02",
        b"\x16\x03\x01\x00\x04\x01\x01\x00\x00",
    ],
)
def test_what_is_no_client_hello_is_not_waited_for(start: bytes) -> None:
    assert read(start + hello()) == NOTHING


@pytest.mark.parametrize("kind", [0xFE0D, 0x0A0A, 0xFF01])  # ECH, GREASE (RFC 8701), renegotiation
def test_extensions_that_do_not_matter(kind: int) -> None:
    assert read(with_extension(hello("h2"), kind, bytes(200))) == ("localhost", ("h2",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x04\x00\x00\x01",
        b"\x00\x04\x01\x00\x01a",
        b"\x00\x08\x00\x00\x01a\x00\x00\x01b",
        b"\x00\x04\x00\x00\x01a!",
    ],
    ids=["empty", "cut short", "another type", "two names", "more"],
)
def test_a_malformed_name_is_none(content: bytes) -> None:
    assert read(with_extension(hello(name=None), 0, content)) == NOTHING


def test_a_name_that_is_not_ascii_is_escaped() -> None:
    content = b"\x00\x06\x00\x00\x03a\xffb"
    assert read(with_extension(hello(name=None), 0, content)) == ("a\\xffb", ())


def test_a_client_hello_without_extensions() -> None:
    body = b"\x03\x03" + bytes(32) + b"\x00\x00\x02\x00\x2f\x01\x00"
    assert read(in_records(b"\x01" + len(body).to_bytes(3) + body, 100)) == NOTHING


def test_every_beginning_and_every_changed_byte_is_survived() -> None:
    flight = hello("h2")
    for length in range(len(flight)):
        assert read(flight[:length]) is None
    for place in range(len(flight)):
        for value in (0, 255, flight[place] ^ 1):
            read(flight[:place] + bytes([value]) + flight[place + 1 :])


@given(st.binary(max_size=300))
def test_anything_is_survived(data: bytes) -> None:
    read(data)
    read(b"\x16\x03\x01" + len(data).to_bytes(2) + data)


def test_the_alert_is_understood() -> None:
    received = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(received, ssl.MemoryBIO(), server_hostname="localhost")
    received.write(RefusedHandshakeError(TlsFailure.NO_COMMON_PROTOCOL, "none", 120).alert)
    with pytest.raises(ssl.SSLError, match="alert no application protocol"):
        client.do_handshake()


def test_many_names_and_many_pieces_take_time_in_proportion() -> None:
    """16 kB of names took 7 ms, and four times as much took sixteen times as long."""

    def seconds(names: int) -> float:
        message = with_extension(hello(), 16, (2 * names).to_bytes(2) + b"\x01a" * names)[5:]
        flight = in_records(message, 100)

        def once() -> float:
            reader, began = HelloReader(), time.process_time()
            for at in range(0, len(flight), 10):
                found = reader.feed(flight[at : at + 10])
            assert found is not None
            assert not found.offers_any(["b", "aa"])
            return time.process_time() - began

        return min(once() for _ in range(5))

    assert seconds(24_000) < 10 * seconds(6_000)


@pytest.mark.asyncio
@pytest.mark.parametrize("behind_an_alert", [False, True])
@pytest.mark.parametrize("configured", [False, True])
async def test_a_name_that_is_not_ascii_does_not_come_to_a_callback(
    authority: Authority, configured: bool, behind_an_alert: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def set_callback(context: ssl.SSLContext) -> None:
        context.sni_callback = lambda *arguments: None

    pair = authority.pair("server")
    context = authority.server(pair)
    set_callback(context)
    tls = ServerTls(*pair.files, configure=set_callback) if configured else context
    flight = with_extension(hello(name=None), 0, b"\x00\x06\x00\x00\x03a\xffb")
    if behind_an_alert:
        flight = b"\x15\x03\x01\x00\x02\x01\x5a" + flight
    spawner = aionet.ConnectionSpawner(lambda sock: sock.read())
    server = aionet.AsyncTcpConnectionServer("127.0.0.1:0", tls=tls)
    serving = asyncio.create_task(spawner.serve(server))
    await asyncio.sleep(0)
    with await RawPeer.connect(("127.0.0.1", server.address.port)) as client:
        client.send_now(flight)
        answer = await client.receive_to_end()
    assert answer == b"\x15\x03\x03\x00\x02\x02" + (b"\x32" if behind_an_alert else b"\x70")
    failure = TlsFailure.PROTOCOL if behind_an_alert else TlsFailure.UNKNOWN_NAME
    assert spawner.stats.tls_failures == {failure: 1}
    await spawner.drain(0.0)
    await serving
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.asyncio
@pytest.mark.parametrize("chosen", [False, True])
async def test_a_handshake_of_very_many_records_fails(authority: Authority, chosen: bool) -> None:
    """Of each record a server knows more than its one byte: 100 kB took 25 ms."""
    pair = authority.pair("server")
    spawner = aionet.ConnectionSpawner(lambda sock: sock.read())
    tls = ServerTls(*pair.files) if chosen else authority.server(pair)
    server = aionet.AsyncTcpConnectionServer("127.0.0.1:0", tls=tls)
    serving = asyncio.create_task(spawner.serve(server))
    await asyncio.sleep(0)
    with await RawPeer.connect(("127.0.0.1", server.address.port)) as client:
        client.send_now(in_records(with_extension(hello(), 0xFE0D, bytes(2000))[5:], 1))
        assert await client.end() in ("end", "reset")
    assert spawner.stats.tls_failures == {TlsFailure.RECORD_FLOOD: 1}
    await spawner.drain(0.0)
    await serving
