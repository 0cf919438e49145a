"""Counting peers, and so many a second."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aionet.addresses import SocketAddress, UnixAddress
from aionet.limiting.admission import PeerCounts, TokenBucket


def connection_from(peer: object) -> Any:
    return SimpleNamespaceById(socket=SimpleNamespace(peer_address=peer))


class SimpleNamespaceById(SimpleNamespace):
    __hash__ = object.__hash__


def test_a_peer_has_so_many_and_others_theirs() -> None:
    counts = PeerCounts(2)
    first, second, third = (connection_from(SocketAddress("192.0.2.1", port)) for port in (1, 2, 3))
    assert counts.admit(first)
    assert counts.admit(second)
    assert not counts.admit(third)
    assert counts.admit(connection_from(SocketAddress("192.0.2.2", 1)))
    counts.discard(first)
    counts.discard(first)  # it is only counted once
    assert counts.admit(third)
    assert not counts.admit(connection_from(SocketAddress("192.0.2.1", 4)))


@pytest.mark.parametrize("peer", [None, UnixAddress("")])
def test_peers_without_an_address_are_not_counted(peer: object) -> None:
    counts = PeerCounts(1)
    assert all(counts.admit(connection_from(peer)) for _ in range(10))


def test_peers_that_have_gone_take_no_memory() -> None:
    counts = PeerCounts(1)
    for number in range(1000):
        connection = connection_from(SocketAddress(f"10.0.{number // 250}.{number % 250}", 1))
        assert counts.admit(connection)
        counts.discard(connection)
    assert not counts._counts
    assert not counts._peer_of


@given(rate=st.floats(0.1, 1000), steps=st.lists(st.floats(0.001, 10), min_size=1, max_size=50))
def test_never_more_than_the_rate_and_one_burst(rate: float, steps: list[float]) -> None:
    now, came = 0.0, 0
    bucket = TokenBucket(rate, now)
    for step in steps:
        room = bucket.fill(now)
        bucket.take(room)
        came += room
        assert came <= max(rate, 1.0) + now * rate + 1e-6
        assert 0 < bucket.seconds_to_next <= 1 / rate + 1e-9
        now += step
    bucket.fill(now + bucket.seconds_to_next + 1e-9)
    assert bucket.fill(now + 1 / rate + 1e-6) >= 1
