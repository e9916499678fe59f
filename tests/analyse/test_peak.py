"""The peak as a whole: its owners, what reached it, and the choice of device and process."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.errors import MemtraceError
from memtrace.trace import open_trace
from trace_builder import TraceBuilder, serving_trace

MIB = 2**20


def test_owners_and_the_allocation_that_reached_it(tmp_path: Path) -> None:
    peak = open_trace(serving_trace(tmp_path / "x.memtrace")).peak("cuda:0", by="category")
    assert peak.total_bytes == (96 + 21 + 6) * MIB + 5120
    assert [(row.key, row.total_bytes) for row in peak.breakdown.rows] == [
        ("weight", 96 * MIB), ("activation", 21 * MIB), ("kv_cache", 6 * MIB), ("other", 5120),
    ]  # fmt: skip
    assert peak.reached is not None
    assert (peak.reached.size_bytes, peak.reached.block_bytes) == (5000, 5120)
    assert peak.reached.operator is None
    assert peak.reached.stack == ()
    assert peak.live.num_rows == 19


def test_of_reserved_counts_the_block_that_the_segment_was_for(tmp_path: Path) -> None:
    peak = open_trace(serving_trace(tmp_path / "x.memtrace")).peak(of="reserved")
    assert peak.moment.action == "segment_alloc"
    assert peak.total_bytes == 184 * MIB
    assert peak.reached is not None
    assert (peak.reached.operator, peak.reached.module) == ("aten::addmm", "h.0.mlp.c_fc")
    assert peak.reached.stack[0].function == "forward"
    rows = {row.kind: row for row in peak.breakdown.rows}
    assert rows["unused"].total_bytes == (184 - 97) * MIB
    assert peak.breakdown.total_bytes == peak.total_bytes


def test_active_memory_waits_for_the_stream(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    held = process.alloc("cuda:0", 512, operator="held")
    process.free(held, hold=True)
    process.alloc("cuda:0", 1024, operator="later")
    process.release(held)
    trace = open_trace(builder.write())
    assert trace.peak().total_bytes == 1024
    active = trace.peak(of="active")
    assert active.total_bytes == 1536
    assert [row.key for row in active.breakdown.rows] == ["later", "held"]


def test_memory_from_before_recording_can_be_the_peak(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    old = process.alloc("cuda:0", 4096, action="preexisting")
    process.free(old)
    process.alloc("cuda:0", 512)
    peak = open_trace(builder.write()).peak()
    assert peak.total_bytes == 4096
    assert peak.reached is not None
    assert peak.reached.origin == "preexisting"


def test_lost_allocations_are_a_row_of_their_own(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cuda:0", 512, operator="kept")
    process.alloc("cuda:0", 1024, operator="lost")
    del process.rows["allocations"][1]
    peak = open_trace(builder.write()).peak()
    assert peak.reached is None
    assert [(row.kind, row.total_bytes) for row in peak.breakdown.rows] == [
        ("group", 512), ("unmatched", 1024),
    ]  # fmt: skip
    assert peak.breakdown.unattributed_bytes == 1024


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    for rank, size in enumerate((1000, 3000, 2000)):
        process = builder.process(100 + rank, rank=rank)
        process.alloc("cpu", 50_000)
        process.alloc("cuda:0", size)
    return builder.write()


def test_the_process_with_the_largest_peak_and_the_others(ranks: Path) -> None:
    trace = open_trace(ranks)
    peak = trace.peak()
    assert (peak.device, peak.process.pid, peak.total_bytes) == ("cuda:0", 101, 3072)
    assert [p.pid for p, _ in peak.peaks] == [101, 102, 100]
    assert trace.peak(process=102).total_bytes == 2048
    assert trace.peak(process="box-100-a100z").process.pid == 100
    assert trace.peak("cpu", process=100).total_bytes == 50_000


def test_unknown_device_and_process_say_what_there_is(ranks: Path) -> None:
    trace = open_trace(ranks)
    with pytest.raises(
        MemtraceError, match="no memory of cuda:3 in this trace; it has cuda:0, cpu"
    ):
        trace.peak("cuda:3")
    with pytest.raises(MemtraceError, match="no process 5 in this trace; it has 100, 101, 102"):
        trace.peak(process=5)
    with pytest.raises(MemtraceError, match="no process 5"):
        trace.at(0, process=5)


def test_a_device_that_the_process_did_not_use(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(1).alloc("cpu", 10)
    builder.process(2).alloc("cuda:0", 10)
    trace = open_trace(builder.write())
    with pytest.raises(
        MemtraceError, match="no allocated bytes were recorded of cuda:0 by process 1"
    ):
        trace.peak("cuda:0", process=1)
    assert trace.peak(process=1).device == "cpu"


def test_the_cpu_only_when_there_is_nothing_else(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process().alloc("cpu", 10)
    assert open_trace(builder.write()).peak().device == "cpu"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"torch_version": None}, "the program never imported torch"),
        ({}, "imported torch but allocated nothing"),
        ({"lost_total": 12}, "all 12 were lost"),
    ],
)
def test_an_empty_trace_says_why(tmp_path: Path, row: dict[str, object], reason: str) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(**row)
    with pytest.raises(MemtraceError, match=reason):
        open_trace(builder.write()).peak()


def test_at_a_time(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    row = process.alloc("cuda:0", 1000, operator="a")  # at 1,000 ns
    process.alloc("cuda:0", 2000, operator="b")  # at 2,000 ns
    process.free(row)  # requested at 3,000 ns, completed at 4,000 ns
    trace = open_trace(builder.write())
    assert trace.at(1_999).breakdown.total_bytes == 1024
    assert [row.key for row in trace.at(2_000).breakdown.rows] == ["b", "a"]
    assert [row.key for row in trace.at(3_500).breakdown.rows] == ["b"]
    assert trace.at(3_500, of="requested").breakdown.total_bytes == 3000
    assert trace.at(4_000, of="requested").breakdown.total_bytes == 2000
    for time_ns in (0, 500):
        for of in ("allocated", "active", "reserved", "requested"):
            before = trace.at(time_ns, of=of)
            assert (before.breakdown.total_bytes, before.breakdown.rows) == (0, ())
            assert before.live.num_rows == 0
    with pytest.raises(MemtraceError, match="is not within the recording of process 100"):
        trace.at(10_000_000)


def test_before_memory_from_before_was_listed(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.segment("cuda:0", 2**20)
    process.alloc("cuda:0", 1000, action="preexisting")
    trace = open_trace(builder.write())
    with pytest.raises(MemtraceError, match="from before the recording, which is known from 2e-06"):
        trace.at(500)
    assert trace.at(2_000).breakdown.total_bytes == 1024


def test_by_stack_gives_the_frames(tmp_path: Path) -> None:
    peak = open_trace(serving_trace(tmp_path / "x.memtrace")).peak("cuda:0", by="stack")
    frames = peak.snapshot.stacks[peak.breakdown.rows[0].key]
    assert [(frame.function, frame.line) for frame in frames] == [
        ("from_pretrained", 12),
        ("main", 88),
    ]
