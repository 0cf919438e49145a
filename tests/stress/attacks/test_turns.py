"""No turn of the loop is long, however many connections end in it or whatever they send."""

from __future__ import annotations

import pytest

from .attacker import attacking
from .honest import answer, until
from .servers import Certificate, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]


CROWD = 9900
MOST = {"native": 0.02, "portable": 0.04}
"""CPU seconds. The goal is 10 ms; the clock of a thread runs on while others empty its caches."""


def longest_turn(port: int, *, tls: bool = False) -> float:
    """The CPU seconds of the longest turn since the last question."""
    return int(answer(port, b"?", tls=tls)) / 1e6


@pytest.mark.parametrize("how", ["expire", "leave", "are drained"])
def test_many_that_end_together_do_not_stop_the_loop(engine: str, how: str) -> None:
    options = ["--idle-timeout", "2" if how == "expire" else "60", "--drain-grace", "0.5"]
    with serving(engine=engine, handler="echo_and_turns", options=options) as server:
        empty = server.descriptors()
        with attacking("crowds", server.port, crowd=CROWD) as attacker:
            longest_turn(server.port)
            attacker.attack()
            assert server.descriptors() >= CROWD
            longest_turn(server.port)
            if how == "expire":
                until(lambda: server.descriptors() <= empty + 1)
            elif how == "are drained":
                server.terminate()
                while "longest_turn" not in (event := server.next_event()):
                    pass
        if how != "are drained":
            until(lambda: server.descriptors() <= empty + 1)
        longest = event["longest_turn"] if how == "are drained" else longest_turn(server.port)
    print(f"{longest * 1e3:.1f} ms")
    assert longest < MOST[engine]


@pytest.mark.parametrize("kind", ["key_update", "key_update_requested", "empty", "tiny", "renegotiation"])
def test_records_with_little_in_them_do_not_stop_the_loop(
    engine: str, kind: str, certificate: Certificate
) -> None:
    with (
        serving(engine=engine, handler="echo_and_turns", certificate=certificate) as server,
        attacking("empty_records", server.port, kind=kind, batches=20) as attacker,
    ):
        longest_turn(server.port, tls=True)
        attacker.attack()
        longest = max(longest_turn(server.port, tls=True) for _ in range(10))
    print(f"{longest * 1e3:.1f} ms")
    assert longest < MOST[engine]
