"""The summary's figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memtrace.analyse.summary import summarise
from memtrace.analyse.weights import Weights
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
    assert gpu.weights == Weights(weight_bytes=96 * MIB, fp32_weight_bytes=96 * MIB)
    assert gpu.bf16_saving_bytes == 48 * MIB
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
    assert use.weights == Weights(2048, 512, 1024)


def test_mapped_weights_that_were_not_known_at_the_peak_of_allocated(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.free(process.alloc("cpu", 5000))
    mapped: dict[str, Any] = {"action": "external", "memory": "mapped"}
    process.free(process.alloc("cpu", 700, **mapped, resident_bytes=0))
    bias = process.alloc("cpu", 1024, category="weight")
    weight = process.alloc("cpu", 32 * MIB, **mapped, category="weight", resident_bytes=MIB)
    for row, name in ((bias, "fc.bias"), (weight, "fc.weight"), (weight, "tied.weight")):
        process.name(row, name, dtype="float32")
    process.alloc("cpu", 8192, **mapped, category="buffer", resident_bytes=4096)
    process.free(weight)
    (use,) = summarise(open_trace(builder.write())).processes[0].devices
    assert use.allocated is not None
    assert use.allocated.total_bytes == 5000
    assert use.weights == Weights(
        weight_bytes=32 * MIB + 1024,
        buffer_bytes=8192,
        fp32_weight_bytes=32 * MIB + 1024,
        mapped_weight_bytes=32 * MIB + 8192,
        mapped_weight_resident_bytes=MIB + 4096,
    )
    assert use.bf16_saving_bytes == 16 * MIB + 512
    assert use.external.total_bytes == 32 * MIB + 8192
    assert use.external.resident_bytes == MIB + 4096


def test_mapped_memory_that_is_seen_anew_is_counted_once(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    mapped: dict[str, Any] = {"action": "external", "memory": "mapped"}
    first = process.alloc("cpu", 700, **mapped)
    again = process.alloc("cpu", 900, **mapped)
    first |= {"free_seq": again["alloc_seq"], "free_time_ns": again["alloc_time_ns"]}
    (use,) = summarise(open_trace(builder.write())).processes[0].devices
    assert use.external.total_bytes == 900


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
    assert summary.root == "box-1-a1z"
    parent, forked = summary.processes
    assert parent.lost == {"event_no_space": 3, "stack_too_deep": 0}
    assert summary.lost_total == 3
    assert parent.parent_pid is None
    assert forked.parent_pid == 1


def test_words_that_are_cut_are_no_loss(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    lost = json.dumps({"event_no_space": 0, "stack_too_deep": 1, "order_gaps": 2})
    builder.process(1, lost_events=lost, lost_total=0).alloc("cpu", 4096)
    summary = summarise(open_trace(builder.write()))
    (process,) = summary.processes
    assert summary.lost_total == process.lost_total == 0
    assert process.cut == {"stack_too_deep": 1}
    assert process.bounding == {"order_gaps": 2}


def test_the_program_is_not_the_process_with_the_largest_peak(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(5, start_method="spawn", parent="box-9-a9z").alloc("cpu", 4096)
    builder.process(9).alloc("cpu", 1)
    summary = summarise(open_trace(builder.write()))
    assert (summary.root, summary.main) == ("box-9-a9z", "box-5-a5z")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"torch_version": None, "cpu_on": False}, "the program never imported torch"),
        ({"cpu_on": False}, "on a GPU, and CPU tensors were not recorded (--no-cpu)"),
        ({"cpu_on": True}, "imported torch but allocated nothing while recorded"),
    ],
)
def test_why_a_trace_is_empty(tmp_path: Path, row: dict[str, object], words: str) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(**row)
    empty = summarise(open_trace(builder.write())).empty
    assert empty is not None
    assert words in empty


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
