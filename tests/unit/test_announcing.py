"""What is logged and printed may fail: nothing comes out of it, and at most one line is said."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Callable, Iterator

import pytest

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
