"""The table `allocations` as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import memtrace
from memtrace.export.csv_table import write_csv
from memtrace.outputs import Selection
from memtrace.schema import SCHEMAS
from memtrace.trace import Trace
from trace_builder import TraceBuilder


def rows(trace: Trace, **selection: Any) -> list[dict[str, str]]:
    out = io.BytesIO()
    write_csv(trace, Selection(**selection), out)
    return list(csv.DictReader(io.StringIO(out.getvalue().decode())))


def two_processes(path: Path) -> Trace:
    builder = TraceBuilder(path / "t.memtrace")
    for pid in (1, 2):
        p = builder.process(pid=pid)
        p.free(p.alloc("cpu", pid * 10, operator='aten::"mm", or so'))
        p.alloc("cuda:0", 7)
    return memtrace.open(builder.write())


def test_every_allocation_is_a_row_under_one_header(tmp_path: Path) -> None:
    trace = two_processes(tmp_path)
    found = rows(trace)
    assert list(found[0]) == ["process", *SCHEMAS["allocations"].names]
    assert [(row["process"], int(row["size_bytes"])) for row in found] == [
        ("box-1-a1z", 10), ("box-1-a1z", 7), ("box-2-a2z", 20), ("box-2-a2z", 7),
    ]  # fmt: skip
    assert found[0]["operator"] == 'aten::"mm", or so'
    assert (found[1]["free_seq"], found[1]["operator"]) == ("", "")


def test_a_device_and_a_window(tmp_path: Path) -> None:
    trace = two_processes(tmp_path)
    assert {row["size_bytes"] for row in rows(trace, device="cuda:0")} == {"7"}
    freed_ns = int(rows(trace)[0]["free_time_ns"])
    late = rows(trace, window_ns=(freed_ns + 1, freed_ns + 10_000_000))
    assert {row["device"] for row in late} == {"cuda:0"}
    at_the_free = rows(trace, window_ns=(freed_ns, freed_ns))
    assert {row["device"] for row in at_the_free} == {"cpu"}
