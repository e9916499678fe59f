"""The snapshot, read by torch's own _memory_viz and by our import: the trace's own figures."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imports.torch_snapshot import memory_viz
from imports.torch_snapshot.golden import FORMS, LARGE, MIB, SMALL, pickled
from memtrace.export.snapshot import write_snapshot
from memtrace.imports.importing import import_file
from memtrace.outputs import Selection
from memtrace.trace import Trace, open_trace
from trace_builder import TraceBuilder, serving_trace

viz = memory_viz.load()

#: What MemoryViz.js can read, by the letters of the opcodes.
JS_OPCODES = {
    "PROTO", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "SETITEMS", "APPENDS", "BINUNICODE",
    "LONG_BINPUT", "LONG_BINGET", "BININT", "LONG1", "NEWTRUE", "NEWFALSE", "BINFLOAT", "TUPLE2",
}  # fmt: skip
SAFE_INTEGER = 1 << 53  # JavaScript's: addresses and times must be below


def written(trace: Trace, **selection: Any) -> bytes:
    out = io.BytesIO()
    write_snapshot(trace, Selection(**selection), out)
    return out.getvalue()


def exported(trace: Trace, **selection: Any) -> dict[str, Any]:
    value: dict[str, Any] = pickle.loads(written(trace, **selection))
    return value


@pytest.fixture
def cuda(tmp_path: Path) -> Trace:
    """A trace with two devices, blocks that wait, a failure, a stage."""
    builder = TraceBuilder(tmp_path / "train.memtrace")
    process = builder.process(pid=100)
    stack = process.stack(1, ("forward", "/home/u/model.py", 20), ("main", "/home/u/train.py", 3))
    for number, device in enumerate(("cuda:0", "cuda:1")):
        base = 0x7F00_0000_0000 + number * 0x1_0000_0000
        process.segment(device, 20 * MIB, address=base, small=False, expandable=False, stream=0)
        kept = process.alloc(
            device, 3_000_000, address=base, operator="aten::mm", module="h.0", stack_id=stack,
            module_class="Block", stream=0,
        )  # fmt: skip
        gone = process.alloc(device, 5_000_000, address=base + 4 * MIB, stream=0)
        with process.stage("step"):
            process.free(gone)
        waiting = process.alloc(device, 1_500_000, address=base + 10 * MIB, stream=0)
        process.free(waiting, hold=True)
        assert kept
    process.oom("cuda:1", 1 << 40, 77, {"operator": "aten::add"}, stack_id=stack)
    builder.write()
    return open_trace(tmp_path / "train.memtrace")


def no_graph(lines: str) -> str:
    """In the place of flamegraph.pl: the lines that it would draw."""
    return lines


def bytes_in(flamegraph: str, state: str) -> int:
    lines = [line.rpartition(" ") for line in flamegraph.splitlines()]
    return sum(int(size) for path, _, size in lines if path.split(";")[1] == state)


def test_torchs_own_reader_gives_the_same_totals(cuda: Trace) -> None:
    snapshot = exported(cuda)
    last = {row["device"]: row for row in cuda.events.to_pylist()}
    allocated = sum(row["allocated_bytes"] for row in last.values())
    reserved = sum(row["reserved_bytes"] for row in last.values())
    flamegraph = viz.memory(snapshot, no_graph)
    assert bytes_in(flamegraph, "active_allocated") == allocated
    assert sum(int(line.rpartition(" ")[2]) for line in flamegraph.splitlines()) == reserved
    assert viz.segments(snapshot, no_graph).count("stream_0;seg_") == flamegraph.count("stream_0;")
    assert f"total_reserved: {viz.Bytes(reserved)}" in viz.segsum(snapshot)
    assert "segments: 2" in viz.segsum(snapshot)
    assert viz.compare(snapshot["segments"], snapshot["segments"], no_graph) == ""


@pytest.mark.parametrize("draw", [viz.trace_plot, viz.segment_plot, viz.trace])
def test_its_plots_can_be_made(cuda: Trace, draw: Callable[[Any], str]) -> None:
    assert len(draw(exported(cuda))) > 300


def test_its_events_are_the_traces(cuda: Trace) -> None:
    snapshot = exported(cuda)
    for number, events in enumerate(snapshot["device_traces"]):
        rows = [row for row in cuda.events.to_pylist() if row["device"] == f"cuda:{number}"]
        assert [event["action"] for event in events] == [row["action"] for row in rows]
        assert [event["size"] for event in events] == [row["size_bytes"] for row in rows]
        assert [event.get("addr") for event in events] == [row["address"] for row in rows]
        origin_us = cuda.process_list[0].row["clock_origin_unix_ns"] // 1000
        assert [event["time_us"] - origin_us for event in events] == [
            row["time_ns"] // 1000 for row in rows
        ]
    failed = snapshot["device_traces"][1][-1]
    assert failed["device_free"] == 77
    assert "addr" not in failed


def test_frames_name_operator_module_and_lines(cuda: Trace) -> None:
    snapshot = exported(cuda)
    frames = [(f["name"], f["filename"], f["line"]) for f in frames_of_first(snapshot)]
    assert frames == [
        ("aten::mm", "<operator>", 0),
        ("h.0 (Block)", "<module>", 0),
        ("forward", "/home/u/model.py", 20),
        ("main", "/home/u/train.py", 3),
    ]
    assert snapshot["segments"][0]["blocks"][0]["frames"] == frames_of_first(snapshot)
    failed = snapshot["device_traces"][1][-1]["frames"]
    assert [frame["name"] for frame in failed] == ["aten::add", "forward", "main"]
    assert [(a["name"], a["stage"]) for a in snapshot["external_annotations"]][:2] == [
        ("step", "START"), ("step", "END"),
    ]  # fmt: skip


def frames_of_first(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
    (first, *_) = [e for e in snapshot["device_traces"][0] if e["action"] == "alloc"]
    frames: list[dict[str, Any]] = first["frames"]
    return frames


def test_states_of_blocks(cuda: Trace) -> None:
    (segment, _) = exported(cuda)["segments"]
    states = [(block["state"], block["requested_size"]) for block in segment["blocks"]]
    assert states == [
        ("active_allocated", 3_000_000),
        ("inactive", 0),
        ("active_pending_free", 1_500_000),
        ("inactive", 0),
    ]
    assert sum(block["size"] for block in segment["blocks"]) == segment["total_size"] == 20 * MIB
    assert segment["active_size"] - segment["allocated_size"] == segment["blocks"][2]["size"]


def test_device_and_window(cuda: Trace) -> None:
    only = exported(cuda, device="cuda:1")
    assert [len(events) > 0 for events in only["device_traces"]] == [False, True]
    assert {segment["device"] for segment in only["segments"]} == {1}
    rows = [row for row in cuda.events.to_pylist() if row["device"] == "cuda:0"]
    start, end = rows[2]["time_ns"], rows[4]["time_ns"]
    part = exported(cuda, device="cuda:0", window_ns=(start, end))
    assert [event["action"] for event in part["device_traces"][0]] == [
        row["action"] for row in rows[2:5]
    ]
    live = sum(segment["active_size"] for segment in part["segments"])
    assert live == rows[4]["active_bytes"]


def test_stages_of_the_window_are_annotations(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for name in ("load", "serve"):
        with process.stage(name):
            process.alloc("cpu", 100)
            process.alloc("cpu", 100)
    trace = open_trace(builder.write())
    last = trace.events.to_pylist()[-1]["time_ns"]
    told = [each["name"] for each in exported(trace)["external_annotations"]]
    assert told == ["load", "load", "serve", "serve"]
    part = exported(trace, window_ns=(last, last))
    assert [each["name"] for each in part["external_annotations"]] == ["serve", "serve"]


def test_javascript_can_read_it(cuda: Trace) -> None:
    data = written(cuda)
    assert {opcode.name for opcode, _, _ in pickletools.genops(data)} <= JS_OPCODES
    numbers = [n for _, n, _ in pickletools.genops(data) if isinstance(n, int)]
    assert max(numbers) < SAFE_INTEGER


def test_long_lists_come_in_pieces(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "long.memtrace")
    process = builder.process(pid=1)
    for _ in range(1500):
        process.free(process.alloc("cpu", 100, address=0x1000))
    builder.write()
    trace = open_trace(tmp_path / "long.memtrace")
    ((events),) = exported(trace)["device_traces"]
    assert len(events) == 1500 * 5
    depth = longest = 0
    for opcode, _, _ in pickletools.genops(written(trace)):
        depth = depth + 1 if opcode.name == "EMPTY_DICT" else depth
        if opcode.name == "APPENDS":
            longest, depth = max(longest, depth), 0
    assert longest <= 1001


def test_names_that_are_words_of_the_format(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "odd.memtrace")
    process = builder.process(pid=1)
    names = ("name", "line", "frames", "segments", "memtrace_frames", "1", "", "\u20ac")
    for number, name in enumerate(names):
        stack = process.stack(number + 1, (name, name, number))
        process.alloc("cpu", 8, address=0x1000 * (number + 1), stack_id=stack, module=name)
    builder.write()
    (events,) = exported(open_trace(tmp_path / "odd.memtrace"))["device_traces"]
    found = [event["frames"][-1]["name"] for event in events if event["action"] == "alloc"]
    assert found == [name or "?" for name in names]


def test_a_device_of_an_odd_name(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "odd.memtrace")
    process = builder.process(pid=1)
    for device in ("cuda:99999999999", "cuda:one"):
        process.alloc(device, 512, address=0x1000)
    builder.write()
    assert len(exported(open_trace(tmp_path / "odd.memtrace"))["device_traces"]) == 2


@pytest.mark.parametrize("form", ["torch-2.2-protocol-2", "torch-2.6"])
def test_round_trip_of_cuda(form: str, tmp_path: Path) -> None:
    source = tmp_path / "s.pickle"
    source.write_bytes(pickled(form))
    first = open_trace(import_file(source, str(tmp_path / "a.memtrace")).path)
    again = tmp_path / "again.pickle"
    again.write_bytes(written(first))
    second = open_trace(import_file(again, str(tmp_path / "b.memtrace")).path)
    columns = [
        "action", "device", "address", "size_bytes", "block_bytes", "allocated_bytes",
        "active_bytes", "reserved_bytes", "time_ns", "device_free_bytes",
    ]  # fmt: skip
    assert second.events.select(columns).to_pylist() == first.events.select(columns).to_pylist()
    columns = ["address", "size_bytes", "operator", "source", "free_seq", "stage", "pool"]
    theirs = first.allocations.select(columns).to_pylist()
    assert second.allocations.select(columns).to_pylist() == theirs
    assert {SMALL, LARGE} == {row["address"] for row in theirs}
    assert FORMS[form]


def test_round_trip_of_the_cpu(tmp_path: Path) -> None:
    first = open_trace(serving_trace(tmp_path / "serve.memtrace"))
    path = tmp_path / "s.pickle"
    path.write_bytes(written(first, device="cpu"))
    snapshot = pickle.loads(path.read_bytes())
    last = [row for row in first.events.to_pylist() if row["device"] == "cpu"][-1]
    assert bytes_in(viz.memory(snapshot, no_graph), "active_allocated") == last["allocated_bytes"]
    second = open_trace(import_file(path, str(tmp_path / "again.memtrace")).path)
    assert second.devices == ["cpu"]
    ours, theirs = first.peak("cpu"), second.peak("cpu")
    assert theirs.total_bytes == ours.total_bytes

    def live(trace: Trace, seq: int) -> list[tuple[Any, ...]]:
        return sorted(
            (row["address"], row["block_bytes"], row["operator"] or "", row["module"] or "")
            for row in trace.allocations.to_pylist()
            if row["device"] == "cpu"
            and row["origin"] != "external"
            and row["alloc_seq"] <= seq
            and (row["free_seq"] is None or row["free_seq"] > seq)
        )

    assert live(second, theirs.moment.seq) == live(first, ours.moment.seq)
    assert live(second, 1 << 60) == live(first, 1 << 60)
