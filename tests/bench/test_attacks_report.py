"""The table of docs/attacks.md is what the stored measurements say."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not installed")


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import attacks

        yield attacks
    finally:
        sys.path[:] = before


def test_the_document_says_what_is_stored(report: ModuleType) -> None:
    text = report.DOCUMENT.read_text(encoding="utf-8")
    assert text == report.written(text), "python benchmarks/attacks.py write"


def test_every_study_is_stored_with_a_server_of_ours(report: ModuleType) -> None:
    stored = report.stored()["studies"]
    assert {study.name for study in report.STUDIES} == stored.keys()
    assert all("aionet" in servers for servers in stored.values())
