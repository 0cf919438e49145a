"""anyio's stream over a socket that speaks TLS by itself."""

from __future__ import annotations

import asyncio
import socket

import anyio
import pytest
from anyio.streams.tls import TLSAttribute
from conformance.transports import Accepted, TlsTransport

from aionet.adapters.anyio import AionetByteStream

pytestmark = pytest.mark.asyncio


def connected():
    return TlsTransport(Accepted("tcp4", socket.AF_INET, "127.0.0.1")).connected()


async def test_bytes_go_both_ways_and_each_direction_ends_for_itself() -> None:
    async with connected() as (sock, peer):
        stream = AionetByteStream(sock)
        assert stream.extra(TLSAttribute.tls_version) == "TLSv1.3"
        assert stream.extra(TLSAttribute.peer_certificate, "none") is None
        await stream.send(b"question")
        await stream.send_eof()
        assert await peer.receive_to_end() == b"question"
        peer.send_now(b"answer")
        peer.half_close()
        assert await stream.receive() == b"answer"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.aclose()


async def test_a_stream_that_was_cut_off_is_broken_not_ended() -> None:
    async with connected() as (sock, peer):
        stream = AionetByteStream(sock)
        peer.sock.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(anyio.BrokenResourceError, match="close_notify"):
            await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await asyncio.wait_for(stream.receive(), 30)
