"""Whose handshake may begin, and whose ends for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aionet.handshake_places import MIN_AGE, HandshakePlaces


def begun_by(places: HandshakePlaces[int], peer: object, wanted: int, now: float = 0.0) -> int:
    """Let `peer` begin up to `wanted`; return how many it could."""
    begun = 0
    while begun < wanted and not places.full and places.allows(peer):
        places.begin(len(places), peer, now)
        begun += 1
    return begun


@pytest.mark.parametrize(("peers", "free"), [(1, 667), (38, 50), (100, 19)])
def test_a_few_peers_leave_places_free(peers: int, free: int) -> None:
    places: HandshakePlaces[int] = HandshakePlaces(1000)
    while sum(begun_by(places, peer, 1) for peer in range(peers)):
        pass
    assert 1000 - len(places) == pytest.approx(free, abs=peers)
    assert places.allows("an honest one")


@pytest.mark.parametrize(("most", "begun"), [(None, 500), (1000, 333), (8, 8), (3, 3)])
def test_the_share_of_one_peer(most: int | None, begun: int) -> None:
    assert begun_by(HandshakePlaces(most), "peer", 500) == begun


@pytest.mark.parametrize("most", [None, 10])
def test_a_number_takes_the_place_of_the_share(most: int | None) -> None:
    places: HandshakePlaces[int] = HandshakePlaces(most, 3)
    assert [begun_by(places, peer, 5) for peer in range(3)] == [3, 3, 3]


def test_the_oldest_of_the_peer_with_the_most_gives_way_in_time() -> None:
    places: HandshakePlaces[str] = HandshakePlaces(3)
    places.begin("early", "honest", 0.0)
    assert places.gives_way() is None
    places.begin("first", "greedy", 10.0)
    assert places.seconds_to_next(10.0) == 0.0
    places.begin("second", "greedy", 10.5)
    assert places.seconds_to_next(10.5) == pytest.approx(MIN_AGE - 0.5)
    assert places.seconds_to_next(11.0) == 0.0
    assert places.gives_way() == "first"
    assert places.end("first")
    assert not places.end("first")
    places.begin("newcomer", "another", 11.0)
    assert places.gives_way() == "early"


def test_a_handshake_whose_peer_becomes_known_has_time_from_then_on() -> None:
    places: HandshakePlaces[str] = HandshakePlaces(2)
    places.begin("one", "a peer of its own", 1.0)
    places.begin("two", "another", 2.0)
    places.rename("two", "client", 3.0)
    places.rename("one", "client", 4.0)
    places.rename("not in progress", "client", 4.0)
    assert len(places) == 2
    assert places.gives_way() == "two"
    assert places.seconds_to_next(3.5) == pytest.approx(MIN_AGE - 0.5)


@given(st.lists(st.integers(0, 5), max_size=200), st.integers(1, 20))
def test_there_are_never_more_than_there_may_be(peers: list[int], most: int) -> None:
    places: HandshakePlaces[int] = HandshakePlaces(most)
    for number, peer in enumerate(peers):
        now = number * MIN_AGE
        if places.seconds_to_next(now) or not places.allows(peer):
            continue
        loser = places.gives_way()
        if loser is not None:
            places.end(loser)
        places.begin(number, peer, now)
        assert len(places) <= most
