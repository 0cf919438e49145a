"""What a hostile event costs the server, as a multiple of what it costs a bare server in C.

All of it is CPU time of the servers' processes, in turns and in the same run, so that the clock and other
load matter little. The goal is three times; the bounds are wider, because caches are shared with what else
the machine does. They are there for what costs ten or a hundred times too much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from helpers import ENGINES

from .attacker import Attacker, attacking
from .servers import Certificate, Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]

MOST = {"native": 8.0, "portable": 20.0}
"""Times the CPU of the bare server that an event may cost ours, by engine."""

ROUNDS = 2


class Pair:
    """A server of ours and a bare one, plain or over TLS."""

    def __init__(self, engine: str, ours: Server, bare: Server) -> None:
        self.most = MOST[engine]
        self.ours = ours
        self.bare = bare

    def times_bare(self, attack: str, count: int, **options: Any) -> float:
        """How many times the CPU of the bare server an event costs ours; the least of each counts."""
        with (
            attacking(attack, self.ours.port, count=count, **options) as on_ours,
            attacking(attack, self.bare.port, count=count, **options) as on_bare,
        ):
            rounds = [
                [cpu_per_event(self.ours, on_ours), cpu_per_event(self.bare, on_bare)] for _ in range(ROUNDS)
            ]
        ours, bare = (min(costs) for costs in zip(*rounds, strict=True))
        print(f"{attack} {options}: {ours * 1e6:.1f} us, bare {bare * 1e6:.1f} us, {ours / bare:.2f} times")
        return ours / bare


def cpu_per_event(server: Server, attacker: Attacker) -> float:
    """The CPU seconds of the server for each event, or for each that it let happen."""
    server.settle()
    before = server.cpu_seconds()
    done = attacker.attack()
    server.settle()
    return (server.cpu_seconds() - before) / done.events if done.events else math.inf


@pytest.fixture(scope="module", params=ENGINES)
def pairs(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[list[Pair]]:
    """The servers without TLS, and those with it."""
    with ExitStack() as stack:
        yield [
            Pair(
                request.param,
                stack.enter_context(serving(engine=request.param, certificate=each)),
                stack.enter_context(serving("bare", certificate=each)),
            )
            for each in (None, certificate)
        ]


def case(attack: str, count: int, **options: Any) -> Any:
    """The parameters of a test, named by what is done."""
    return pytest.param(attack, count, options, id=str(next(iter(options.values()))))


@pytest.mark.parametrize(
    ("attack", "count", "options"),
    [
        case("strangers", 1000, how="resets"),
        case("strangers", 500, how="bytes"),
        case("deadline_drips", 4000, connections=200, deadline=0.01),
    ],
)
def test_without_tls(pairs: list[Pair], attack: str, count: int, options: dict[str, Any]) -> None:
    plain, _ = pairs
    assert plain.times_bare(attack, count, **options) <= plain.most


@pytest.mark.parametrize(
    ("attack", "count", "options"),
    [
        case("strangers", 200, how="plaintext"),
        *(case("hellos", 50, kind=kind) for kind in ("elliptic", "protocols", "fragments", "ticket")),
        *(
            case("empty_records", 8_000, kind=kind, batches=20)
            for kind in ("key_update", "key_update_requested", "empty", "tiny", "alert")
        ),
    ],
)
def test_over_tls(pairs: list[Pair], attack: str, count: int, options: dict[str, Any]) -> None:
    _, tls = pairs
    more = 2 if options.get("kind") == "fragments" else 1  # a record for each byte is read in Python
    assert tls.times_bare(attack, count, **options) <= more * tls.most


def test_a_hello_for_finite_fields_costs_no_more_than_an_elliptic_one(pairs: list[Pair]) -> None:
    _, tls = pairs
    with (
        attacking("hellos", tls.ours.port, count=10, kind="elliptic") as with_elliptic,
        attacking("hellos", tls.ours.port, count=10, kind="finite_field") as with_finite,
    ):
        elliptic, finite = cpu_per_event(tls.ours, with_elliptic), cpu_per_event(tls.ours, with_finite)
    print(f"{finite * 1e6:.1f} us, elliptic {elliptic * 1e6:.1f} us")
    assert finite <= 3 * elliptic


def test_a_large_certificate_of_a_client_costs_a_few_handshakes(
    engine: str, certificate: Certificate
) -> None:
    options = ("--client-ca", str(certificate.authority), "--client-optional")
    with (
        serving(engine=engine, certificate=certificate, options=options) as server,
        attacking("client_certificates", server.port, count=10, names=1) as with_small,
        attacking("client_certificates", server.port, count=10, names=2500) as with_large,
    ):
        small, large = cpu_per_event(server, with_small), cpu_per_event(server, with_large)
    print(f"{large * 1e6:.1f} us, of one name {small * 1e6:.1f} us")
    assert large <= 10 * small
