"""Our own record: what is written of it is what its JSON says, and the guard fails on what it should."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from records import record as a_record
from records import three_rounds

from aionet.bench.baseline import read_record
from aionet.bench.command import add_arguments, plan_from
from aionet.bench.summary import summarise

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not installed")


@pytest.fixture(scope="module")
def own() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import record

        yield record
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_documents_say_what_the_stored_records_say(own: ModuleType) -> None:
    for document, parts in own.texts().items():
        assert document.read_text(encoding="utf-8") == own.filled_in(document, parts), (
            f"{document.name} is not what the stored records make of it: python benchmarks/record.py write"
        )


def test_every_picture_that_is_shown_is_there(own: ModuleType) -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]+\]\((.+?)\)", text)
    assert [BENCHMARKS / picture for picture in pictures if not (BENCHMARKS / picture).exists()] == []
    assert {Path(picture).stem for picture in pictures} == set(own.drawable(own.stored_records()))


def test_stored_records_name_no_place_of_the_machine(own: ModuleType) -> None:
    for path in own.RESULTS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for place in ("/tmp/", "/home/", "/root/", str(ROOT)):
            assert place not in text, f"{path.name} holds {place}"


def test_every_run_is_a_command_that_the_tool_takes(own: ModuleType) -> None:
    for each in own.RUNS:
        program, bench, *arguments = each.command(0.5, 3)
        assert (program, bench) == ("aionet", "bench")
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        plan = plan_from(parser.parse_args(arguments))
        assert (plan.seconds, plan.rounds) == (0.5, 3)


def test_a_record_is_stored_without_histograms_and_read_back(own: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results" / "accept.json"
    measured = a_record(
        *three_rounds("aionet", 0.5, 0.6, 1 / 3, histogram={"counts": {}}), skipped={"c": "no cc"}
    )
    own.store(measured | {"messages": {"aionet": "Traceback ... /somewhere/"}}, path)
    found = read_record(path)
    assert "messages" not in found
    assert found["skipped"] == {"c": "no cc"}
    assert [turn["requests_per_cpu_second"] for turn in found["turns"]] == [100_000, 120_000, 66_666.7]
    assert "histogram" not in path.read_text(encoding="utf-8")


def test_who_is_ahead_is_named_with_the_reason(own: ModuleType) -> None:
    record = a_record(
        *three_rounds("c", 1, 1, 1),
        *three_rounds("aionet", 0.7, 0.7, 0.7),
        *three_rounds("uvloop-protocol", 0.8, 0.8, 0.8),
        *three_rounds("trio", 0.1, 0.1, 0.1),
    )
    text = own.tables.run_section("Accept", "About it.", "python -m aionet bench accept", record)
    assert "| uvloop-protocol |  | 0.80 |" in text
    assert "Ahead of aionet here:\n\n- `uvloop-protocol`: a protocol's method is called from libuv" in text
    assert "- `trio`" not in text


def test_the_state_of_malloc_stands_below_the_table(own: ModuleType) -> None:
    turns = [
        *three_rounds("c", 1, 1, 1, malloc=None),
        *three_rounds("aionet-256k", 0.7, 0.7, 0.7, malloc="settled"),
        *three_rounds("aionet-256k-cold", 0.7, 0.7, 0.7, malloc="cold"),
    ]
    text = own.tables.run_section("Echo", "About it.", "python -m aionet bench echo", a_record(*turns))
    assert "\n\nmalloc was settled for aionet-256k; cold for aionet-256k-cold." in text
    of_all = a_record(*three_rounds("c", 1, 1, 1), *three_rounds("aionet", 0.7, 0.7, 0.7), malloc="settled")
    assert own.tables.mallocs(of_all) == ["malloc was settled for all servers in Python."]
    assert own.tables.mallocs(a_record(*three_rounds("c", 1, 1, 1), malloc="settled")) == []


def test_who_is_ahead_without_a_reason_is_an_error(own: ModuleType) -> None:
    record = a_record(*three_rounds("aionet", 0.7, 0.7, 0.7), *three_rounds("newcomer", 0.8, 0.8, 0.8))
    with pytest.raises(own.tables.MissingNoteError, match="newcomer is ahead in accept, 64 at a time"):
        own.tables.ahead(summarise(record))


def test_a_document_without_the_marker_is_an_error(own: ModuleType, tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("<!-- generated: results -->\nold\n<!-- end -->\n", encoding="utf-8")
    assert own.filled_in(document, {"results": "new"}) == "<!-- generated: results -->\nnew\n<!-- end -->\n"
    with pytest.raises(ValueError, match="has no <!-- generated: other -->"):
        own.filled_in(document, {"other": "new"})


# -- the guard ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counted", "status", "said"),
    [(1049, 0, "+4.9%"), (1051, 1, "+5.1%  more"), (940, 0, "--store"), (1000, 0, "+0.0%")],
)
def test_the_guard_fails_on_five_percent_more(
    own: ModuleType, capsys: pytest.CaptureFixture[str], counted: int, status: int, said: str
) -> None:
    found = own.instructions.check({"echo": {"aionet": 1000}}, {"echo": {"aionet": counted}})
    assert found == status
    assert said in capsys.readouterr().out


def test_the_guard_skips_an_unknown_build_and_says_so(
    own: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "instructions.json"
    stored.write_text(json.dumps({"builds": {"another build": {}}}), encoding="utf-8")
    monkeypatch.setattr(own.instructions, "STORED", stored)
    assert own.instructions.guard(store=False) == 0
    said = capsys.readouterr().out
    assert said.startswith("skipped: there are no stored counts for CPython")
    assert "another build" in said
