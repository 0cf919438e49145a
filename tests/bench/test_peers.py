"""The peers of ``--against``: each serves what it is asked for, and ends with its standard input."""

import dataclasses
import socket
import ssl
from pathlib import Path

import pytest

from aionet.bench import BenchPlan
from aionet.bench.children import BenchError
from aionet.bench.measuring import running_server
from aionet.bench.payloads import STREAM_PERIOD
from aionet.bench.peers import CHECKOUT, PEERS, Peer, compiled_program, peers_named
from aionet.bench.plan import Turn
from aionet.bench.runner import make_certificate
from aionet.bench.workloads import WORKLOADS

STARTING = 30.0  # seconds
OF_FILES = [peer for peer in PEERS.values() if peer.file]


def turn_of(peer: Peer, workload: str) -> tuple[Turn, BenchPlan]:
    if reason := peer.why_not(WORKLOADS[workload]):
        pytest.skip(reason)
    plan = BenchPlan(workloads=[WORKLOADS[workload]], peers=[peer])
    return next(plan.turns()), plan


def receive(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (data := sock.recv(count - len(received))):
        received += data
    return received


@pytest.mark.parametrize("peer", OF_FILES, ids=lambda peer: peer.name)
def test_a_peer_echoes_and_streams(peer: Peer) -> None:
    turn, plan = turn_of(peer, "echo")
    message = bytes(range(256)) * 400
    with running_server(turn, plan, start_up=STARTING) as (server, ready):
        with socket.create_connection(("127.0.0.1", ready["port"]), timeout=STARTING) as sock:
            for part in (message[:1], message):
                sock.sendall(part)
                assert receive(sock, len(part)) == part
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        assert server.end() == 0
    turn, plan = turn_of(peer, "bulk")
    with running_server(turn, plan, start_up=STARTING) as (server, ready):
        with socket.create_connection(("127.0.0.1", ready["port"]), timeout=STARTING) as sock:
            stream = receive(sock, 150_000)
        assert stream == bytes(number % STREAM_PERIOD for number in range(150_000))
        assert server.end() == 0


@pytest.mark.slow
@pytest.mark.parametrize("peer", [peer for peer in OF_FILES if peer.tls], ids=lambda peer: peer.name)
def test_a_peer_echoes_over_tls(peer: Peer, tmp_path: Path) -> None:
    turn, plan = turn_of(peer, "tls-echo")
    context = ssl.create_default_context()
    try:
        certificate = make_certificate(tmp_path)
        peer.command(turn.workload, certificate)
    except BenchError as error:
        pytest.skip(str(error))
    context.load_verify_locations(certificate[0])
    context.check_hostname = False
    with (
        running_server(turn, plan, certificate=certificate, start_up=STARTING) as (_, ready),
        socket.create_connection(("127.0.0.1", ready["port"]), timeout=STARTING) as plain,
        context.wrap_socket(plain) as sock,
    ):
        sock.sendall(b"x" * 5000)
        assert receive(sock, 5000) == b"x" * 5000


def test_every_file_of_the_directory_is_somebodys() -> None:
    if not CHECKOUT.is_dir():
        pytest.skip("this is no checkout")
    named = {file for peer in PEERS.values() for file in (peer.file, peer.tls_file) if file}
    there = {path.name for path in CHECKOUT.iterdir() if path.is_file()}
    assert there - named == {"common.py", "tls_load_generator.c"}
    assert named <= there


def test_peers_come_in_one_order_and_once() -> None:
    names = [peer.name for peer in peers_named(["trio", "c", "trio"])]
    assert names == ["c", "trio"]
    with pytest.raises(ValueError, match="'steam' is not one of all, c, aionet"):
        peers_named(["steam"])


def test_what_is_missing_is_told_with_what_brings_it() -> None:
    absent = dataclasses.replace(PEERS["trio"], modules=("no_such_module",))
    reason = absent.why_not(WORKLOADS["echo"])
    assert reason is not None
    if CHECKOUT.is_dir():
        assert reason == "no_such_module is not installed; try: pip install 'aionet-toolkit[bench]'"
    assert PEERS["twisted"].why_not(WORKLOADS["tls-echo"]) == "it has no TLS server"


def test_what_does_not_run_on_this_interpreter_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_of_long_ago.py").write_text("raise ImportError('this Python is too new')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = dataclasses.replace(PEERS["aionet"], modules=("module_of_long_ago",))
    expected = "module_of_long_ago cannot be imported: ImportError: this Python is too new"
    assert broken.why_not(WORKLOADS["echo"]) == expected


def test_a_program_that_does_not_compile_says_why(tmp_path: Path) -> None:
    if PEERS["c"].why_not(WORKLOADS["echo"]):
        pytest.skip("there is no compiler")
    source = tmp_path / "broken.c"
    source.write_text("int main(void) { return nothing; }\n")
    with pytest.raises(BenchError, match=r"(?s)broken.c could not be compiled:.*nothing"):
        compiled_program(source)
