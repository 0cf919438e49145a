"""Addresses to connect to: one that answers, one that never does, one that refuses."""

from __future__ import annotations

import contextlib
import socket

import pytest
from peers import RawListener


@pytest.fixture
def listener():
    with RawListener() as listener:
        yield listener


@pytest.fixture
def deaf():
    """The address of a listener whose queue is full: it never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.2", 0))
        listening.listen(0)
        address = listening.getsockname()
        with contextlib.ExitStack() as waiting:
            for _ in range(4):
                sock = waiting.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(address)
            yield address


@pytest.fixture
def refused():
    """An address at which nobody listens."""
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        yield placeholder.getsockname()
