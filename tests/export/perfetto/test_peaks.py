"""Peaks and failed allocations as instants, and the live set at the peak as a heap profile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from memtrace.outputs import Selection
from memtrace.trace import open_trace
from perfetto_reader import exported
from trace_builder import ORIGIN_NS, TraceBuilder, failing_trace, serving_trace

MIB = 2**20


def test_the_live_set_at_the_peak(tmp_path: Path) -> None:
    trace = open_trace(serving_trace(tmp_path / "serve.memtrace"))
    parsed = exported(trace)
    heap = parsed.heaps["cuda 0, live at the peak"]
    peak = trace.peak("cuda:0")
    assert heap.time_ns == ORIGIN_NS + peak.time_ns
    by_innermost: Counter[str] = Counter()
    for stack, (size_bytes, _) in heap.samples.items():
        by_innermost[stack[-1][0]] += size_bytes
    assert by_innermost == {
        "from_pretrained": 96 * MIB, "forward": 21 * MIB, "aten::cat": 6 * MIB,
        "(no Python stack)": 5120,
    }  # fmt: skip
    assert sum(held for held, _ in heap.samples.values()) == peak.total_bytes
    assert heap.pid == 100


def test_peaks_are_instants(tmp_path: Path) -> None:
    trace = open_trace(serving_trace(tmp_path / "serve.memtrace"))
    instants = exported(trace).instants["cuda:0 peaks and failures"]
    found = {i.name: (i.time_ns, i.told) for i in instants}
    assert len(found) == len(instants)
    for of in ("allocated", "active", "reserved"):
        peak = trace.peak("cuda:0", of)
        figures = {"bytes": peak.total_bytes, "seq": peak.moment.seq}
        assert found[f"peak {of}"] == (ORIGIN_NS + peak.time_ns, figures)


def test_failed_allocations_are_instants(tmp_path: Path) -> None:
    trace = open_trace(failing_trace(tmp_path / "oom.memtrace"))
    parsed = exported(trace)
    rows = [row for row in trace.events.to_pylist() if row["action"] == "oom"]
    found = [
        i for i in parsed.instants["cuda:0 peaks and failures"] if i.name == "out of memory"
    ]  # fmt: skip
    assert [(i.time_ns - ORIGIN_NS, i.told) for i in found] == [
        (
            row["time_ns"],
            {
                "asked for, bytes": row["size_bytes"],
                "free on the device, bytes": row["device_free_bytes"],
            },
        )
        for row in rows
    ]
    assert len(found) == 2


def test_a_windows_peak_is_its_own(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    weight = process.alloc("cuda:0", 1024, stack_id=process.stack(1, ("load", "a.py", 1)))
    large = process.alloc("cuda:0", 8192)
    process.free(large)
    start = process.time_ns + 1
    small = process.alloc("cuda:0", 512, stack_id=process.stack(2, ("run", "a.py", 9)))
    process.free(small)
    process.free(weight)
    trace = open_trace(builder.write())
    window = (start, process.time_ns)
    parsed = exported(trace, Selection(window_ns=window))
    heap = parsed.heaps["cuda 0, live at the peak"]
    assert heap.samples == {(("load", "a.py", 1),): (1024, 1), (("run", "a.py", 9),): (512, 1)}
    (peak,) = [i for i in parsed.instants["cuda:0 peaks and failures"] if "allocated" in i.name]
    assert peak.told["bytes"] == 1536
    # Where nothing more is allocated, it is what stood as the window began.
    held = (start, start + 1)
    parsed = exported(trace, Selection(window_ns=held))
    heap = parsed.heaps["cuda 0, live at the peak"]
    assert (heap.samples, heap.time_ns) == (
        {(("load", "a.py", 1),): (1024, 1)}, ORIGIN_NS + start,
    )  # fmt: skip
    before = exported(trace, Selection(window_ns=(0, 1)))
    assert not before.heaps


def test_a_live_set_of_many_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memtrace.export.perfetto.peaks._SAMPLES_PER_PACKET", 3)
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for number in range(10):
        process.alloc(
            "cuda:0", 512 * (number + 1), stack_id=process.stack(number, (f"f{number}", "a.py", 1))
        )
    parsed = exported(open_trace(builder.write()))
    packets = [p.profile_packet for p in parsed.packets if p.HasField("profile_packet")]
    assert [(p.index, p.continued) for p in packets] == [
        (0, True), (1, True), (2, True), (3, False),
    ]  # fmt: skip
    heap = parsed.heaps["cuda 0, live at the peak"]
    assert {stack[0][0]: held for stack, (held, _) in heap.samples.items()} == {
        f"f{number}": 512 * (number + 1) for number in range(10)
    }
