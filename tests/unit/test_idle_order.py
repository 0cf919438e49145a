"""Which connection is evicted, against a model that looks at all of them; and how many looks that takes."""

from __future__ import annotations

import heapq
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aionet import SocketAddress
from aionet.limiting.idle_order import IdleOrder

MOST_LOOKS = 128


class Table:
    """Connections that move bytes without anything being noted, and an order of them."""

    def __init__(self) -> None:
        self.order = IdleOrder()
        self.now = 0.0
        self.moved_at: dict[Any, float] = {}
        self.known: dict[Any, float] = {}
        self.looks = 0

    def add(self, host: str) -> Any:
        connection: Any = SimpleHashable(
            socket=SimpleNamespace(peer_address=SocketAddress(host, 1)), _cause=None
        )
        self.moved_at[connection] = self.known[connection] = self.now
        self.order.add(connection, self.now)
        return connection

    def move(self, connection: Any) -> None:
        self.moved_at[connection] = self.now

    def end(self, connection: Any) -> None:
        self.order.discard(connection)
        del self.moved_at[connection], self.known[connection]

    def look(self, connection: Any) -> None:
        self.looks += 1
        if self.known[connection] != self.moved_at[connection]:
            self.known[connection] = self.moved_at[connection]
            self.order.update(connection, self.moved_at[connection])

    def pick(self) -> Any:
        self.looks = 0
        return self.order.pick(self.now, self.look)

    def product(self, connection: Any) -> float:
        host = connection.socket.peer_address.host
        number = sum(other.socket.peer_address.host == host for other in self.moved_at)
        return (self.now - self.moved_at[connection]) * number


class SimpleHashable(SimpleNamespace):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "move", "end", "pick"]), st.integers(0, 30), st.floats(0, 5)
        ),
        max_size=60,
    )
)
def test_the_largest_product_goes(steps: list[tuple[str, int, float]]) -> None:
    table = Table()
    for what, number, seconds in steps:
        table.now += seconds
        connections = list(table.moved_at)
        if what == "add":
            table.add(f"10.0.0.{number % 4}")
        elif connections and what == "pick":
            largest = max(table.product(connection) for connection in connections)
            picked = table.pick()
            assert table.product(picked) == pytest.approx(largest)
            table.end(picked)
        elif connections:
            getattr(table, what)(connections[number % len(connections)])
    while table.moved_at:
        table.end(table.pick())
    assert table.pick() is None
    assert not table.order._peers
    assert not table.order._holding


def test_those_that_are_ending_are_passed_over() -> None:
    table = Table()
    ending, other = table.add("10.0.0.1"), table.add("10.0.0.1")
    ending._cause = "idle"
    table.now = 1.0
    assert table.pick() is other
    assert table.pick() is None


def test_peers_of_one_network_are_one() -> None:
    table = Table()
    one = table.add("2001:db8::1")
    table.now = 1.0
    many = [table.add(f"2001:db8:1:1::{number:x}") for number in range(1, 5)]
    table.now = 2.0
    assert [table.pick() for _ in range(2)] == many[:2]  # idle half as long as the one, but four and three
    assert one in table.moved_at


def test_a_proxy_says_who_the_peer_is() -> None:
    table = Table()
    through_proxy = [table.add("10.0.0.1") for _ in range(3)]
    table.now = 1.0
    direct = table.add("10.0.0.2")
    for number, connection in enumerate(through_proxy[1:]):
        connection.socket.peer_address = SocketAddress(f"10.1.0.{number}", 1)
        table.order.move(connection)
    table.now = 2.0
    assert {table.pick() for _ in range(3)} == set(through_proxy)
    assert table.pick() is direct


def test_evicting_one_of_ten_thousand_takes_one_look_where_nothing_moves() -> None:
    table = Table()
    for number in range(10_000):
        table.now += 0.001
        table.add(f"10.0.{number % 100}.{number % 7}")
    looks = 0
    for _ in range(1000):
        table.end(table.pick())
        looks += table.looks
    assert looks == 1000


def test_looks_are_bounded_where_everything_moves() -> None:
    table = Table()
    generator = random.Random(1)
    for number in range(10_000):
        table.add(f"10.0.{number // 250}.{number % 250}")
    messages = looks = 0
    evictions = 300
    for _ in range(evictions):
        table.now += 0.01
        for connection in generator.sample(list(table.moved_at), 100):
            table.move(connection)
            messages += 1
        picked = table.pick()
        assert table.looks <= MOST_LOOKS
        looks += table.looks
        table.end(picked)
        table.add("10.1.0.1")
    assert looks <= evictions + messages


def test_connections_that_come_and_go_take_no_memory() -> None:
    table = Table()
    staying = table.add("10.0.0.1")
    for _ in range(10_000):
        table.end(table.add("10.0.0.1"))
    (peer,) = table.order._peers.values()
    heaps = [peer.connections, *table.order._holding.values()]
    assert max(len(heap._heap) for heap in heaps) <= 40
    assert table.pick() is staying


def test_no_end_pays_for_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those between the first and the last one of a peer end, and then the first one."""
    steps = 0

    def counted(heap: list[Any]) -> Any:
        nonlocal steps
        steps += 1
        return heapq.heappop(heap)

    monkeypatch.setattr("aionet.limiting.idle_order.heappop", counted)
    table = Table()
    first, *others, _ = [table.add("10.0.0.1") for _ in range(5000)]
    for connection in others:
        table.end(connection)
    steps = 0
    table.end(first)
    assert steps < 100
