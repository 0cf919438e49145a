"""A byte just before each deadline holds no connection beyond a deadline for something whole."""

from __future__ import annotations

import pytest

from .attacker import attacking
from .honest import until
from .servers import Certificate, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]


@pytest.mark.parametrize(
    ("what", "handler", "options"),
    [
        ("handshake", "echo", ["--handshake-timeout", "1"]),
        ("read", "lines", ["--read-stall-timeout", "1"]),
        ("handler", "echo", ["--handler-timeout", "1"]),
    ],
)
def test_a_byte_before_each_deadline_does_not_hold_a_connection(
    engine: str, what: str, handler: str, options: list[str], certificate: Certificate
) -> None:
    tls = certificate if what == "handshake" else None
    with (
        serving(engine=engine, handler=handler, options=options, certificate=tls) as server,
        attacking(
            "deadline_drips", server.port, connections=50, deadline=0.5, header=tls is not None, seconds=30
        ) as attacker,
    ):
        done = attacker.attack()  # it ends when all are cut
        until(lambda: server.descriptors() < 30)
    print(f"held for {done.seconds:.1f} s, with {done.events / 50:.1f} bytes each")
    assert done.seconds < 30
