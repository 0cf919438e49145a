"""What is logged and printed may fail, and comes in any number: neither does harm."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import until

from aionet import announcing
from aionet.announcing import Log, say


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Broken(logging.Handler):
    """Raises in `emit`, as a handler of another library may."""

    def __init__(
        self, make_error: Callable[[], BaseException] = lambda: LookupError("a bug\nof theirs")
    ) -> None:
        super().__init__()
        self._make_error = make_error

    def emit(self, record: logging.LogRecord) -> None:
        raise self._make_error()


class Clock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(announcing._Lines, "clock", staticmethod(clock))
    monkeypatch.setattr(announcing, "_without_loop", announcing._Lines())
    monkeypatch.setattr(announcing, "_owing", set())
    return clock


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("aionet.test")
    found.setLevel(logging.DEBUG)
    found.propagate = False
    yield found
    found.handlers.clear()
    found.filters.clear()
    found.propagate = True
    found.setLevel(logging.NOTSET)


def test_a_record_names_its_level_and_the_code_that_logs(logger: logging.Logger) -> None:
    kept = Kept()
    logger.addHandler(kept)
    log = Log(logger)
    for name in ("debug", "info", "warning", "error", "critical"):
        getattr(log, name)("%s of %d", name, 5, extra={"connection": "7"})
    log.log(logging.INFO, "as a number")
    try:
        raise LookupError
    except LookupError:
        log.exception("with a traceback")
    assert [record.levelname for record in kept.records] == [
        "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "INFO", "ERROR"
    ]  # fmt: skip
    assert kept.records[0].getMessage() == "debug of 5"
    assert kept.records[0].connection == "7"  # type: ignore[attr-defined]
    assert {record.filename for record in kept.records} == {"test_announcing.py"}
    assert {record.funcName for record in kept.records} == {
        "test_a_record_names_its_level_and_the_code_that_logs"
    }
    assert kept.records[-1].exc_info is not None
    assert kept.records[-1].exc_info[0] is LookupError


def test_what_is_not_logged_is_not_made(logger: logging.Logger) -> None:
    logger.addHandler(Broken())
    logger.setLevel(logging.WARNING)
    log = Log(logger)
    assert not log.isEnabledFor(logging.INFO)
    log.info("not made")


def raise_in_filter(record: logging.LogRecord) -> bool:
    raise ValueError("of a filter")


class UnprintableError(Exception):
    """Cannot be printed either."""

    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    ("make_error", "why"),
    [
        (lambda: LookupError("a bug\nof theirs"), "LookupError: a bug of theirs"),
        (asyncio.CancelledError, "CancelledError:"),
        (UnprintableError, "UnprintableError"),
        (None, "ValueError: of a filter"),
    ],
)
@pytest.mark.parametrize("raises", [True, False])
def test_a_failure_is_one_line_at_most(
    logger: logging.Logger,
    make_error: Callable[[], BaseException] | None,
    why: str,
    raises: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", raises)
    monkeypatch.setattr(announcing, "_failed", set())
    if make_error is None:
        logger.addFilter(raise_in_filter)
    else:
        logger.addHandler(Broken(make_error))
    for log in (Log(logger), Log(logger)):  # of two modules
        log.warning("lost")
        log.warning("lost as well")
    expected = f"aionet.test: log records are lost: {why}\n" if raises else ""
    assert capsys.readouterr().err == expected


def test_an_interrupt_is_none(logger: logging.Logger) -> None:
    logger.addHandler(Broken(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Log(logger).warning("interrupted")


@pytest.mark.parametrize("stream", [None, "closed", "full"])
def test_a_line_that_cannot_be_written_is_lost(stream: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    output = None if stream is None else io.StringIO()
    if stream == "full":
        with open("/dev/full", "w", encoding="ascii") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", full)
            say("lost")
            with pytest.raises(OSError, match="No space left"):
                full.close()
        return
    if output is not None:
        output.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", output)
        say("lost")


# Floods -------------------------------------------------------------------------------------------------


class AsJson(logging.Formatter):
    """As many programs log: a line of JSON for each record, with what it has more than others."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"text": record.getMessage(), "left_out": getattr(record, "left_out", 0)})


