"""The stage of the spawner's tests, and a log to look at."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from spawner.conftest import Stage, kind, stage

__all__ = ["Records", "Stage", "kind", "records", "stage"]


class Records(logging.Handler):
    """Keeps every record, and its text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def records() -> Iterator[Records]:
    """What a logger of the test's own, ``test.access``, is told."""
    handler = Records()
    logger = logging.getLogger("test.access")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)  # no test is to live on what another one left
