"""Sessions that a client resumes, and those that it must not."""

from __future__ import annotations

import gc
import ssl
import weakref

import pytest
from peers import RawListener
from tls_peers import contexts

from .scenes import TLS_VERSIONS, dialed_to

pytestmark = pytest.mark.asyncio


@pytest.fixture
def listener():
    """Where all connections of a test go."""
    with RawListener() as listener:
        yield listener


async def converse(listener, server, client, **how):
    """Connect, read something, close; return what was agreed on."""
    async with dialed_to(server, client, listener=listener, **how) as (sock, peer):
        peer.send_now(b"hello")
        assert await sock.read() == b"hello"
        peer.half_close()
        await sock.aclose()
        return sock.tls


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_a_second_connection_resumes_the_session_of_the_first(version, listener):
    server, client = contexts.__wrapped__(version)
    first = await converse(listener, server, client)
    second = await converse(listener, server, client)
    third = await converse(listener, server, client)
    assert (first.resumed, second.resumed, third.resumed) == (False, True, True)
    assert second.peer_certificate == first.peer_certificate  # known from the session


async def test_a_ticket_is_used_once(listener):
    server, client = contexts.__wrapped__()
    await converse(listener, server, client)
    async with dialed_to(server, client, listener=listener) as (sock, _):
        assert sock.tls.resumed
    # which was aborted before any new ticket was read
    assert not (await converse(listener, server, client)).resumed


async def test_a_session_of_another_name_is_not_resumed(listener):
    server, client = contexts.__wrapped__()
    client.check_hostname = False
    await converse(listener, server, client)
    assert not (await converse(listener, server, client, server_hostname="other.example")).resumed


async def test_a_session_that_was_not_verified_is_no_way_around_verification(listener):
    server, client = contexts.__wrapped__()
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    await converse(listener, server, client)
    client.verify_mode = ssl.CERT_REQUIRED
    client.check_hostname = True
    assert not (await converse(listener, server, client)).resumed


async def test_contexts_share_no_sessions(listener):
    server, client = contexts.__wrapped__()
    other = contexts.__wrapped__().client
    other.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(client.get_ca_certs(binary_form=True)[0]))
    await converse(listener, server, client)
    assert not (await converse(listener, server, other)).resumed


async def test_sessions_do_not_keep_their_context(listener):
    server, client = contexts.__wrapped__()
    await converse(listener, server, client)
    assert (await converse(listener, server, client)).resumed
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
