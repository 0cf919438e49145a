"""Places, rates and descriptors: strangers that hold or use up theirs do not keep others out."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest

from .attacker import Target, attacking, reset, trusting_all
from .honest import answer, honest, scrape, until
from .servers import Certificate, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]


def test_silent_strangers_do_not_keep_handshakes_from_others(engine: str, certificate: Certificate) -> None:
    options = ["--handshake-timeout", "1000", "--max-handshakes", "100"]
    with (
        serving(engine=engine, certificate=certificate, options=options) as server,
        attacking("strangers", server.port, how="silent", count=200, peers=8) as attacker,
    ):
        attacker.attack()
        server.settle()
        with trusting_all().wrap_socket(honest(server.port), server_hostname="server.example") as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"


def test_connections_that_are_reset_at_once_use_up_no_rate(engine: str) -> None:
    with (
        serving(engine=engine, options=["--accept-rate", "0.1"]) as server,
        attacking("strangers", server.port, how="resets", count=50) as attacker,
    ):
        attacker.attack()
        assert answer(server.port, b"x") == b"x"


def test_silent_strangers_do_not_use_up_the_descriptors_of_a_server_without_options(engine: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with (
        serving(engine=engine, recommended=False, descriptors=(256, hard)) as server,
        attacking("strangers", server.port, how="silent", count=600, peers=100) as attacker,
    ):
        attacker.attack()
        assert answer(server.port, b"x") == b"x"


def test_metrics_are_served_while_all_descriptors_are_used(engine: str) -> None:
    options = ["--on-full", "evict_idle", "--max-connections", "10000", "--metrics", "127.0.0.1:0"]
    with (
        serving(engine=engine, options=options, descriptors=(128, 128)) as server,
        attacking("strangers", server.port, how="silent", count=300) as attacker,
    ):
        attacker.attack()
        server.settle()
        for _ in range(5):
            assert "aionet_connections_accepted_total" in scrape(server)


@pytest.fixture
def dead_target() -> Iterator[int]:
    """A port of which the queue is full, so that a connect waits for as long as it may."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
        yield address[1]


LEAVING = 50


def test_clients_that_reset_while_the_target_is_dialled_hold_nothing(engine: str, dead_target: int) -> None:
    with serving("relay", engine=engine, options=[f"127.0.0.1:{dead_target}", "--timeout", "1000"]) as server:
        server.settle()
        empty = server.descriptors()
        target = Target(server.port)
        leaving = [target.connect() for _ in range(LEAVING)]
        until(lambda: server.descriptors() >= empty + 2 * LEAVING)
        for sock in leaving:
            reset(sock)
        until(lambda: server.descriptors() <= empty + 2)
