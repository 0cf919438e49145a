"""Clients that do not read, that trickle, that flood: they get no more than is theirs."""

from __future__ import annotations

import random
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .raw_clients import RawClients, answers
from .server_under_test import ServerUnderTest, wait_until

MIB = 1 << 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]


# Who never reads ----------------------------------------------------------------------------------------

GREEDY = 500
CAP = 64 * MIB


def test_what_waits_for_clients_that_never_read_is_bounded(engine: str) -> None:
    limits = {"max_pending_bytes": CAP}
    with (
        ServerUnderTest("pour_or_echo", engine=engine, send_buffer=65536, **limits) as server,
        RawClients(server.port) as clients,
    ):
        others = clients.connect(50)
        assert all(map(answers, others))
        before = peak = server.watch.private_bytes()
        for number in range(GREEDY):
            clients.connect_one(b"p", receive_buffer=4096)
            if number % 10 == 0:
                peak = max(peak, server.watch.private_bytes())
                assert answers(others[number // 10])

        def all_cut_but_those_that_fit() -> bool:
            nonlocal peak
            peak = max(peak, server.watch.private_bytes())
            return server.stats()["cut"] >= GREEDY - CAP // MIB

        wait_until(all_cut_but_those_that_fit)
        stats = server.stats()
        print(f"private memory grew by {(peak - before) / MIB:.1f} MiB at the most; {stats['causes']}")
        assert peak - before <= CAP * 1.2
        assert stats["causes"] == {"PENDING_BYTES": stats["cut"]}
        assert stats["active"] == len(others) + GREEDY - stats["cut"]
        assert stats["cut"] <= GREEDY - CAP // MIB + 4  # each counts for a little more than what it waits for
        assert all(map(answers, others))


# Who trickles -------------------------------------------------------------------------------------------

SLOW = 1_000
STALL = 2.0
SLACK = 5.0  # seconds, for a machine that others load


def test_clients_that_trickle_are_cut_on_time(engine: str) -> None:
    with (
        ServerUnderTest("lines", engine=engine, records=True, read_stall_timeout=STALL) as server,
        RawClients(server.port) as clients,
    ):
        slow, brisk = clients.connect(SLOW), clients.connect(20)
        slow_ports = {sock.getsockname()[1] for sock in slow}
        rng = random.Random(5)
        while server.stats()["cut"] < SLOW:
            for sock in rng.sample(slow, SLOW // 10):
                try:
                    sock.sendall(b"x")
                except ConnectionError:
                    pass
            assert all(answers(sock, b"a line\n") for sock in brisk)
            time.sleep(0.02)

        records = server.records()
        assert {record["port"] for record in records} == slow_ports
        assert {record["cause"] for record in records} == {"READ_STALLED"}
        ages = sorted(record["age"] for record in records)
        late = [age - STALL for age in ages]
        print(f"cut {late[0]:.3f} to {late[-1]:.3f} s after {STALL} s, median {late[SLOW // 2]:.3f}")
        assert late[0] >= 0
        assert late[-1] <= STALL / 4 + SLACK
        assert all(answers(sock, b"a line\n") for sock in brisk)


# Who floods ---------------------------------------------------------------------------------------------

ORDINARY = 100
MEASURED = 2.0  # seconds
FLOOD = """
import socket, sys, threading
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def read():
    while sock.recv(1 << 20): pass
if sys.argv[2] == "reads":
    threading.Thread(target=read, daemon=True).start()
data = bytes(1 << 20)
print("begun", flush=True)
while True:
    sock.sendall(data)
"""


@contextmanager
def flooding(port: int, how: str) -> Iterator[None]:
    """A client in a process of its own that sends without end, and reads, or does not."""
    command = [sys.executable, "-c", FLOOD, str(port), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        yield
        process.kill()


def p99(socks: list[socket.socket], seconds: float = MEASURED) -> float:
    """The seconds within which 99 of 100 echoes came back; each client has one message on its way."""
    sent_at, found = {}, []
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
            sock.sendall(b"ping")
            sent_at[sock] = time.perf_counter()
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            for key, _ in selector.select():
                sock = key.fileobj
                assert sock.recv(4) == b"ping"
                now = time.perf_counter()
                found.append(now - sent_at[sock])
                sock.sendall(b"ping")
                sent_at[sock] = now
    assert all(sock.recv(4) == b"ping" for sock in socks)
    found.sort()
    return found[len(found) * 99 // 100]


def p99_alone(sock: socket.socket) -> float:
    """The same of a client whom nobody is in the way of."""
    return p99([sock], MEASURED / 2)


@pytest.mark.parametrize("how", ["reads", "never reads"])
def test_one_that_floods_does_not_starve_the_others(engine: str, how: str) -> None:
    with ServerUnderTest(engine=engine) as server, RawClients(server.port) as clients:
        ordinary = clients.connect(ORDINARY)
        assert all(map(answers, ordinary))
        quiet, alone = p99(ordinary), p99_alone(ordinary[0])
        with flooding(server.port, how):
            flooded, alone_flooded = p99(ordinary), p99_alone(ordinary[0])
        print(f"p99 of {ORDINARY} clients: {quiet * 1e3:.2f} ms; beside a flood: {flooded * 1e3:.2f} ms")
        print(f"p99 of a single client: {alone * 1e3:.2f} ms; beside a flood: {alone_flooded * 1e3:.2f} ms")
        assert flooded < 10 * quiet
