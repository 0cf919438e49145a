"""Both reactors tell of what is there, once, and leave nothing with the loop."""

from __future__ import annotations

import asyncio
import socket

import pytest
from helpers import give_turns, open_descriptors, until

from aionet.wires.reactor import HANGUP, PEER_ENDED, READABLE, WRITABLE, CallbackReactor, EpollReactor

pytestmark = pytest.mark.asyncio


class Recorder:
    def __init__(self):
        self.events = []

    def on_events(self, events):
        self.events.append(events)

    def saw(self, event):
        return any(events & event for events in self.events)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


both = pytest.mark.parametrize("make_reactor", [EpollReactor, CallbackReactor])


@both
async def test_it_tells_of_input_that_was_there_before(make_reactor, pair):
    reactor = make_reactor(asyncio.get_running_loop())
    ours, theirs = pair
    theirs.send(b"x")
    watcher = Recorder()
    reactor.watch(ours.fileno(), watcher)
    reactor.arm_reads(ours.fileno())
    await until(lambda: watcher.saw(READABLE))
    reactor.forget(ours.fileno(), watcher)


@both
async def test_it_tells_of_room(make_reactor, pair):
    reactor = make_reactor(asyncio.get_running_loop())
    ours, theirs = pair
    while True:
        try:
            ours.send(bytes(65536))
        except BlockingIOError:
            break
    watcher = Recorder()
    reactor.watch(ours.fileno(), watcher)
    reactor.arm_writes(ours.fileno())
    await give_turns()
    assert not watcher.saw(WRITABLE)
    theirs.setblocking(False)
    while True:
        try:
            theirs.recv(1 << 20)
        except BlockingIOError:
            break
    await until(lambda: watcher.saw(WRITABLE))
    reactor.forget(ours.fileno(), watcher)


@both
async def test_it_does_not_repeat_itself(make_reactor, pair):
    reactor = make_reactor(asyncio.get_running_loop())
    ours, theirs = pair
    watcher = Recorder()
    reactor.watch(ours.fileno(), watcher)
    reactor.arm_reads(ours.fileno())
    theirs.send(b"unread")
    await until(lambda: watcher.saw(READABLE))
    told = len(watcher.events)
    await give_turns(20)
    assert len(watcher.events) == told
    reactor.forget(ours.fileno(), watcher)


@both
async def test_what_is_forgotten_is_not_told_of_any_more(make_reactor, pair):
    reactor = make_reactor(asyncio.get_running_loop())
    ours, theirs = pair
    watcher = Recorder()
    reactor.watch(ours.fileno(), watcher)
    reactor.arm_reads(ours.fileno())
    await give_turns()
    watcher.events.clear()
    theirs.send(b"x")
    reactor.forget(ours.fileno(), watcher)
    await give_turns(20)
    assert watcher.events == []


@both
async def test_without_descriptors_it_holds_none_of_its_own(make_reactor, pair):
    reactor = make_reactor(asyncio.get_running_loop())
    before = open_descriptors()
    watchers = {sock.fileno(): Recorder() for sock in pair}
    for number, watcher in watchers.items():
        reactor.watch(number, watcher)
    for number, watcher in watchers.items():
        reactor.forget(number, watcher)
    assert open_descriptors() == before


async def test_a_descriptor_that_cannot_be_watched_leaves_nothing_behind(tmp_path):
    reactor = EpollReactor(asyncio.get_running_loop())
    before = open_descriptors()
    with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
        reactor.watch(file.fileno(), Recorder())
    assert open_descriptors() == before


async def test_epoll_tells_endings_apart_from_input(pair):
    ours, theirs = pair
    reactor = EpollReactor(asyncio.get_running_loop())
    watcher = Recorder()
    reactor.watch(ours.fileno(), watcher)
    theirs.shutdown(socket.SHUT_WR)
    await until(lambda: watcher.saw(PEER_ENDED))
    assert not watcher.saw(HANGUP)
    theirs.close()
    await until(lambda: watcher.saw(HANGUP))
    reactor.forget(ours.fileno(), watcher)