def lines_of(logger: logging.Logger, formatter: logging.Formatter | None = None) -> Callable[[], list[str]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    return lambda: stream.getvalue().splitlines()


def test_a_flood_is_ten_lines_and_a_count(logger: logging.Logger, clock: Clock) -> None:
    text, as_json = lines_of(logger), lines_of(logger, AsJson())
    log = Log(logger)
    for number in range(1244):
        log.info("handshake with %d failed", number)
    assert text() == [f"handshake with {number} failed" for number in range(10)]
    log.warning("another kind")  # at once
    clock.now += 1
    log.info("handshake with %d failed", 1244)
    count = "... and 1,234 more like this in the last second: handshake with 9 failed"
    assert text()[10:] == ["another kind", count, "handshake with 1244 failed"]
    assert json.loads(as_json()[11]) == {"text": count, "left_out": 1234}


def test_a_named_kind_and_a_level_are_kinds(logger: logging.Logger, clock: Clock) -> None:
    text = lines_of(logger)
    log = Log(logger)
    for _ in range(20):
        for cause in ("idle", "evicted"):
            log.info("cut: %s", cause, kind=cause)
        log.error("cut: %s", "idle", kind="idle")
    assert (text().count("cut: idle"), text().count("cut: evicted")) == (20, 10)


def crash_here() -> None:
    raise LookupError


def crash_there() -> None:
    raise LookupError


def test_a_crash_at_another_place_is_another_kind(logger: logging.Logger, clock: Clock) -> None:
    kept = Kept()
    logger.addHandler(kept)
    log = Log(logger)
    for _ in range(20):
        for crash in (crash_here, crash_there):
            try:
                crash()
            except LookupError as error:
                log.exception("handler failed", exc_info=error)
                log.exception("on_error failed")
                log.exception("handler failed", exc_info=ExceptionGroup("of tasks", [error]))
    assert len(kept.records) == 40
    clock.now += 1
    log.error("the next second")
    assert [record.getMessage() for record in kept.records[40:-1]] == [
        "... and 30 more like this in the last second: handler failed",
        "... and 10 more like this in the last second: on_error failed",
    ] * 2


def test_what_is_not_limited(logger: logging.Logger, clock: Clock) -> None:
    kept = Kept()
    logger.addHandler(kept)
    for _ in range(50):
        Log(logger).debug("in full")
        Log(logger, complete=True).info("in full")
    assert len(kept.records) == 100
    logger.setLevel(logging.WARNING)
    for _ in range(50):
        Log(logger).info("not asked for")
    assert announcing._without_loop._limit.due is None


@pytest.mark.asyncio
async def test_the_count_comes_though_nothing_else_is_logged(
    logger: logging.Logger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = lines_of(logger)
    monkeypatch.setattr(announcing, "SECONDS", 0.0)  # for the timer, not for the window
    for _ in range(15):
        Log(logger).info("flood")
    clock.now += 1
    await until(lambda: len(text()) == 11)
    assert text()[-1].startswith("... and 5 more")
    assert announcing._owing == set()


@pytest.mark.asyncio
async def test_each_loop_has_its_lines(logger: logging.Logger, clock: Clock) -> None:
    text = lines_of(logger)

    async def log_many() -> None:
        for _ in range(15):
            Log(logger).info("flood")

    await log_many()
    await asyncio.to_thread(asyncio.run, log_many())
    assert text() == ["flood"] * 20


def test_the_count_comes_at_the_end_of_the_process() -> None:
    program = """
import asyncio, logging
from aionet.announcing import Log
logging.basicConfig(level="INFO", format="%(message)s")
async def main():
    for _ in range(15):
        Log("aionet.test").info("of a loop that ends")
asyncio.run(main())
for _ in range(12):
    Log("aionet.test").info("without a loop")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    counts = [line for line in done.stderr.splitlines() if line.startswith("...")]
    assert counts == [
        "... and 5 more like this in the last second: of a loop that ends",
        "... and 2 more like this in the last second: without a loop",
    ] or counts == [
        "... and 2 more like this in the last second: without a loop",
        "... and 5 more like this in the last second: of a loop that ends",
    ]


@pytest.mark.parametrize("broken", ["handler", "arguments"])
def test_a_count_that_cannot_be_written_does_no_harm(
    logger: logging.Logger, clock: Clock, broken: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(announcing, "_failed", set())
    text = lines_of(logger)
    for _ in range(15):
        Log(logger).info(*(("%d", "no number") if broken == "arguments" else ("flood",)))
    if broken == "handler":
        logger.handlers.insert(0, Broken())
    clock.now += 1
    Log(logger).info("the next second")
    logger.handlers[:] = logger.handlers[-1:]
    Log(logger).info("and the one after")
    assert text()[-1] == "and the one after"
    assert "log records are lost" in capsys.readouterr().err
