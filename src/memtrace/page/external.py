"""Memory that torch was handed (mapped weights, numpy's, shared), one by one, as data of a page."""

from __future__ import annotations

from typing import Any

from memtrace.analyse.live_set import BYTES, live_allocations
from memtrace.analyse.weights import largest_external
from memtrace.page.told import told
from memtrace.report.breakdown import external_text
from memtrace.report.page import FAINT, TITLE, Block, Column, Grid, Line
from memtrace.report.units import duration, size
from memtrace.trace import Process, Trace

MOST_ROWS = 200
_COLUMNS = ("category", "label", "memory", "resident_bytes", "source", "alloc_seq")
_GRID = (
    Column("Size", right=True),
    Column("Resident", right=True),
    Column("Memory"),
    Column("Category"),
    Column("Label", wide=True),
    Column("First seen at", wide=True),
)


def external_told(trace: Trace, process: Process, device: str) -> list[dict[str, Any]]:
    """When there was most of it, the largest first; empty where there never was any."""
    largest = largest_external(trace, process=process.key, device=device)
    if largest is None:
        return []
    moment, external = largest
    live = live_allocations(trace, moment, of="allocated", columns=_COLUMNS, external=True)
    live = live.sort_by([(BYTES, "descending"), ("alloc_seq", "ascending")])
    blocks: list[Block] = [
        Line(f"Not from torch's allocators: {external_text(external)}", TITLE),
        Line(f"at {duration(moment.time_ns)}, when there was most; in no total of {device}"),
        Grid(_GRID, tuple(_row(row) for row in live.slice(0, MOST_ROWS).to_pylist())),
    ]
    if live.num_rows > MOST_ROWS:
        blocks.append(Line(f"and {live.num_rows - MOST_ROWS:,} smaller", FAINT))
    return told(blocks)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    resident = row["resident_bytes"]
    words = (row[name] or "" for name in ("memory", "category", "label", "source"))
    return (size(row[BYTES]), "not known" if resident is None else size(resident), *words)
