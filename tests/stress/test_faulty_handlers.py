"""A thousand handlers that raise, are cancelled or hang: each is told of once, and nothing is left."""

from __future__ import annotations

from collections import Counter

import pytest

from .raw_clients import RawClients, answers
from .server_under_test import ServerUnderTest, wait_until

FAULTY = 1_000
TIMEOUT = 1.0
WAYS = {b"r": "FAILED", b"c": "CANCELLED", b"h": "HANDLER_TIMEOUT"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]


def test_faulty_handlers(engine: str) -> None:
    with (
        ServerUnderTest("faulty", engine=engine, records=True, handler_timeout=TIMEOUT) as server,
        RawClients(server.port) as clients,
    ):
        assert answers(clients.connect_one(b"e"))
        wait_until(lambda: len(server.records()) == 1)
        descriptors = server.watch.descriptors()

        expected = {}
        for number in range(FAULTY):
            way = list(WAYS)[number % len(WAYS)]
            expected[clients.connect_one(way).getsockname()[1]] = WAYS[way]
        assert answers(clients.connect_one(b"e"))

        wait_until(lambda: server.stats()["active"] == 0)
        records = server.records()
        print(Counter(record["cause"] for record in records))
        assert len(records) == len({record["id"] for record in records}) == FAULTY + 2
        causes = {record["port"]: record["cause"] for record in records}
        assert {port: causes[port] for port in expected} == expected
        hung = [record["age"] for record in records if record["cause"] == "HANDLER_TIMEOUT"]
        assert min(hung) >= TIMEOUT
        assert server.watch.descriptors() == descriptors
        assert answers(clients.connect_one(b"e"))
