"""The page of `memtrace fragmentation`, and its short form on the page of the peak."""

from __future__ import annotations

import io
from pathlib import Path

from memtrace.analyse.fragmentation import find_fragmentation
from memtrace.analyse.layout import Kind
from memtrace.analyse.peak import find_peak
from memtrace.report.fragmentation import fragmentation_page, kind_text
from memtrace.report.page import Block, write_page
from memtrace.report.snapshot import peak_page
from memtrace.trace import open_trace
from trace_builder import TraceBuilder, failing_trace

MIB = 2**20


def plain(blocks: list[Block]) -> list[str]:
    out = io.StringIO()
    write_page(blocks, out)
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 100 for line in lines), lines
    return lines


def test_the_sum_and_who_pins(tmp_path: Path) -> None:
    trace = open_trace(failing_trace(tmp_path / "x.memtrace"))
    lines = plain(fragmentation_page(find_fragmentation(trace), top=5))
    assert lines[:6] == [
        "Fragmentation of cuda:0: 216.0 MiB (226,492,416 bytes)",
        "  at the peak of reserved memory, 259.000 ms, event 24 of process 100",
        "  reserved 240.0 MiB (251,658,240 bytes) - allocated 24.00 MiB (25,165,824 bytes)",
        "    = waiting 0 bytes + free 216.0 MiB (226,492,416 bytes)",
        "  of the free 216.0 MiB pinned by 12 blocks; the largest free block 18.00 MiB",
        "",
    ]
    assert lines[7].split()[:3] == ["large", "12", "240.0"]
    assert lines[10].split()[:6] == ["train.py:42", "main", "216.0", "MiB", "216.0", "MiB"]


def test_waiting_blocks_and_other_owners(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.segment("cuda:0", 20 * MIB, address=2**30)
    for place in range(4):
        row = process.alloc(
            "cuda:0", (4 - place) * MIB, address=2**30 + place * 5 * MIB, source=f"a.py:{place} f"
        )
    process.free(row, hold=True)
    trace = open_trace(builder.write())
    found = find_fragmentation(trace, time_ns=process.time_ns)
    lines = plain(fragmentation_page(found, top=2))
    assert "    = waiting 1.00 MiB (1,048,576 bytes) + free 10.00 MiB (10,485,760 bytes)" in lines
    assert any(line.startswith("2 other owners") for line in lines)


def test_a_trace_that_does_not_add_up_says_so(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.segment("cuda:0", 20 * MIB, address=2**30)
    process.alloc("cuda:0", MIB, address=2**30)
    process.rows["events"][-1]["active_bytes"] += 512
    lines = plain(fragmentation_page(find_fragmentation(open_trace(builder.write())), top=2))
    assert any("differ by 512 bytes from the device's own totals" in line for line in lines)


def test_a_device_without_segments(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process().alloc("cuda:0", MIB)
    lines = plain(fragmentation_page(find_fragmentation(open_trace(builder.write())), top=2))
    assert lines[-1] == "  nothing was reserved in segments"


def test_the_peak_of_reserved_tells_the_short_form(tmp_path: Path) -> None:
    trace = open_trace(failing_trace(tmp_path / "x.memtrace"))
    lines = plain(peak_page(find_peak(trace, of="reserved"), top=5))
    at = lines.index(
        "  unused 216.0 MiB: 216.0 MiB pinned by 12 blocks; the largest free block 18.00 MiB"
    )
    assert lines[at + 1].startswith("    12 blocks (24.00 MiB) of train.py:42 main")
    assert not any("unused" in line for line in plain(peak_page(find_peak(trace), top=5)))


def test_kinds_in_words() -> None:
    assert kind_text(Kind("default", True, False, 0)) == "small"
    assert kind_text(Kind("graph:1:2", False, True, 0x10)) == (
        "graph:1:2, large, expandable, stream 0x10"
    )
