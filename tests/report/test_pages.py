"""Pages in a pipe (plain, unbroken) and in a terminal (styled, never wider than it)."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from memtrace.analyse.breakdown import break_down
from memtrace.analyse.live_set import BYTES
from memtrace.analyse.peak import find_peak
from memtrace.analyse.summary import summarise
from memtrace.report.as_json import peak_document, summary_document
from memtrace.report.at_end import end_page, write_end_summary
from memtrace.report.breakdown import breakdown_grid
from memtrace.report.losses import _CUT_WORDS
from memtrace.report.page import Block, Column, Grid, Line, write_page
from memtrace.report.snapshot import peak_page
from memtrace.report.summary import summary_page
from memtrace.schema import LOST_WORDS
from memtrace.trace import Trace, open_trace
from trace_builder import TraceBuilder, serving_trace


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plain(blocks: list[Block]) -> str:
    out = io.StringIO()
    write_page(blocks, out)
    return out.getvalue()


def terminal(blocks: list[Block], columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    write_page(blocks, out)
    return out.getvalue()


@pytest.fixture
def serving(tmp_path: Path) -> Trace:
    return open_trace(serving_trace(tmp_path / "serve.memtrace"))


LONG = Grid(
    (Column("Module", wide=True), Column("Size", right=True), Column("", bar=True)),
    (("a" * 150, "1.00 MiB", "900"), ("b\nc", "10 B", "100")),
    frozenset({1}),
)


def test_plain_tables_are_aligned_and_never_cut() -> None:
    lines = plain([LONG]).splitlines()
    assert lines == [
        "Module" + " " * 146 + "    Size",
        "a" * 150 + "  1.00 MiB",
        "b < c" + " " * 147 + "    10 B",
    ]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_is_never_overflown(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal([LONG], columns, monkeypatch)
    bare = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert bare != shown, "styled"
    assert all(len(line.rstrip()) <= columns for line in bare.splitlines())
    assert "1.00 MiB" in bare, "numbers are never cut"
    assert ("█" in bare) == (columns == 120)


def test_a_long_line_goes_on_further_in(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/a/" + "x" * 100
    shown = terminal([Line("  ran      one two three four"), Line(path)], 20, monkeypatch)
    assert shown.splitlines() == ["  ran      one two", "      three four", path]


def test_an_empty_column_is_left_out() -> None:
    rows = pa.table({"memory": ["host"], "source": pa.nulls(1, pa.string()), "size_bytes": [5]})
    live = rows.append_column(BYTES, pa.array([5], pa.int64()))
    held = break_down(live, by="memory")
    assert "Mostly" not in plain([breakdown_grid(held, {}, requested=False)])


def test_markup_in_names_is_only_text(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid((Column("x[red]"),), (("[bold]h[/bold]",),))
    shown = terminal([grid, Line("[x] [/y]")], 80, monkeypatch)
    assert "[bold]h[/bold]" in shown
    assert "[x] [/y]" in shown


def test_the_peak_page(serving: Trace) -> None:
    page = plain(peak_page(find_peak(serving, by="module", top=2), top=2))
    assert "Peak of allocated memory on cuda:0: 123.0 MiB (128,979,968 bytes)" in page
    assert "5,000 bytes in a block of 5.00 KiB (5,120 bytes)" in page
    assert "unattributed by module: 96.00 MiB (100,668,416 bytes)" in page
    assert re.search(r"^\(outside any module\) +96\.00 MiB +78\.0 % ", page, re.M)
    assert re.search(r"^10 other groups ", page, re.M)
    assert "\x1b" not in page
    shares = re.findall(r"([\d.]+) %", page)
    assert round(sum(float(share) for share in shares), 6) == 100


def test_losses_are_on_every_page(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    lost = json.dumps({"event_no_space": 5, "stack_too_deep": 0})
    builder.process(lost_total=5, lost_events=lost).alloc("cuda:0", 512)
    trace = open_trace(builder.write())
    assert "5 records lost while recording" in plain(peak_page(find_peak(trace), top=5))
    summary = summarise(trace)
    for page in (plain(summary_page(summary)), plain(end_page(summary))):
        assert "  lost     5 records (5 event_no_space): figures are bounds\n" in page


@pytest.mark.parametrize(
    ("kind", "count", "told"),
    [
        ("stack_too_deep", 1, "1 stack cut at 512 frames"),
        ("pool_unnumbered", 7, "7 events of memory pools beyond the 4,096 told apart"),
    ],
)
def test_what_costs_no_byte_is_no_loss(tmp_path: Path, kind: str, count: int, told: str) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    lost = json.dumps({"event_no_space": 0, kind: count})
    builder.process(lost_total=0, lost_events=lost).alloc("cuda:0", 512)
    summary = summarise(open_trace(builder.write()))
    for page in (plain(summary_page(summary)), plain(end_page(summary))):
        assert "  lost     nothing\n" in page
        assert f"  cut      {told}; no byte is missing\n" in page
        assert "bounds" not in page
    assert summary_document(summary)["lost_total"] == 0


def test_every_loss_of_words_has_its_words() -> None:
    assert _CUT_WORDS.keys() == LOST_WORDS


def test_mapped_weights_have_their_line(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    weight = process.alloc(
        "cpu", 32 * 2**20, action="external", memory="mapped", category="weight",
        resident_bytes=2**20,
    )  # fmt: skip
    process.name(weight, "fc.weight", dtype="float32")
    summary = summarise(open_trace(builder.write()))
    page = plain(summary_page(summary))
    assert "  weights        32.00 MiB (33,554,432 bytes)\n" in page
    assert "  of it mapped   32.00 MiB (33,554,432 bytes), resident 1.00 MiB\n" in page
    assert "not torch's" not in page, "said once"
    assert "100 % of the weights on cpu are float32: bfloat16 would save about 16.00 MiB" in page
    assert "weights 32.00 MiB, mapped 32.00 MiB" in plain(end_page(summary))
    use = summary_document(summary)["processes"][0]["devices"][0]
    assert (use["weight_bytes"], use["mapped_weight_bytes"]) == (2**25, 2**25)
    assert use["mapped_weight_resident_bytes"] == 2**20


def test_the_program_ran_whichever_process_held_most(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    spawn = json.dumps(["-c", "from multiprocessing.spawn import spawn_main"])
    builder.process(9, exit_status=3).alloc("cpu", 1)
    builder.process(5, start_method="spawn", parent="box-9-a9z", argv=spawn, complete=False).alloc(
        "cpu", 4096
    )
    summary = summarise(open_trace(builder.write()))
    page = plain(summary_page(summary))
    assert "  ran      serve.py --requests 3\n" in page
    assert "  process  9 on box" in page
    assert "ended: exit, status 3\n" in page
    assert "  holds    2 events, 2 allocations of 2 processes\n" in page
    assert "  process 5 did not end in order" in page
    assert "\ncpu of process 5\n" in page
    assert "  cpu of process 5: peak 4.00 KiB" in plain(end_page(summary))


def test_what_was_switched_off_is_said(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(operators_on=False, stacks_on=False).alloc("cpu", 4096)
    trace = open_trace(builder.write())
    page = plain(peak_page(find_peak(trace), top=5))
    assert "  reached by an allocation (operators were not recorded): 4.00 KiB" in page
    assert "    stacks were not recorded\n" in page
    assert re.search(r"^\(operators were not recorded\) +4\.00 KiB +100\.0 % ", page, re.M)
    by_module = plain(peak_page(find_peak(trace, by="module"), top=5))
    assert re.search(r"^\(stacks were not recorded\) +4\.00 KiB ", by_module, re.M)
    assert "outside any" not in page + by_module


def test_the_summary_page(serving: Trace) -> None:
    page = plain(summary_page(summarise(serving)))
    for line in (
        "  ran      serve.py --requests 3",
        "  lost     nothing",
        "  reconciles with torch: yes",
        "cuda:0 (Simulated H100, 80.00 GiB)",
        "  peak reserved  184.0 MiB (192,937,984 bytes) at 112.000 ms",
        "  weights        96.00 MiB (100,663,296 bytes)",
    ):
        assert line in page.splitlines()
    assert "hint (estimate): 100 % of the weights on cuda:0 are float32" in page
    assert "reserved but unused at the peak of reserved" in page


def test_pinned_memory_has_its_line(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 1000)
    process.alloc("cpu", 600, memory="pinned", block_bytes=1024)
    trace = open_trace(builder.write())
    summary, peak = summarise(trace), find_peak(trace)
    assert "  of it pinned   1.00 KiB (1,024 bytes) at the peak\n" in plain(summary_page(summary))
    assert ", pinned 1.00 KiB" in plain(end_page(summary))
    assert "  of it pinned: 1.00 KiB (1,024 bytes)\n" in plain(peak_page(peak, top=5))
    assert peak_document(peak)["pinned_bytes"] == 1024


def test_nothing_is_said_of_pinned_memory_where_there_is_none(serving: Trace) -> None:
    summary = summarise(serving)
    for page in (summary_page(summary), end_page(summary), peak_page(find_peak(serving), top=5)):
        assert not re.search("of it pinned|, pinned", plain(page))


def test_several_processes_are_a_table(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(1).alloc("cpu", 2048)
    builder.process(2, parent="box-1-a1z", parent_pid=1, start_method="fork", torch_version=None)
    page = plain(summary_page(summarise(open_trace(builder.write()))))
    assert "2 processes" in page
    assert re.search(r"^ +2 +1 +fork +exit, status 0 +0 +0 +nothing allocated$", page, re.M)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"reconciled": False, "mismatch_bytes": 512}, "reconciles with torch: no, differs by 512"),
        (
            {"reconciled": None, "reconcile_note": "no GPU"},
            "reconciles with torch: not checked: no",
        ),
        ({"complete": False, "end_reason": "killed"}, "the process did not end in order"),
        ({"argv_withheld": True}, "(arguments withheld)"),
        ({"unmatched_frees": 3}, "3 frees of memory from before recording"),
    ],
)
def test_what_the_summary_says_of_trouble(
    tmp_path: Path, row: dict[str, object], line: str
) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(**row).alloc("cpu", 2048)
    assert line in plain(summary_page(summarise(open_trace(builder.write()))))


def test_answers_say_where_torch_counted_otherwise(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(reconciled=False, mismatch_bytes=512).alloc("cpu", 2048)
    trace = open_trace(builder.write())
    for page in (end_page(summarise(trace)), peak_page(find_peak(trace), top=5)):
        assert "torch's own counters differ by up to 512 bytes" in plain(page)


def test_a_program_without_torch(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(torch_version=None)
    summary = summarise(open_trace(builder.write()))
    for page in (summary_page(summary), end_page(summary)):
        assert "the trace has no events: the program never imported torch" in plain(page)


def test_the_brief_is_brief_and_names_the_next_command(serving: Trace) -> None:
    out = io.StringIO()
    write_end_summary(serving.path, "./serve.memtrace", out)
    lines = out.getvalue().splitlines()
    assert len(lines) <= 6
    assert "cuda:0: peak 123.0 MiB at 203.000 ms" in out.getvalue()
    assert lines[0] == "memtrace: ./serve.memtrace: 37 events"
    assert lines[-1].startswith("  next: python -m memtrace peak ")


def test_documents_are_json_and_exact(serving: Trace) -> None:
    peak = json.loads(json.dumps(peak_document(find_peak(serving, by="stack", top=1))))
    assert (peak["total_bytes"], peak["device"], peak["of"]) == (128_979_968, "cuda:0", "allocated")
    assert sum(group["bytes"] for group in peak["groups"]) == peak["total_bytes"]
    assert round(sum(group["share_percent"] for group in peak["groups"]), 6) == 100
    assert peak["stacks"]["1"][0]["function"] == "from_pretrained"
    summary = json.loads(json.dumps(summary_document(summarise(serving))))
    (process,) = summary["processes"]
    assert process["argv"] == ["serve.py", "--requests", "3"]
    assert process["devices"][0]["allocated"]["total_bytes"] == 128_979_968
    assert process["lost_events"] == {"event_no_space": 0, "stack_too_deep": 0}
