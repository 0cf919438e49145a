"""More than there is room for: out of descriptors, accepts that fail, a burst beyond the cap."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers import require_program

from .raw_clients import RawClients, answers, is_reset, reset
from .server_under_test import ServerUnderTest, wait_until

DESCRIPTORS = 64
COMERS = 200
WATCHED = 3.0  # seconds
MOST_CPU = 0.05

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("most_descriptors")]


def exhausted(server: ServerUnderTest, clients: RawClients) -> list[socket.socket]:
    """Let many come to a server that has few descriptors, all of which it then has in use."""
    comers = clients.connect(COMERS, b"x")
    wait_until(server.warnings)
    return comers


def answered(comers: list[socket.socket]) -> list[socket.socket]:
    """Those whose byte has come back by now."""
    return [sock for sock in select.select(comers, [], [], 0)[0] if sock.recv(1) == b"x"]


def fate(sock: socket.socket) -> str:
    """What the server made of a client that has said "x"."""
    if sock.fileno() == -1:
        return "reset"
    try:
        return {b"x": "served", b"busy\n": "regretted", b"": "ended"}[sock.recv(5)]
    except ConnectionError:
        return "reset"


def spends_little(server: ServerUnderTest, cpu: float, lines_before: int) -> None:
    warnings = server.warnings()
    print(f"CPU {cpu:.1%}, {len(warnings) - lines_before} lines in {WATCHED} s: {warnings[-1]}")
    assert cpu < MOST_CPU
    assert len(warnings) - lines_before <= 2 * WATCHED


def test_out_of_descriptors_newcomers_wait(engine: str) -> None:
    with (
        ServerUnderTest(engine=engine, descriptors=DESCRIPTORS) as server,
        RawClients(server.port) as clients,
    ):
        comers = exhausted(server, clients)
        lines = len(server.warnings())
        cpu = server.watch.cpu_share(WATCHED)
        spends_little(server, cpu, lines)
        inside = answered(comers)
        assert 20 < len(inside) < DESCRIPTORS
        assert server.watch.descriptors() == DESCRIPTORS

        started = time.monotonic()
        for sock in inside[:10]:
            reset(sock)
        waiting = [sock for sock in comers if sock not in inside]
        assert [sock.recv(1) for sock in waiting[:10]] == [b"x"] * 10
        print(f"{len(inside)} served; ten more {time.monotonic() - started:.3f} s after ten had left")
        assert time.monotonic() - started < 1.0
        assert all(map(answers, inside[10:]))


def test_out_of_descriptors_newcomers_are_reset(engine: str) -> None:
    with (
        ServerUnderTest(engine=engine, descriptors=DESCRIPTORS, on_full="reset") as server,
        RawClients(server.port) as clients,
    ):
        comers = exhausted(server, clients)
        wait_until(lambda: server.stats()["accepted"] == COMERS)
        fates = [fate(sock) for sock in comers]
        inside = [sock for sock, its in zip(comers, fates, strict=True) if its == "served"]
        assert 20 < len(inside) < DESCRIPTORS
        assert fates.count("reset") == COMERS - len(inside)

        def come_and_be_reset() -> None:
            newcomer = clients.connect_one()
            assert is_reset(newcomer)
            newcomer.close()

        lines = len(server.warnings())
        spends_little(server, server.watch.cpu_share(WATCHED, come_and_be_reset), lines)
        assert all(map(answers, inside))
        for sock in inside[:10]:
            reset(sock)
        wait_until(lambda: server.stats()["active"] == len(inside) - 10)
        assert all(answers(sock) for sock in clients.connect(10))
        assert all(map(answers, inside[10:]))
        assert server.stats()["causes"]["FULL"] == server.stats()["rejected"] > COMERS - DESCRIPTORS


def test_out_of_descriptors_the_idle_are_evicted(engine: str) -> None:
    with (
        ServerUnderTest(engine=engine, descriptors=DESCRIPTORS, on_full="evict_idle") as server,
        RawClients(server.port) as clients,
    ):
        comers = exhausted(server, clients)
        wait_until(lambda: server.stats()["accepted"] == COMERS)
        assert {fate(sock) for sock in comers} <= {"served", "reset"}
        assert sum(map(answers, comers)) == server.stats()["active"]

        def come_and_be_served() -> None:
            newcomer = clients.connect_one()
            assert answers(newcomer)

        lines = len(server.warnings())
        spends_little(server, server.watch.cpu_share(WATCHED, come_and_be_served), lines)
        stats = server.stats()
        assert stats["cut"] == stats["causes"]["EVICTED"] == stats["accepted"] - stats["active"]
        assert 20 < stats["active"] < DESCRIPTORS
        assert not any("next try" in line for line in server.warnings())  # room was made, not waited for


# accept(2) fails every other time -----------------------------------------------------------------------


def strace_injecting(error: str, trace: Path) -> list[str]:
    """The words that run a program whose first, third, fifth ... accept fails with `error`; see `trace`."""
    strace = require_program("strace")
    try:
        subprocess.run([strace, "-o", os.devnull, "true"], check=True, capture_output=True, timeout=10)
    except (subprocess.SubprocessError, OSError) as failure:
        pytest.skip(f"strace may not trace here: {failure}")
    quiet = ["-D", "-f", "-qq", "-o", str(trace)]
    return [strace, *quiet, "-e", "trace=accept4", "-e", f"inject=accept4:error={error}:when=1+2"]


@pytest.mark.parametrize(
    ("error", "count"),
    [
        ("ECONNABORTED", 200),
        ("EPROTO", 200),
        ("EINTR", 200),
        ("ENOBUFS", 20),  # after which the server pauses
    ],
)
def test_every_other_accept_fails(engine: str, error: str, count: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with (
        ServerUnderTest(engine=engine, prefix=strace_injecting(error, trace)) as server,
        RawClients(server.port) as clients,
    ):
        assert all(answers(sock) for sock in clients.connect(count))  # all at once
        assert all(answers(clients.connect_one()) for _ in range(count // 10))  # one after the other
        assert server.stats()["active"] == count + count // 10
        assert bool(server.warnings()) == (error == "ENOBUFS")
    wait_until(lambda: trace.read_text().count("(INJECTED)") >= count)


# The cap ------------------------------------------------------------------------------------------------

CAP = 100
BURST = 10 * CAP


@pytest.mark.parametrize("on_full", ["pause", "reset", "evict_idle", "regret"])
def test_the_cap_is_exact_under_a_burst(engine: str, on_full: str) -> None:
    with (
        ServerUnderTest(engine=engine, counted=True, max_connections=CAP, on_full=on_full) as server,
        RawClients(server.port) as clients,
    ):
        comers = clients.connect(BURST, b"x")
        fates: Counter[str] = Counter()
        for sock in comers:
            fates[fate(sock)] += 1
            if on_full == "pause":  # make room for the next one
                reset(sock)
        stats = server.stats()
        print(on_full, dict(fates), {name: stats[name] for name in ("accepted", "most", "causes")})
        assert stats["most"] == CAP
        wait_until(lambda: server.stats()["accepted"] == BURST)
        assert fates.total() == BURST
        if on_full == "pause":
            assert fates["served"] == BURST
        elif on_full == "evict_idle":
            wait_until(lambda: server.stats()["running"] == CAP)
            assert server.stats()["cut"] == BURST - CAP
            assert sum(map(answers, comers)) == CAP
        else:
            assert fates["served"] == CAP
            assert server.stats()["rejected"] == BURST - CAP
            assert (fates["regretted"] > 0) == (on_full == "regret")
        assert server.stats()["most"] == CAP
