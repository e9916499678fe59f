"""Events that tell of blocks alone: what the device holds for them is what torch's counter says."""

from __future__ import annotations

from pathlib import Path

from memtrace.finalise import finalise
from memtrace.trace import open_trace
from spool_writer import SpoolWriter


def reserved(trace_dir: Path, settings: str) -> list[int]:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.mark(1, "settings", text=settings)
    log.sample(2, "reserved_bytes.current", 1 << 21, target="cuda:0", device=0)
    log.event("alloc", 3, 0x1000, 700, device=0, order=1)
    log.sample(4, "reserved_bytes.current", 1 << 20, target="cuda:0", device=0)
    log.event("free_completed", 5, 0x1000, 700, device=0, order=2)
    spool.finish()
    finalise(trace_dir)
    trace = open_trace(trace_dir)
    (process,) = trace.process_list
    assert process.row["reconciled"] is (settings != "{}")
    assert process.row["lost_total"] == 0
    assert trace.segments.num_rows == 0
    return [row["reserved_bytes"] for row in trace.events.to_pylist()]


def test_the_counter_is_the_truth(tmp_path: Path) -> None:
    assert reserved(tmp_path / "t.memtrace", '{"blocks_only": true}') == [1 << 21, 1 << 20]


def test_where_segments_are_told_it_is_compared(tmp_path: Path) -> None:
    assert reserved(tmp_path / "t.memtrace", "{}") == [0, 0]
