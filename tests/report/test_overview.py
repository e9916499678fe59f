"""The shortest answer, as text and as HTML: figures of the trace, and every text escaped."""

from __future__ import annotations

from pathlib import Path

import pytest

import memtrace
from memtrace.analyse.overview import take_overview
from memtrace.report.html import MOST_ROWS, html_of
from memtrace.report.overview import overview_page
from memtrace.report.page import FAINT, WARNING, Column, Grid, Line, text_of
from memtrace.trace import Trace
from notebook_runs import read_html
from trace_builder import TraceBuilder, failing_trace, serving_trace

MIB = 2**20


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return memtrace.open(serving_trace(tmp_path / "x.memtrace"))


def test_each_device_with_its_peak_and_its_owners(trace: Trace) -> None:
    overview = take_overview(trace)
    assert [device.peak.device for device in overview.devices] == ["cuda:0", "cpu"]
    gpu = overview.devices[0]
    assert gpu.peak.total_bytes == trace.peak("cuda:0").total_bytes
    assert gpu.reserved_bytes == trace.peak("cuda:0", of="reserved").total_bytes
    for owners in gpu.owners:
        assert sum(row.total_bytes for row in owners.rows) == gpu.peak.total_bytes
        assert sum(row.kind == "group" for row in owners.rows) <= 3
    peaks, cuda, cpu = read_html(html_of(overview_page(overview))).tables
    assert peaks[0] == ["Device", "Peak", "Bytes", "At", "Reserved", "Left at the end"]
    assert [row[0] for row in peaks[1:]] == ["cuda:0", "cpu"]
    assert peaks[1][2] == f"{gpu.peak.total_bytes:,}"
    assert peaks[2][4] == ""  # the CPU reserves nothing
    assert (cuda[0][0], cpu[0][0]) == ("Peak of cuda:0", "Peak of cpu")
    assert cuda[1][:3] == ["by category", "weight", "96.00 MiB"]


def test_one_device(trace: Trace) -> None:
    overview = take_overview(trace, device="cpu")
    assert [device.peak.device for device in overview.devices] == ["cpu"]
    with pytest.raises(memtrace.MemtraceError, match="no memory of cuda:1"):
        take_overview(trace, device="cuda:1")


def test_losses_failures_and_other_processes_are_said(tmp_path: Path) -> None:
    path = failing_trace(tmp_path / "x.memtrace", lost_total=3, lost_events='{"event_no_space": 3}')
    text = text_of(overview_page(take_overview(memtrace.open(path))))
    assert "out of memory 2 times" in text
    assert "3 records (3 event_no_space): figures are bounds" in text
    builder = TraceBuilder(tmp_path / "y.memtrace")
    for pid in (7, 8):
        builder.process(pid=pid).alloc("cpu", 100 * pid)
    text = text_of(overview_page(take_overview(memtrace.open(builder.write()))))
    assert "2 events of 2 processes" in text
    assert "of process 8, whose peak is the largest" in text
    assert "lost" not in text


def test_an_empty_trace(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(torch_version=None)
    shown = memtrace.open(builder.write())._repr_mimebundle_()
    for text in shown.values():
        assert "the program never imported torch" in text


def test_values_show_the_same_as_commands(trace: Trace) -> None:
    for value, first in (
        (trace, f"{trace.path}: "),
        (trace.peak("cuda:0"), "Peak of allocated memory on cuda:0: "),
        (trace.at(trace.peak("cuda:0").time_ns), "Allocated memory on cuda:0 at "),
    ):
        shown = value._repr_mimebundle_()
        assert shown["text/plain"].startswith(first)
        assert read_html(shown["text/html"]).lines[1].startswith(first)
        assert value._repr_html_() == shown["text/html"]


def test_what_goes_wrong_is_one_line(trace: Trace, tmp_path: Path) -> None:
    for file in trace.path.rglob("*.parquet"):
        file.unlink()
    found = read_html(trace._repr_html_())
    assert found.tables == []
    assert found.lines[-1].startswith("memtrace: ")


def test_html_escapes_every_text_and_cuts_long_tables() -> None:
    evil = "</td><script>alert(1)</script>\"'&"
    grid = Grid(
        (Column(evil), Column("", bar=True), Column("n", right=True)),
        tuple((evil, "500", f"{number}\nb") for number in range(MOST_ROWS + 7)),
        frozenset({1}),
        styles={(0, 2): WARNING},
    )
    html = html_of([Line(evil, FAINT), Line(""), grid])
    found = read_html(html)
    assert found.tags == {"div", "table", "thead", "tbody", "tr", "th", "td"}
    (table,) = found.tables
    assert table[0] == [evil, "", "n"]
    assert table[1] == [evil, "", "0\nb"]
    assert table[-1] == ["and 7 more"]
    assert len(table) == MOST_ROWS + 2
    assert found.lines[1] == evil
    assert "width:50.0%" in html
    assert "currentColor" in html
