"""Spools made to exhaust the finaliser: time and memory follow their size, and sums stay sums."""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from memtrace import _core
from memtrace.finalise.parquet import to_table
from spool_writer import SpoolWriter

_MOST_SECONDS = 20.0  # each is done in one, on a machine with nothing else to do


def converted(spool: SpoolWriter) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    """All rows by dataset, and what did not fit together."""
    spool.finish()
    conversion = _core.Conversion(_core.SpoolReader(str(spool.path)))
    batches = []
    began = time.monotonic()
    while not conversion.finished:
        batches += conversion.advance()
    assert time.monotonic() - began < _MOST_SECONDS
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for batch in batches:
        rows[batch.dataset] += to_table(batch.dataset, list(batch.columns)).to_pylist()
    return rows, dict(conversion.totals()["oddities"])


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_roots_that_contain_each_other_in_a_long_chain(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    spool.log()
    log = spool.log()
    class_name = spool.name("M")
    modules = 60_000
    for module in range(1, modules + 1):
        spool.write_text("module", module, struct.pack("<IIQ", class_name, 0, 0))
        around = min(module + 1, modules)
        spool.write_text("module_path", module, struct.pack("<I", around) + b"a")
    for line in range(200):
        stack = spool.stack([("forward", "m.py", line, 1 + 50 * line)])
        log.alloc(10 + line, 0x1000 * (line + 1), 512, stack=stack)
    rows, _ = converted(spool)
    paths = [row["module"] for row in rows["allocations"]]
    assert len(paths) == 200
    assert all(set(path.split(".")) == {"a"} for path in paths)
    assert max(map(len, paths)) <= 4096


def test_one_tensor_that_has_many_names(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    spool.log()
    log = spool.log()
    names = 150_000
    log.alloc(10, 0x1000000, 64 * names)
    for again in range(2):
        for i in range(names):
            log.tensor(20 + again * names + i, 0x1000000, "x", "input", "float32 1x16",
                       size=64 * names, offset=64 * i)  # fmt: skip
    rows, _ = converted(spool)
    assert len(rows["names"]) == names
    assert len({row["offset_bytes"] for row in rows["names"]}) == names


def test_a_device_holds_no_more_than_sums_can_tell(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    spool.log()
    log = spool.log()
    events, fit = 100, 32  # of 2^48 bytes are 2^53
    order = iter(range(3 * events))
    for i in range(events):
        address = (i + 1) << 12
        log.alloc(10 * i, address, 1 << 48, op="aten::empty", call=1)
        log.event("external", 10 * i + 1, address + (1 << 60), 1 << 48)
        log.event("segment_alloc", 10 * i + 2, (i + 1) << 48, 1 << 48, device=0, order=next(order))
        log.alloc(10 * i + 3, (i + 1) << 48, 1 << 48, device=0, order=next(order))
    rows, oddities = converted(spool)
    for kind in ("allocated_bytes", "active_bytes", "reserved_bytes"):
        sums = [row[kind] for row in rows["events"]]
        assert min(sums) >= 0
        assert max(sums) == 1 << 53
    assert len(rows["allocations"]) == 3 * fit
    assert oddities["bad_records"] == 4 * (events - fit)


def test_a_call_in_which_memory_comes_and_goes_without_end(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    spool.log()
    log = spool.log()
    for i in range(33_000):
        log.alloc(10 * i, 0x1000, 1 << 48, op="aten::empty", call=1)
        log.free(10 * i + 1, 0x1000, call=1)
    rows, _ = converted(spool)
    (call,) = rows["operators"]
    assert call["allocated_bytes"] == call["freed_bytes"] == (1 << 63) - 1


def test_logs_that_are_all_ahead_of_their_device(trace_dir: Path) -> None:
    per_log = 63
    spool = SpoolWriter(trace_dir, chunk_bytes=64 * (1 + per_log))
    logs = 2_000
    for number in range(logs):
        log = spool.log(1)
        for i in range(number * per_log, (number + 1) * per_log):
            log.alloc(1000, 0x1000 * (i + 1), 512, device=0, order=3 * i)
    rows, _ = converted(spool)
    assert len(rows["events"]) == logs * per_log


def test_numbers_of_backward_passes_are_not_kept(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    for task in range(1, 400_001):
        for kind in ("backward_begin", "backward_end"):
            log.mark(10 * task, kind, value=task)
    spool.finish()
    conversion = _core.Conversion(_core.SpoolReader(str(spool.path)))
    texts: list[str] = []
    before = 0.0
    while not conversion.finished:
        for batch in conversion.advance():
            texts = to_table(batch.dataset, list(batch.columns)).column("text").to_pylist()
        before = before or resident_mib()
    assert texts[-2:] == ["400000", "400000"]
    assert resident_mib() - before < 20
