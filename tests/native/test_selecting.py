"""`EpollSelector.select` waits, and tells of events, as the standard library's selectors do."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import time

import pytest

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def test_it_is_level_triggered(selector, pair):
    ours, theirs = pair
    key = selector.register(ours, READ)
    theirs.send(b"x")
    for _ in range(3):
        assert selector.select(1) == [(key, READ)]
    ours.recv(1)
    assert selector.select(0) == []


def test_the_end_and_errors_tell_whoever_asked_for_anything(selector, pair):
    ours, theirs = pair
    key = selector.register(ours, WRITE)
    theirs.close()
    assert selector.select(1) == [(key, WRITE)]
    selector.unregister(ours)
    key = selector.register(ours, READ)
    assert selector.select(1) == [(key, READ)]


@pytest.mark.parametrize("timeout", [0, -1, 0.0, -0.5])
def test_timeouts_that_do_not_wait(selector, pair, timeout):
    selector.register(pair[0], READ)
    assert selector.select(timeout) == []


def test_a_timeout_is_a_number(selector):
    with pytest.raises(ValueError):
        selector.select(float("nan"))


@pytest.mark.parametrize("timeout", [0.0001, 0.02])
def test_timeouts_are_not_cut_short(selector, pair, timeout):
    selector.register(pair[0], READ)
    before = time.monotonic()
    assert selector.select(timeout) == []
    assert time.monotonic() - before >= timeout


def test_no_timeout_waits_for_an_event(selector, pair):
    ours, theirs = pair
    key = selector.register(ours, READ)
    timer = threading.Timer(0.02, theirs.send, [b"x"])
    timer.start()
    assert selector.select(None) == [(key, READ)]
    timer.join()


@pytest.mark.parametrize("timeout", ["text", [], 1j])
def test_nonsense_timeouts(selector, timeout):
    with pytest.raises(TypeError):
        selector.select(timeout)


def test_nothing_registered(selector):
    before = time.monotonic()
    assert selector.select(0.01) == []
    assert time.monotonic() - before >= 0.009  # the kernel's clock is a little coarser


def test_many_are_told_within_a_few_selects(selector):
    with contextlib.ExitStack() as stack:
        keys = set()
        for _ in range(300):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            keys.add(selector.register(ours, READ))
            theirs.send(b"x")
        told = set()
        for _ in range(300):
            told.update(key for key, _ in selector.select(1))
        assert told == keys
        for key in keys:
            selector.unregister(key.fileobj)


@pytest.mark.parametrize("raises", [False, True])
def test_signals_interrupt_a_select(selector, raises):
    def handler(*_):
        seen.append("signal")
        if raises:
            raise KeyError("of the handler")

    seen = []
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(KeyError) if raises else contextlib.nullcontext():
            assert selector.select(0.3) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen == ["signal"]


def test_closing(selector, pair):
    selector.register(pair[0], READ)
    number = selector.fileno()
    selector.close()
    with pytest.raises(OSError):
        os.fstat(number)
    selector.close()
    for use in (lambda: selector.get_key(pair[0]), lambda: selector.unregister(pair[0])):
        with pytest.raises((RuntimeError, KeyError)):
            use()
    with pytest.raises((ValueError, OSError)):
        selector.register(pair[0], READ)
    with pytest.raises((ValueError, OSError)):
        selector.select(0)
