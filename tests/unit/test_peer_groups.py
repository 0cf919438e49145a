"""What is one peer, and how many members each has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aionet.addresses import SocketAddress, UnixAddress
from aionet.peers import PeerGroups, peer_of


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%1", "fe80::2%1", True),
    ],
)
def test_which_addresses_are_one_peer(one: str, other: str, same: bool) -> None:
    assert (peer_of(SocketAddress(one, 1)) == peer_of(SocketAddress(other, 2))) is same


@pytest.mark.parametrize("address", [None, UnixAddress("/run/client"), SocketAddress("a.example", 1)])
def test_what_has_no_ip_address_is_no_peer(address: object) -> None:
    assert peer_of(address) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=100))
def test_the_oldest_of_the_peer_with_the_most(steps: list[tuple[int, int]]) -> None:
    groups: PeerGroups[int] = PeerGroups()
    model: dict[int, tuple[int, int]] = {}  # a member's peer, and since when
    for now, (peer, member) in enumerate(steps):
        if member in model:
            assert groups.discard(member)
            del model[member]
        else:
            groups.add(member, peer, now)
            model[member] = peer, now
        sizes = [sum(of == peer for of, _ in model.values()) for peer in range(4)]
        assert [groups.size(peer) for peer in range(4)] == sizes
        assert len(groups) == len(model)
        found = groups.oldest_of_largest()
        if found is None:
            assert not model
            continue
        peer, since = model[found[0]]
        assert since == found[1] == min(since for of, since in model.values() if of == peer)
        assert sizes[peer] == max(sizes)
    for member in list(model):
        groups.discard(member)
    assert not groups.discard(99)
    assert not groups._members
    assert not groups._by_size
