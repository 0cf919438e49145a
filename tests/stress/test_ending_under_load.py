"""The end of a server in the middle of its work: by a signal, and by a drain that is spread."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command_line import AionetServer, connect_raw

from .raw_clients import RawClients, answers
from .server_under_test import ServerUnderTest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60), pytest.mark.usefixtures("most_descriptors")]


# SIGTERM ------------------------------------------------------------------------------------------------

APP = '''
async def polite(sock):
    """Stop after the reply during which the drain began."""
    while not sock.draining and (line := await sock.read_line()):
        await reply(sock, int(line))

async def deaf(sock):
    """Go on until cancelled."""
    while line := await sock.read_line():
        await reply(sock, int(line))

async def reply(sock, size):
    await sock.write(b"%d\\n" % size + b"x" * size)
'''
CLIENTS = 40
SIZES = (1, 1_000, 100_000, 1_000_000)  # the largest do not fit into the kernel's buffers
LOADED = 1.0  # seconds before the signal


class Load:
    """Clients in threads that ask for replies of many sizes, one after the other, until the server ends."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.replies = 0
        self.began = threading.Event()

    def ask(self, number: int) -> str:
        """One client's life: how it ended."""
        with connect_raw(self._address) as sock, sock.makefile("rb") as replies:
            for turn in range(number, 1_000_000):
                size = SIZES[turn % len(SIZES)]
                try:
                    sock.sendall(b"%d\n" % size)
                    header = replies.readline()
                except ConnectionError:
                    return "reset between replies"
                if not header:
                    return "ended between replies"
                try:
                    body = replies.read(size)
                except ConnectionError:
                    return "truncated"
                if header != b"%d\n" % size or len(body) != size:
                    return "truncated"
                self.replies += 1
                self.began.set()
        raise AssertionError("the server did not end")


@pytest.mark.parametrize("handler", ["polite", "deaf"])
def test_a_signal_under_load_truncates_no_reply(
    engine: str, handler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIONET_ENGINE", engine)
    (tmp_path / "app.py").write_text(APP)
    options = ["--bind", "127.0.0.1:0", "--drain-grace", "1"]
    with (
        AionetServer("serve", f"app:{handler}", *options, cwd=tmp_path) as server,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        load = Load(server.address)
        lives = [pool.submit(load.ask, number) for number in range(CLIENTS)]
        assert load.began.wait(10)
        time.sleep(LOADED)
        server.signal(signal.SIGTERM)
        ends = Counter(life.result() for life in lives)
        draining, drained = server.next_event(), server.next_event()
        code, _, errors = server.ended()
        print(f"{load.replies} replies; {dict(ends)}; {drained}")
    assert code == 0, errors
    assert draining["event"] == "draining"
    assert drained["event"] == "drained"
    assert drained["finished"] + drained["cancelled"] == draining["connections"] == CLIENTS
    assert drained["aborted"] == 0
    assert (drained["cancelled"] > 0) == (handler == "deaf")
    assert ends["truncated"] == 0
    assert ends.total() == CLIENTS


# A drain that is spread ---------------------------------------------------------------------------------

MANY = 1_000
GRACE = 2.0
SPREAD = 1.0


def test_a_spread_drain_cancels_evenly(engine: str) -> None:
    with ServerUnderTest(engine=engine, records=True) as server, RawClients(server.port) as clients:
        assert all(map(answers, clients.connect(MANY)))
        used = server.watch.cpu_seconds()
        began = server.ask(f"drain {GRACE} {SPREAD}")["at"]
        report = server.next_event()
        used = server.watch.cpu_seconds() - used
        records = server.records()  # in the order in which they ended
        assert (report["finished"], report["cancelled"], report["aborted"]) == (0, MANY, 0)
        assert {record["cause"] for record in records} == {"DRAINED"}
        late = [
            record["at"] - began - (GRACE - SPREAD * (1 - number / MANY))
            for number, record in enumerate(records)
        ]
        tenths = Counter(int((record["at"] - began - GRACE + SPREAD) * 10) for record in records)
        print(f"per tenth of a second: {sorted(tenths.items())}; {used:.2f} s of CPU")
        print(f"late by {min(late):.4f} to {max(late):.4f} s, median {statistics.median(late):.4f}")
        assert min(late) > -0.001  # nobody before his turn
        assert statistics.median(late) < 0.5  # a few milliseconds, on a machine that has nothing else to do
