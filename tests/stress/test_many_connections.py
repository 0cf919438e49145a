"""Very many connections: idle, killed from outside, one after the other."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest
from helpers import require_program

from .raw_clients import RawClients, answers
from .server_under_test import ServerUnderTest, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("most_descriptors")]


# Idle ---------------------------------------------------------------------------------------------------

IDLE = 10_000
BESIDE = 200  # descriptors that each process has for other things
WARM_UP = 200
WATCHED = 10.0  # seconds
MOST_BYTES = 2_500  # of private memory for each connection


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("limits", "most_cpu", "most_bytes"),
    [({}, 0.01, MOST_BYTES), ({"idle_timeout": 60.0}, 0.02, MOST_BYTES * 1.25)],
    ids=["no limits", "idle_timeout"],
)
def test_idle_connections_cost_next_to_nothing(
    engine: str, limits: dict[str, float], most_cpu: float, most_bytes: float, most_descriptors: int
) -> None:
    count = min(IDLE, most_descriptors - BESIDE - WARM_UP)
    with ServerUnderTest(engine=engine, **limits) as server, RawClients(server.port) as clients:
        assert all(map(answers, clients.connect(WARM_UP)))
        before = server.watch.private_bytes()
        assert all(map(answers, clients.connect(count)))
        size = (server.watch.private_bytes() - before) / count
        cpu = server.watch.cpu_share(WATCHED)
        print(f"{count} idle connections, {limits or 'no limits'}: CPU {cpu:.2%}, {size:.0f} bytes each")
        assert cpu < most_cpu
        assert size <= most_bytes or engine != "native"
        assert server.stats()["active"] == count + WARM_UP


# Killed -------------------------------------------------------------------------------------------------


def kill(ends: list[tuple[int, int]]) -> None:
    """Kill the sockets with these pairs of ports, their own and the other end's, as the superuser can."""
    wanted = " or ".join(f"( sport = :{own} and dport = :{other} )" for own, other in ends)
    command = [require_program("ss"), "-H", "-K", "-t", "-n", f"( {wanted} )"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def require_killing() -> None:
    """Skip the test where the kernel does not let us kill sockets."""
    if os.geteuid() != 0:
        pytest.skip("only the superuser may kill sockets")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as victim,
    ):
        victim.settimeout(0.5)
        kill([(victim.getsockname()[1], listener.getsockname()[1])])
        try:
            victim.recv(1)
        except ConnectionError:
            return
        except TimeoutError:
            pass
    pytest.skip("this kernel does not kill sockets (CONFIG_INET_DIAG_DESTROY)")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("whose", ["server's", "client's"])
def test_killed_connections_end_alone(engine: str, whose: str) -> None:
    require_killing()
    with ServerUnderTest(engine=engine, records=True) as server, RawClients(server.port) as clients:
        all_of_them = clients.connect(1_000)
        assert all(map(answers, all_of_them))
        victims, others = all_of_them[::10], [sock for n, sock in enumerate(all_of_them) if n % 10]
        ports = {sock.getsockname()[1] for sock in victims}
        now = server.ask("now")["at"]
        kill([(server.port, port) if whose == "server's" else (port, server.port) for port in ports])
        wait_until(lambda: len(server.records()) >= len(victims))
        assert all(map(answers, others))
        records = server.records()
        seconds = max(record["at"] for record in records) - now
        print(f"{len(records)} ended within {seconds:.3f} s, ss included")
        assert {record["port"] for record in records} == ports
        assert len(records) == len(victims)
        assert {record["cause"] for record in records} == {"PEER_LOST"}
        assert seconds < 5.0  # one, on a machine that has nothing else to do
        assert server.stats()["active"] == len(others)


# One after the other ------------------------------------------------------------------------------------

SHORT_LIVES = int(os.environ.get("AIONET_SHORT_LIVES", "20000"))
SAMPLES = 40
WARM_UP_SAMPLES = SAMPLES // 4
AT_A_TIME = 20
MOST_GROWTH = 16.0  # bytes of private memory for each connection that has ended


def live(port: int, count: int) -> None:
    """Connect, have a byte echoed, and close: one in four in good order, the others with a reset."""
    for _ in range(count // AT_A_TIME):
        with RawClients(port) as clients:
            batch = clients.connect(AT_A_TIME, b"x")
            assert [sock.recv(1) for sock in batch] == [b"x"] * AT_A_TIME
            for sock in batch[::4]:
                sock.close()


def slope(values: list[int]) -> float:
    """By how much `values` grow from one to the next: the least squares fit."""
    middle = (len(values) - 1) / 2
    deviations = [(number - middle, value) for number, value in enumerate(values)]
    return sum(x * y for x, y in deviations) / sum(x * x for x, _ in deviations)


@pytest.mark.timeout(60 + SHORT_LIVES / 500)
def test_short_lives_leave_nothing(engine: str) -> None:
    with ServerUnderTest(engine=engine) as server:
        live(server.port, AT_A_TIME)
        wait_until(lambda: server.stats()["active"] == 0)
        descriptors = server.watch.descriptors()
        sizes = []
        for _ in range(SAMPLES):
            live(server.port, SHORT_LIVES // SAMPLES)
            sizes.append(server.watch.private_bytes())
        growth = slope(sizes[WARM_UP_SAMPLES:]) / (SHORT_LIVES // SAMPLES)
        print(f"{SHORT_LIVES} connections: {growth:.2f} bytes each, {sizes[0]} to {sizes[-1]} in all")
        wait_until(lambda: server.stats()["active"] == 0)
        assert server.watch.descriptors() == descriptors
        assert growth < MOST_GROWTH
