"""What a process holds of a GPU beside torch's allocator."""

from __future__ import annotations

from pathlib import Path

from fit.made_up import GIB, MIB
from memtrace.fit.context import ASSUMED, Context, find_context
from memtrace.trace import open_trace
from trace_builder import TraceBuilder


def context(path: Path, *samples: tuple[str, int]) -> Context:
    builder = TraceBuilder(path)
    p = builder.process()
    p.segment("cuda:0", GIB)
    p.alloc("cuda:0", GIB)
    for metric, value in samples:
        p.sample("cuda:0", "nvml", metric, value, reason="period")
    trace = open_trace(builder.write())
    return find_context(trace, trace.process_list[0], "cuda:0")


def test_what_the_driver_counts_of_the_process(tmp_path: Path) -> None:
    found = context(
        tmp_path / "x", ("process", GIB + 450 * MIB), ("used", 3 * GIB), ("total", 80 * GIB)
    )
    assert found == Context(450 * MIB, 450 * MIB, sampled=True)


def test_others_may_hold_a_part_of_what_is_used(tmp_path: Path) -> None:
    found = context(tmp_path / "x", ("used", 3 * GIB), ("total", 80 * GIB))
    assert found == Context(300 * MIB, 2 * GIB, sampled=True)


def test_what_torch_was_told_as_the_program_ended(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x")
    p = builder.process()
    p.alloc("cuda:0", GIB)
    p.sample("cuda:0", "torch", "reserved_bytes.current", GIB, reason="end")
    p.sample("cuda:0", "mem_get_info", "used", GIB + 280 * MIB, reason="end")
    trace = open_trace(builder.write())
    found = find_context(trace, trace.process_list[0], "cuda:0")
    assert found == Context(280 * MIB, 280 * MIB, sampled=True)


def test_nothing_was_sampled(tmp_path: Path) -> None:
    assert context(tmp_path / "x") == ASSUMED
    # A sample from before the memory was asked for says nothing.
    assert context(tmp_path / "y", ("used", GIB // 2), ("total", 80 * GIB)) == ASSUMED
