"""A full table that newcomers turn over: a client that is active keeps its place."""

from __future__ import annotations

import contextlib

import pytest

from .attacker import Target
from .honest import honest
from .servers import serving
from .table_turning import attack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]


SLOTS, BETWEEN_PINGS = 240, 10
"""So that a place lasts much longer than the kernel's clock, which counts idle times, takes for a tick."""


def test_an_honest_client_is_not_evicted_by_newcomers_that_are_silent(engine: str) -> None:
    options = ["--max-connections", str(SLOTS), "--on-full", "evict_idle"]
    with (
        serving(engine=engine, options=options) as server,
        honest(server.port) as sock,
        contextlib.closing(attack(Target(server.port), slots=SLOTS - 1)) as newcomers,
    ):
        for _ in range(5 * SLOTS // BETWEEN_PINGS):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            for _ in range(BETWEEN_PINGS):
                next(newcomers)
