"""The load process: its lines, its bad input, its end. What a load does is in test_loads."""

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from typing import Any

import pytest
from echoing import flip_the_last_byte, send_all, threaded_server

from aionet.bench.payloads import STREAM_BYTES, STREAM_PERIOD, message_maker, stream_chunk
from aionet.bench.polling import READABLE, WRITABLE, SelectorPoller, make_poller

pytestmark = pytest.mark.slow  # nearly every test starts a process

LOAD = [sys.executable, "-m", "aionet.bench.load_process"]


def load(*arguments: str) -> dict[str, Any]:
    """The final record of a short run."""
    command = [*LOAD, "--wait", "--connections", "3"]
    command += ["--seconds", "0.3", "--warm-up", "0.05", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert record["event"] == "result"
    return record


@pytest.mark.parametrize("workload", ["echo", "accept"])
def test_a_true_echo_has_no_errors(workload: str) -> None:
    with threaded_server(send_all) as port:
        record = load("--workload", workload, "--port", str(port), "--size", "100")
    assert record["errors"] == {}
    assert record["requests"] > 0
    assert record["bytes_compared"] >= record["requests"] * (100 if workload == "echo" else 1)
    assert record["closed_loop"] is True
    assert 0 <= record["busy_share"] <= 1


def test_messages_larger_than_the_socket_buffers_are_sent_and_compared_whole() -> None:
    with threaded_server(send_all) as port:
        record = load("--workload", "echo", "--port", str(port), "--size", str(16 << 20), "--seconds", "1.5")
    assert record["errors"] == {}
    assert record["requests"] > 0


def test_an_open_loop_says_so_and_what_it_could_not_ask() -> None:
    with threaded_server(send_all) as port:
        record = load("--workload", "echo", "--port", str(port), "--rate", "1e6")
    assert record["closed_loop"] is False
    assert record["overdue"] > 0
    assert record["errors"] == {}


def test_a_wrong_byte_is_in_the_record() -> None:
    with threaded_server(flip_the_last_byte) as port:
        record = load("--workload", "echo", "--port", str(port))
    assert record["errors"].keys() == {"mismatch"}
    assert record["requests"] == 0


def test_a_turn_that_is_too_short_goes_on_until_all_had_a_reply() -> None:
    with threaded_server(send_all) as port:
        record = load("--workload", "echo", "--port", str(port), "--seconds", "0.0001", "--connections", "50")
    assert record["requests"] >= 50
    assert record["seconds"] > 0.0001
    assert record["until_all_served"] > 0


def test_it_measures_as_it_is_told_and_rests_between() -> None:
    command = [*LOAD, "--wait", "--workload", "echo", "--as-told", "--warm-up", "0.05"]
    with threaded_server(send_all) as port:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None

            def until(event: str) -> dict[str, Any]:
                for line in process.stdout or ():
                    record: dict[str, Any] = json.loads(line)
                    if record["event"] != "progress":
                        assert record["event"] == event
                        return record
                raise AssertionError(f"it ended before {event}")

            until("ready")
            for _ in range(2):
                print("0.1", file=process.stdin, flush=True)
                until("rest")
            process.stdin.close()
            record = until("result")
    assert record["errors"] == {}
    assert record["requests"] > 0
    assert record["seconds"] >= 0.2


def test_what_it_is_told_must_be_seconds() -> None:
    with threaded_server(send_all) as port:
        command = [*LOAD, "--wait", "--workload", "echo", "--as-told", "--port", str(port)]
        done = subprocess.run(command, input="soon\n", capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr == "load_process: error: 'soon' is not a number of seconds\n"


@pytest.mark.parametrize("generator", ["native", "python"])
def test_which_load_it_was_is_told(generator: str) -> None:
    if generator == "native":
        pytest.importorskip("aionet.native._compiled", exc_type=ImportError)
    with threaded_server(send_all) as port:
        record = load("--workload", "idle", "--port", str(port), "--generator", generator)
    assert record["generator"] == generator
    assert record["requests"] == 3


def test_the_processor_time_and_memory_of_a_process_are_read() -> None:
    with threaded_server(send_all) as port:
        busy = load("--workload", "echo", "--port", str(port), "--server-pid", str(os.getpid()))
        idle = load("--workload", "idle", "--port", str(port), "--server-pid", str(os.getpid()))
    if sys.platform == "linux":
        assert 0 < busy["server_cpu_seconds"] < 30
        assert isinstance(idle["private_bytes_per_connection"], float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "70000 is not from 1 to 65,535"),
        (["--port", "http"], "'http' is not a whole number"),
        (["--connections", "0"], "0 is not from 1 to"),
        (["--seconds", "-1"], "-1 is not above 0"),
        (["--seconds", "nan"], "nan is not above 0"),
        (["--seconds", "soon"], "'soon' is not a number of seconds"),
        (["--workload", "dance"], "'dance'"),
        (["--rate", "0"], "0 is not above 0 and at most 1e+09"),
        (["--path", "/a"], "not allowed with"),
    ],
)
def test_bad_input_is_named(arguments: list[str], message: str) -> None:
    command = [*LOAD, "--workload", "echo", "--port", "1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert message in done.stderr


def test_no_two_messages_are_alike() -> None:
    for size in (3, 8, 9, 1000):
        next_message = message_maker(size)
        messages = [next_message() for _ in range(2000)]
        assert len(set(messages)) == 2000
        assert {len(message) for message in messages} == {size}


def test_a_stream_goes_on_where_its_chunk_ended() -> None:
    twice = stream_chunk() * 2
    assert len(stream_chunk()) == STREAM_BYTES
    assert twice == bytes(number % STREAM_PERIOD for number in range(2 * STREAM_BYTES))


def test_both_pollers_tell_the_same() -> None:
    for poller in (make_poller(), SelectorPoller()):
        left, right = socket.socketpair()
        with left, right, closing(poller):
            poller.register(left.fileno(), READABLE)
            assert poller.poll(0, 10) == []
            right.send(b"x")
            assert poller.poll(1, 10) == [(left.fileno(), READABLE)]
            poller.modify(left.fileno(), READABLE | WRITABLE)
            assert poller.poll(1, 10) == [(left.fileno(), READABLE | WRITABLE)]
            poller.unregister(left.fileno())
            assert poller.poll(0, 10) == []


def test_it_ends_when_nobody_reads_its_lines() -> None:
    with threaded_server(send_all) as port:
        reading, writing = os.pipe()
        command = [*LOAD, "--workload", "echo", "--wait"]
        process = subprocess.Popen([*command, "--port", str(port), "--seconds", "60"], stdout=writing)
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        assert process.wait(50) == 1
