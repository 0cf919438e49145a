"""Both loads, the compiled and the portable one, against servers that are not ours."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from echoing import flip_the_last_byte, leave, say_nothing, send_all, send_too_much, threaded_server

from aionet.bench.generating import GENERATORS, GeneratorName, Load, Target, make_load, named_errors
from aionet.bench.histogram import LatencyHistogram
from aionet.bench.payloads import STREAM_BYTES, stream_chunk

ENOUGH = 30.0  # seconds after which a load is given up


@pytest.fixture(params=GENERATORS)
def generator(request: pytest.FixtureRequest) -> GeneratorName:
    if request.param == "native":
        pytest.importorskip("aionet.native._compiled", exc_type=ImportError)
    name: GeneratorName = request.param
    return name


@contextmanager
def loading(
    generator: GeneratorName, workload: str, port: int, connections: int = 3, size: int = 100, **more: Any
) -> Iterator[Load]:
    load, name = make_load(
        workload, Target("127.0.0.1", port), connections, size, generator=generator, wait=True, **more
    )
    assert name == generator
    with closing(load):
        yield load


def drive_until(load: Load, reached: Callable[[], bool]) -> int:
    """For how many nanoseconds the load was driven until then."""
    driven = 0
    for _ in range(round(ENOUGH / 0.02)):
        begun = time.perf_counter_ns()
        load.drive(0.02)
        driven += time.perf_counter_ns() - begun
        if reached():
            return driven
    raise AssertionError(f"it was not reached: {load.requests} requests, {load.errors()}")


@pytest.mark.parametrize("workload", ["echo", "accept", "connect"])
def test_a_true_server_is_without_errors(generator: GeneratorName, workload: str) -> None:
    with threaded_server(send_all) as port, loading(generator, workload, port) as load:
        load.drive(ENOUGH, True)
        assert load.served == 3
        load.begin()
        assert load.requests == 0
        drive_until(load, lambda: load.requests >= 20)
        load.finish(0.05)
        assert load.errors() == {}
        sizes = {"echo": 100, "accept": 1, "connect": 0}
        assert load.bytes_compared >= load.requests * sizes[workload]
        least, most, _ = load.service()
        assert least <= load.requests / 3 <= most


def test_latencies_are_where_the_histogram_puts_them(generator: GeneratorName) -> None:
    with threaded_server(send_all) as port, loading(generator, "echo", port) as load:
        drive_until(load, lambda: load.requests >= 100)
        stored = load.histogram()
        histogram = LatencyHistogram.from_json(stored)
        assert histogram.count == load.requests
        assert histogram.minimum is not None
        assert histogram.maximum is not None
        assert 0 < histogram.minimum <= histogram.percentile(50) <= histogram.maximum  # type: ignore[operator]
        by_rank = [
            histogram.percentile(100 * (rank + 0.5) / histogram.count) for rank in range(histogram.count)
        ]
        assert sum(filter(None, by_rank)) == pytest.approx(
            histogram.total, rel=LatencyHistogram.RELATIVE_ERROR
        )


def test_an_answer_that_comes_while_the_load_rests_is_not_late(generator: GeneratorName) -> None:
    asked, answer = threading.Event(), threading.Event()

    def when_told(connection: socket.socket, data: bytes) -> None:
        asked.set()
        assert answer.wait(ENOUGH)
        connection.sendall(data)

    with threaded_server(when_told) as port, loading(generator, "echo", port, connections=1) as load:
        driven = drive_until(load, asked.is_set)
        time.sleep(0.3)  # what is to count is not this
        answer.set()
        driven += drive_until(load, lambda: load.requests >= 1)
        slowest = LatencyHistogram.from_json(load.histogram()).maximum
        assert slowest is not None
        assert slowest <= driven


def test_nothing_falls_due_while_the_load_rests(generator: GeneratorName) -> None:
    with threaded_server(send_all) as port, loading(generator, "echo", port, rate=1000.0) as load:
        load.drive(ENOUGH, True)
        load.begin()  # without the first reply to each
        driven = drive_until(load, lambda: load.requests >= 3)
        time.sleep(0.3)  # what is to count is not this
        driven += drive_until(load, lambda: load.requests >= 6)
        load.finish(1.0)
        assert load.requests + load.overdue <= driven / 1e6 + 1


def test_a_stream_is_compared_byte_by_byte(generator: GeneratorName) -> None:
    def stream(connection: socket.socket) -> None:
        while True:
            connection.sendall(stream_chunk())

    with (
        threaded_server(send_all, greeting=stream) as port,
        loading(generator, "bulk", port, size=STREAM_BYTES) as load,
    ):
        load.drive(ENOUGH, True)
        drive_until(load, lambda: load.requests >= 10)
        load.finish(0.05)
        assert load.errors() == {}
        assert load.bytes_compared >= 10 * STREAM_BYTES


def test_a_wrong_byte_of_a_stream_is_a_mismatch(generator: GeneratorName) -> None:
    def stream(connection: socket.socket) -> None:
        connection.sendall(stream_chunk() + b"\xff")

    with (
        threaded_server(send_all, greeting=stream) as port,
        loading(generator, "bulk", port, size=STREAM_BYTES) as load,
    ):
        drive_until(load, lambda: load.errors().get("mismatch", 0) >= 3)
        assert load.errors().keys() == {"mismatch"}


def test_idle_connections_have_one_reply_and_stay(generator: GeneratorName) -> None:
    received: list[bytes] = []

    def note(connection: socket.socket, data: bytes) -> None:
        received.append(data)
        connection.sendall(data)

    with threaded_server(note) as port, loading(generator, "idle", port, connections=20, size=1) as load:
        load.drive(ENOUGH, True)
        load.drive(0.05)
        assert (load.served, load.requests, load.errors()) == (20, 20, {})
        assert len(received) == 20


@pytest.mark.parametrize("workload", ["echo", "accept", "connect"])
def test_an_open_loop_asks_for_no_more_than_is_due(generator: GeneratorName, workload: str) -> None:
    with threaded_server(send_all) as port, loading(generator, workload, port, rate=200.0) as load:
        load.drive(ENOUGH, True)
        load.begin()
        started = time.monotonic()
        for _ in range(3):
            load.drive(0.1)
        due = 200 * (time.monotonic() - started)
        time.sleep(0.1)  # who drives it takes figures, and nothing falls due meanwhile
        load.finish(0.05)
        assert 0 < load.requests + load.overdue <= due + 1
        assert load.errors() == {}


@pytest.mark.parametrize("workload", ["echo", "accept"])
def test_what_was_due_and_has_no_reply_is_recorded(generator: GeneratorName, workload: str) -> None:
    """A server that stalls makes the requests late that were due meanwhile: none of them is left out."""
    with threaded_server(say_nothing) as port, loading(generator, workload, port, rate=1000.0) as load:
        load.begin()
        load.drive(0.2)
        load.finish(0.05)
        assert load.requests == 0
        assert load.overdue >= 190
        histogram = LatencyHistogram.from_json(load.histogram())
        assert histogram.count == load.overdue
        assert histogram.maximum is not None
        assert histogram.maximum >= 150_000_000
        median = histogram.percentile(50)
        assert median is not None
        assert 50_000_000 < median < histogram.maximum


@pytest.mark.parametrize("workload", ["echo", "accept"])
@pytest.mark.parametrize("wrong", [flip_the_last_byte, send_too_much])
def test_a_wrong_byte_is_a_mismatch(
    generator: GeneratorName, workload: str, wrong: Callable[[socket.socket, bytes], None]
) -> None:
    with threaded_server(wrong) as port, loading(generator, workload, port) as load:
        drive_until(load, lambda: load.errors().get("mismatch", 0) >= 3)
        assert load.errors().keys() == {"mismatch"}
        assert load.requests == 0


def test_an_end_before_the_reply_is_counted_and_survived(generator: GeneratorName) -> None:
    with threaded_server(leave) as port, loading(generator, "echo", port) as load:
        drive_until(load, lambda: load.errors().get("early end", 0) > 3)  # it came back after the first
        assert load.errors().keys() == {"early end"}


def test_bytes_where_an_end_is_due_are_a_mismatch(generator: GeneratorName) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"welcome")

    with threaded_server(send_all, greeting=greet) as port, loading(generator, "connect", port) as load:
        drive_until(load, lambda: load.errors().get("mismatch", 0) >= 3)


def test_a_refused_connection_is_counted_under_its_errno(generator: GeneratorName) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with loading(generator, "accept", port) as load:
        drive_until(load, lambda: bool(load.errors()))
        assert named_errors(load.errors()).keys() == {"ECONNREFUSED"}


def test_a_request_that_is_never_answered_is_an_error(generator: GeneratorName) -> None:
    with threaded_server(say_nothing) as port, loading(generator, "echo", port) as load:
        load.drive(0.1)
        load.begin()
        load.drive(0.01)
        load.finish(0.0)
        assert load.errors() == {"no answer": 3}


def test_a_request_that_may_still_be_answered_is_no_error(generator: GeneratorName) -> None:
    with threaded_server(say_nothing) as port, loading(generator, "accept", port) as load:
        load.drive(0.05)
        load.finish(1000.0)
        assert load.errors() == {}


def test_large_messages_are_sent_and_compared_whole(generator: GeneratorName) -> None:
    with threaded_server(send_all) as port, loading(generator, "echo", port, 2, 4 << 20) as load:
        drive_until(load, lambda: load.requests >= 4)
        assert load.errors() == {}


def test_connections_start_from_several_addresses(generator: GeneratorName) -> None:
    seen: set[str] = set()

    def note(connection: socket.socket) -> None:
        seen.add(connection.getpeername()[0])

    with threaded_server(send_all, greeting=note) as port, loading(generator, "echo", port, 40) as load:
        load.drive(ENOUGH, True)
    assert len(seen) == 16
    assert all(address.startswith("127.0.0.") for address in seen)


def test_a_unix_socket_is_a_target_too(generator: GeneratorName, tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                while data := connection.recv(100):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        load, _ = make_load("echo", Target(path, 0), 1, 10, generator=generator, wait=True)
        with closing(load):
            drive_until(load, lambda: load.requests >= 5)
            assert load.errors() == {}
        thread.join()


def test_nothing_is_left_open(generator: GeneratorName) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with threaded_server(send_all) as port, loading(generator, "echo", port, 10) as load:
        load.drive(ENOUGH, True)
        assert len(os.listdir("/proc/self/fd")) > before + 10
    assert len(os.listdir("/proc/self/fd")) == before


# -- the compiled load's manners ----------------------------------------------------------------------------

NATIVE = {"workload": "echo", "host": "127.0.0.1", "port": 1, "connections": 1, "size": 1}
NATIVE |= {"rate": 0.0, "sources": 0, "wait": True}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workload": "dance"}, "not 'dance'"),
        ({"host": "localhost"}, "'localhost' is not a numeric address"),
        ({"host": "x" * 200, "port": 0}, "shorter than"),
        ({"connections": 0}, "above 0"),
        ({"size": -1}, "above 0"),
        ({"port": 70000}, "below 65536"),
        ({"rate": float("nan")}, "a rate is from 0"),
        ({"workload": "bulk", "rate": 1.0}, "bulk has no rate"),
    ],
)
def test_what_a_compiled_load_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    compiled = pytest.importorskip("aionet.native._compiled", exc_type=ImportError)
    with pytest.raises(ValueError, match=message):
        compiled.Load(**NATIVE | wrong)


def test_a_compiled_load_that_was_closed_says_so() -> None:
    compiled = pytest.importorskip("aionet.native._compiled", exc_type=ImportError)
    load = compiled.Load(**NATIVE)
    load.close()
    load.close()
    for method in (load.begin, lambda: load.finish(1), load.errors, load.histogram, load.service):
        with pytest.raises(RuntimeError, match="was closed"):
            method()
    with pytest.raises(RuntimeError, match="was closed"):
        load.drive(0)


def test_a_compiled_load_belongs_to_the_thread_that_drives_it() -> None:
    compiled = pytest.importorskip("aionet.native._compiled", exc_type=ImportError)
    load = compiled.Load(**NATIVE | {"workload": "idle"})
    with pytest.raises(ValueError, match="seconds are from 0"):
        load.drive(-1)
    with pytest.raises(ValueError, match=r"patience is from 0 .* not -1"):
        load.finish(-1)
    thread = threading.Thread(target=load.drive, args=(0.5,))
    thread.start()
    refused = False
    while thread.is_alive() and not refused:
        try:
            load.begin()
        except RuntimeError as error:
            refused = "another thread" in str(error)
    thread.join()
    assert refused
    load.close()
