"""``--report``: one page that needs nothing else, and the pictures on it as files."""

import re
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from records import record, three_rounds

from aionet.bench.children import BenchError
from aionet.bench.report_page import warnings_of, write_report
from aionet.bench.summary import summarise

needs_matplotlib = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)

pytestmark = pytest.mark.slow  # drawing takes seconds

ECHO = {"workload": "echo", "size": 64}
IDLE = {"workload": "idle", "size": 0, "connections": 4000, "requests_per_cpu_second": None}


def some_record() -> dict[str, Any]:
    turns = []
    for peer, share in (("c", 1.0), ("aionet", 0.8), ("uvloop-protocol", 0.9), ("<odd & peer>", 0.2)):
        turns += three_rounds(peer, share, 0.9 * share, 1.1 * share)
        for connections in (64, 4000):
            starved = 1234 if peer == "uvloop-protocol" and connections == 4000 else 0
            turns += three_rounds(peer, share, share, share, **ECHO, connections=connections, starved=starved)
        turns += three_rounds(peer, share, share, share, **IDLE, private_bytes_per_connection=2000 * share)
    failed = {"workload": "echo", "peer": "curio", "round": 2, "reason": "it ended with status 1:\nTraceback"}
    return record(*turns, skipped={"trio": "not installed"}, failed=[failed])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page is. Who draws anything else asks for it, too: matplotlib keeps its fonts open."""
    return write_report(some_record(), tmp_path_factory.mktemp("out") / "below")


class Page(HTMLParser):
    """The text of a page, its tables, and all that it asks a network for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asked_for: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data") and not (value or "").startswith("#"):
                self.asked_for.append(f"{tag} {name}={value}")
        if tag in ("link", "script", "iframe"):
            self.asked_for.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.rows:
            self.rows[-1].append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@needs_matplotlib
def test_the_page_asks_nobody_for_anything(report: Path) -> None:
    assert Page(report).asked_for == []
    assert "url(http" not in report.read_text(encoding="utf-8")


@needs_matplotlib
def test_the_page_tells_what_ran_and_what_did_not(report: Path) -> None:
    text = Page(report).text
    for expected in (
        "aionet bench accept --against all",
        "A Processor",
        "8 GiB of memory",
        "trio (not installed)",
        "uvloop-protocol (1,234 of 4,000)",
        "curio, echo, round 2 failed: it ended with status 1.",
        "<odd & peer>",
    ):
        assert expected in text


@needs_matplotlib
def test_a_peer_that_wins_has_its_row_above_ours(report: Path) -> None:
    rows = Page(report).rows
    accept = next(n for n, row in enumerate(rows) if row[:1] == ["connections per CPU second"])
    assert [row[0] for row in rows[accept + 1 : accept + 5]] == [
        "c",
        "uvloop-protocol",
        "aionet",
        "<odd & peer>",
    ]
    assert rows[accept + 3][1:3] == ["160 k (144 k to 176 k)", "0.80 (0.80 to 0.80)"]


@needs_matplotlib
def test_every_picture_is_on_the_page_and_a_png_and_an_svg(report: Path) -> None:
    names = {path.name for path in report.parent.iterdir()} - {"index.html"}
    pictures = {name.rpartition(".")[0] for name in names}
    assert pictures == {
        "rate-accept",
        "rate-echo",
        "scaling-echo-64",
        "latency-accept",
        "latency-echo",
        "memory",
    }
    assert names == {f"{name}.{ending}" for name in pictures for ending in ("png", "svg")}
    assert len(re.findall(r"<svg ", report.read_text(encoding="utf-8"))) == len(pictures)


@needs_matplotlib
def test_pictures_label_what_they_show(report: Path) -> None:
    def words(name: str) -> set[str | None]:
        tree = ElementTree.parse(report.parent / f"{name}.svg")
        return {element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")}

    accept = words("rate-accept")
    assert {"connections per CPU second of the server, as a share of C", "0.80", "0.90"} <= accept
    assert "C = 1.00" in accept  # what the line across the bars is
    assert {"CPU time per message", "connections", "64", "4,000", "5 µs", "aionet", "c"} <= words(
        "scaling-echo-64"
    )
    assert {"latency", "p50", "p99.99", "max", "2 ms", "uvloop-protocol"} <= words("latency-echo")
    assert {"private bytes of the server's process per connection", "1,600 B"} <= words("memory")


@needs_matplotlib
def test_a_peer_has_the_same_colour_in_every_picture(report: Path) -> None:
    for name in ("rate-accept", "scaling-echo-64", "latency-accept", "memory"):
        assert "#d55e00" in (report.parent / f"{name}.svg").read_text(encoding="utf-8"), name


@needs_matplotlib
def test_pngs_are_wide_enough_to_be_read_at_half_their_size(report: Path) -> None:
    for path in report.parent.glob("*.png"):
        (width,) = struct.unpack(">I", path.read_bytes()[16:20])
        assert width >= 1400


@needs_matplotlib
@pytest.mark.usefixtures("report")
def test_without_the_reference_the_figures_themselves_are_drawn(tmp_path: Path) -> None:
    page = write_report(record(*three_rounds("aionet", 0.8, 0.8, 0.8, latency={})), tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "connections per CPU second of the server<" in text
    assert "C = 1.00" not in text
    ticks = re.findall(r">(\d[\d,.]*(?: k)?)</text>", text)
    assert "100 k" in ticks
    assert all(tick == "0" or tick.endswith(" k") for tick in ticks)  # one unit on one axis


@needs_matplotlib
def test_a_table_that_is_wider_than_the_page_can_be_scrolled_with_the_keyboard(report: Path) -> None:
    tables = re.findall(
        r"<div class=wide tabindex=0 role=region aria-label=\"([^\"]+)\"><table>", report.read_text()
    )
    assert "echo, 4,000 connections, 64 B" in tables
    assert len(tables) == report.read_text().count("<table>")


def test_what_makes_figures_doubtful_is_said_once_for_each_case() -> None:
    turns = three_rounds("trio", 0.1, 0.1, 0.1, errors={"ECONNRESET": 2}, listen_drops=5)
    turns += three_rounds("curio", 0.1, errors={"mismatch": 1}, saturated=True)
    assert warnings_of(summarise(record(*turns))) == [
        "accept, 64 at a time: errors, so that these figures are not to be trusted:"
        " trio (6 x ECONNRESET), curio (1 x mismatch).",
        "accept, 64 at a time: connections that the kernel turned away, because a listener's queue was full:"
        " trio (15).",
        "Turns marked “load at its limit” were limited by the program that makes the load: there the rate is"
        " not the server's own; the cost per request still holds.",
    ]


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nothing was measured"):
        write_report(record(), tmp_path)


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError, match=r"pip install 'aionet-toolkit\[plot\]'"):
        write_report(some_record(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_matplotlib
@pytest.mark.usefixtures("report")
def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="file"):
        write_report(record(*three_rounds("aionet", 1, latency={})), tmp_path / "file")
