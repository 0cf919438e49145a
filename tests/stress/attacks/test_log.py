"""What strangers cause is counted exactly, and logged within bounds."""

from __future__ import annotations

import re

import pytest

from .attacker import attacking
from .honest import scrape
from .servers import Certificate, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]


FLOOD = 2000


@pytest.mark.parametrize("how", ["plaintext", "resets"])
def test_a_flood_of_failures_leaves_few_lines_and_exact_counters(
    engine: str, how: str, certificate: Certificate
) -> None:
    options = ["--metrics", "127.0.0.1:0"]
    with (
        serving(engine=engine, certificate=certificate, options=options) as server,
        attacking("strangers", server.port, how=how, count=FLOOD) as attacker,
    ):
        before = server.log_bytes()
        attacker.attack()
        server.settle()
        written = server.log_bytes() - before
        counted = scrape(server)
    print(f"{written / FLOOD:.1f} bytes of log for each")
    assert written / FLOOD < 20
    failures = re.findall(r"^aionet_tls_handshake_failures_total{.*} (.*)$", counted, re.MULTILINE)
    assert sum(map(float, failures)) == FLOOD
