"""`EpollSelector` keeps the contract of `selectors.BaseSelector`; side by side with the standard one."""

from __future__ import annotations

import selectors
import socket

import pytest
from forking import in_child

from .support import make_selector

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def test_it_is_a_selector():
    with make_selector() as selector:
        assert isinstance(selector, selectors.BaseSelector)
        assert selector.fileno() >= 0


def test_registering_by_object_and_by_number(selector, pair):
    ours, theirs = pair
    key = selector.register(ours, READ, "data")
    assert key == selectors.SelectorKey(ours, ours.fileno(), READ, "data")
    number = selector.register(theirs.fileno(), READ | WRITE)
    assert number == selectors.SelectorKey(theirs.fileno(), theirs.fileno(), READ | WRITE, None)
    assert selector.get_key(ours) == selector.get_key(ours.fileno()) == key
    assert selector.get_key(theirs) == number
    assert selector.unregister(ours.fileno()) == key
    assert selector.unregister(theirs) == number


def test_the_map(selector, pair):
    ours, theirs = pair
    assert len(selector.get_map()) == 0
    key = selector.register(ours, READ)
    mapping = selector.get_map()
    assert len(mapping) == 1
    assert ours.fileno() in mapping
    assert theirs.fileno() not in mapping
    assert list(mapping) == [ours.fileno()]
    assert mapping[ours.fileno()] == key
    selector.unregister(ours)
    assert len(mapping) == 0


def test_the_map_knows_file_objects(selector, pair):
    ours, theirs = pair
    key = selector.register(ours, READ)
    mapping = selector.get_map()
    assert mapping[ours] == key
    assert ours in mapping
    assert theirs not in mapping
    with pytest.raises(KeyError):
        mapping[theirs]


def test_the_map_cannot_be_written_to(selector, pair):
    with pytest.raises(TypeError):
        selector.get_map()[0] = None


@pytest.mark.parametrize("events", [0, 4, -1, READ | WRITE | 4])
def test_events_that_there_are_not(selector, pair, events):
    with pytest.raises(ValueError):
        selector.register(pair[0], events)
    assert len(selector.get_map()) == 0


@pytest.mark.parametrize("wrong", [-1, "text", None, 1.5, [1]], ids=repr)
def test_what_is_no_descriptor(selector, wrong):
    with pytest.raises(ValueError):
        selector.register(wrong, READ)


def test_registering_twice(selector, pair):
    selector.register(pair[0], READ)
    for again in (pair[0], pair[0].fileno()):
        with pytest.raises(KeyError):
            selector.register(again, WRITE)


def test_what_is_not_registered(selector, pair):
    for unknown in (pair[0], pair[0].fileno()):
        with pytest.raises(KeyError):
            selector.unregister(unknown)
        with pytest.raises(KeyError):
            selector.modify(unknown, READ)
        with pytest.raises(KeyError):
            selector.get_key(unknown)


def test_closed_descriptors_cannot_be_registered(selector):
    ours, theirs = socket.socketpair()
    number = ours.fileno()
    ours.close()
    theirs.close()
    with pytest.raises(ValueError):
        selector.register(ours, READ)
    with pytest.raises(OSError):
        selector.register(number, READ)
    assert len(selector.get_map()) == 0


def test_what_epoll_does_not_take_is_not_registered(selector, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        with pytest.raises(PermissionError):
            selector.register(file, WRITE)
        assert len(selector.get_map()) == 0


def test_closed_meanwhile_it_can_still_be_unregistered(selector):
    ours, theirs = socket.socketpair()
    key = selector.register(ours, READ)
    ours.close()
    theirs.close()
    assert selector.get_key(ours) == key
    assert selector.select(0) == []
    assert selector.unregister(ours) == key
    with pytest.raises((KeyError, ValueError)):
        selector.unregister(ours)


def test_modifying(selector, pair):
    ours, theirs = pair
    selector.register(ours, READ, 1)
    assert selector.select(0) == []
    assert selector.modify(ours, WRITE, 2) == selectors.SelectorKey(ours, ours.fileno(), WRITE, 2)
    assert selector.select(0) == [(selector.get_key(ours), WRITE)]
    assert selector.modify(ours, READ | WRITE, 3).data == 3
    theirs.send(b"x")
    assert selector.select(1) == [(selector.get_key(ours), READ | WRITE)]
    assert selector.modify(ours, READ | WRITE, 4).data == 4
    assert selector.select(1) == [(selector.get_key(ours), READ | WRITE)]


@pytest.mark.parametrize("events", [0, 4])
def test_modifying_to_events_that_there_are_not(selector, pair, events):
    selector.register(pair[0], READ)
    try:
        selector.modify(pair[0], events)
    except ValueError:
        pass
    else:  # the standard library lets it pass; whichever: nothing may be told that was not asked for
        assert selector.select(0) == []


def test_modifying_what_was_closed(selector):
    ours, theirs = socket.socketpair()
    selector.register(ours, READ)
    ours.close()
    theirs.close()
    with pytest.raises(OSError):
        selector.modify(ours, WRITE)


def test_a_forked_child_hears_only_of_what_it_has_registered(pair):
    ours, theirs = pair
    with make_selector() as selector:
        selector.register(ours, READ)
        theirs.send(b"for the parent")

        async def select():
            assert selector.select(0) == []
            assert selector.select(None) == []  # for its loop to look
            one, other = socket.socketpair()
            with one, other:
                key = selector.register(one, READ | WRITE)
                other.send(b"for the child")
                assert selector.select(0) == [(key, READ | WRITE)]
                selector.modify(one, READ)
                assert selector.select(None) == [(selector.get_key(one), READ)]
                selector.unregister(one)
            selector.unregister(ours)

        in_child(select)
        assert selector.select(0) == [(selector.get_key(ours), READ)]
