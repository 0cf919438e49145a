"""What strangers can have a server hold: within the limits, and only as long as they use it."""

from __future__ import annotations

import pytest

from .attacker import attacking
from .honest import until
from .servers import Certificate, serving

MIB = 1 << 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]


CAP = 16 * MIB
STALLED = 1000


def test_what_stalled_clients_have_held_stays_within_the_limit(engine: str) -> None:
    """Over TLS: stress/test_memory_of_connections.py."""
    options = ["--max-pending-bytes", str(CAP)]
    with (
        serving(engine=engine, options=options) as server,
        attacking("stalled_echoes", server.port, clients=STALLED, tls=False) as attacker,
    ):
        server.settle()
        before = server.forget_peak()
        done = attacker.attack()
        grown = server.peak_bytes() - before
        print(f"{grown / MIB:.1f} MiB at the most for {done.bytes / MIB:.1f} MiB that were sent")
        assert grown <= 1.2 * CAP


RESTING = 400


def test_a_tls_connection_at_rest_is_small_after_a_large_exchange(
    engine: str, certificate: Certificate
) -> None:
    with (
        serving(engine=engine, certificate=certificate) as server,
        attacking("fat_connections", server.port, count=RESTING) as attacker,
    ):
        before = server.private_bytes()
        attacker.attack()
        until(lambda: server.private_bytes() - before <= RESTING * 30_000)


SHUT = 500


def test_a_shut_window_holds_no_more_than_the_limit_and_ends(engine: str) -> None:
    options = ["--write-stall-timeout", "2", "--max-pending-bytes", str(CAP)]
    with serving(engine=engine, handler="source_or_echo", options=options) as server:
        server.settle()  # now it has all the descriptors of its own
        empty = server.descriptors()
        with attacking("zero_windows", server.port, connections=SHUT, segment=1000) as attacker:
            until(lambda: server.descriptors() >= empty + SHUT)
            before = server.forget_peak()
            attacker.attack()
            until(lambda: server.descriptors() <= empty)
            grown = server.peak_bytes() - before
    print(f"{grown / MIB:.1f} MiB at the most")
    assert grown <= 1.2 * CAP
