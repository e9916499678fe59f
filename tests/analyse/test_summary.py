"""The summary's figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memtrace.analyse.summary import summarise
from memtrace.errors import MemtraceError
from memtrace.trace import open_trace
from trace_builder import TraceBuilder, serving_trace

MIB = 2**20


def test_one_process(tmp_path: Path) -> None:
    summary = summarise(open_trace(serving_trace(tmp_path / "x.memtrace")))
    (process,) = summary.processes
    assert summary.main == process.process.key
    assert summary.empty is None
    assert (process.events, process.allocations, process.reconciled) == (37, 20, "yes")
    gpu, cpu = process.devices
    assert (gpu.device, gpu.name, gpu.device_total_bytes) == (
        "cuda:0",
        "Simulated H100",
        80 * 2**30,
    )
    assert gpu.allocated is not None
    assert gpu.allocated.total_bytes == 123 * MIB + 5120
    assert gpu.reserved is not None
    assert gpu.reserved.total_bytes == 184 * MIB
    assert (gpu.end_allocated_bytes, gpu.end_reserved_bytes) == (102 * MIB + 5120, 184 * MIB)
    assert (gpu.weight_bytes, gpu.fp32_weight_bytes, gpu.bf16_saving_bytes) == (
        96 * MIB, 96 * MIB, 48 * MIB,
    )  # fmt: skip
    assert gpu.unused_at_reserved_peak_bytes == (184 - 97) * MIB
    assert gpu.operators is not None
    assert gpu.operators.rows[0].key == "aten::to"
    assert cpu.allocated is not None
    assert cpu.allocated.total_bytes == 3 * MIB
    assert cpu.reserved is None
    assert cpu.end_allocated_bytes == 0


def test_a_weight_is_counted_once_however_many_names_it_has(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    tied = process.alloc("cuda:0", 1024, category="weight")
    process.name(tied, "wte.weight", dtype="float32")
    process.name(tied, "lm_head.weight", dtype="float32")
    half = process.alloc("cuda:0", 1024, category="weight")
    process.name(half, "h.weight", dtype="bfloat16")
    buffer = process.alloc("cuda:0", 512, category="buffer")
    process.name(buffer, "mask", dtype="float32")
    (use,) = summarise(open_trace(builder.write())).processes[0].devices
    assert (use.weight_bytes, use.buffer_bytes, use.fp32_weight_bytes) == (2048, 512, 1024)


def test_pinned_memory_is_part_of_the_peak(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 1000)
    pinned = process.alloc("cpu", 600, memory="pinned", block_bytes=1024)
    process.free(pinned)
    process.alloc("cpu", 24)
    (use,) = summarise(open_trace(builder.write())).processes[0].devices
    assert use.allocated is not None
    assert (use.allocated.total_bytes, use.pinned_bytes) == (2024, 1024)
    assert use.end_allocated_bytes == 1024


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"reconciled": True, "mismatch_bytes": 0}, "yes"),
        ({"reconciled": False, "mismatch_bytes": 2048}, "differs by 2,048 bytes"),
        ({"reconciled": None, "reconcile_note": "no CUDA"}, "not checked: no CUDA"),
        ({"reconciled": True, "reconcile_note": "9 values"}, "yes (9 values)"),
        ({"reconciled": None}, "not checked: torch keeps no counters of the CPU"),
    ],
)
def test_reconciliation(tmp_path: Path, row: dict[str, object], expected: str) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(**row).alloc("cpu", 1)
    assert summarise(open_trace(builder.write())).processes[0].reconciled == expected


def test_losses_by_kind_and_children(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    lost = json.dumps({"event_no_space": 3, "stack_too_deep": 0})
    builder.process(1, lost_events=lost, lost_total=3).alloc("cuda:0", 4096)
    child = builder.process(2, parent="box-1-a1z", parent_pid=1, start_method="fork")
    child.alloc("cpu", 2**30)
    summary = summarise(open_trace(builder.write()))
    assert summary.main == "box-1-a1z", "an accelerator's peak outranks the CPU's"
    parent, forked = summary.processes
    assert parent.lost == {"event_no_space": 3, "stack_too_deep": 0}
    assert summary.lost_total == 3
    assert parent.parent_pid is None
    assert forked.parent_pid == 1


def test_one_device_only(tmp_path: Path) -> None:
    trace = open_trace(serving_trace(tmp_path / "x.memtrace"))
    (process,) = summarise(trace, device="cpu").processes
    assert [use.device for use in process.devices] == ["cpu"]
    with pytest.raises(MemtraceError, match="it has cuda:0, cpu"):
        summarise(trace, device="cuda:1")


def test_a_trace_without_events(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(torch_version=None)
    summary = summarise(open_trace(builder.write()))
    assert summary.empty == "the trace has no events: the program never imported torch"
