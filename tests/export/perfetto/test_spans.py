"""Stages and steps as slices."""

from __future__ import annotations

from pathlib import Path

from memtrace.outputs import Selection
from memtrace.trace import open_trace
from perfetto_agreement import check_nesting
from perfetto_reader import exported
from trace_builder import ORIGIN_NS, TraceBuilder, serving_trace


def test_stages_are_slices_of_their_thread(tmp_path: Path) -> None:
    trace = open_trace(serving_trace(tmp_path / "serve.memtrace"))
    parsed = exported(trace)
    (process,) = [t for t in parsed.tracks.values() if t.HasField("process")]
    assert parsed.named("stages of thread 1").parent_uuid == process.uuid
    found = [
        (item.name, item.start_ns - ORIGIN_NS, (item.end_ns or 0) - ORIGIN_NS)
        for item in parsed.slices["stages of thread 1"]
    ]
    assert found == [
        (row["name"], row["start_time_ns"], row["end_time_ns"]) for row in trace.stages.to_pylist()
    ]


def test_a_step_tells_what_it_was_given(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    shapes = '{"input_ids": [2, 128]}'
    with process.step(
        kind="training", batch_size=2, input_shapes=shapes, grad_enabled=True, error="ValueError"
    ):
        process.alloc("cpu", 1)
    (step,) = exported(open_trace(builder.write())).slices["steps of thread 1"]
    assert step.name == "training Model 1"
    assert step.told == {
        "kind": "training", "root_module": "Model", "batch_size": 2, "input_shapes": shapes,
        "grad_enabled": True, "error": "ValueError",
    }  # fmt: skip


def test_slices_nest_or_go_to_another_track(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 1)
    spans = [("a", 0, 100), ("b", 10, 50), ("b2", 50, 60), ("c", 40, 70), ("killed", 80, None),
             ("none", 100, 100)]  # fmt: skip
    for number, (name, start, end) in enumerate(spans):
        process.rows["stages"].append(
            {"stage_id": number, "name": name, "start_time_ns": start, "end_time_ns": end}
        )
    process.rows["steps"].append(
        {"step": 3, "kind": "inference", "root_module": "GPT2", "start_time_ns": 5,
         "end_time_ns": 9}
    )  # fmt: skip
    parsed = exported(open_trace(builder.write()))
    assert set(parsed.slices) == {"stages", "stages (2)", "steps"}
    for track, slices in parsed.slices.items():
        check_nesting(track, slices)
    found = {
        item.name: (item.start_ns - ORIGIN_NS, item.end_ns and item.end_ns - ORIGIN_NS)
        for track in ("stages", "stages (2)")
        for item in parsed.slices[track]
    }
    assert found == {name: (start, end) for name, start, end in spans}
    (step,) = parsed.slices["steps"]
    assert (step.name, step.start_ns, step.end_ns) == (
        "inference GPT2 3", ORIGIN_NS + 5, ORIGIN_NS + 9,
    )  # fmt: skip


def test_marked_steps_are_named_and_lie_above_their_calls(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    shapes = '{"ids": [4, 8]}'
    with process.step(name="POST /generate", root_module=None, input_shapes=shapes):
        process.alloc("cpu", 1, step=1)
        with process.step(parent_step=1, kind="inference"):
            process.alloc("cpu", 1, step=2)
    parsed = exported(open_trace(builder.write()))
    (track,) = (name for name in parsed.slices if name.startswith("steps"))
    check_nesting(track, parsed.slices[track])
    assert {item.name for item in parsed.slices[track]} == {
        "POST /generate · ids [4, 8] · step 1", "inference Model 2",
    }  # fmt: skip


def test_a_window_cuts_what_reaches_beyond_it(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 1)
    spans = [
        ("early", 0, 9),
        ("over", 5, 30),
        ("in", 12, 13),
        ("killed", 14, None),
        ("late", 21, 22),
    ]
    for stage, (name, start, end) in enumerate(spans, 1):
        process.rows["stages"].append(
            {"stage_id": stage, "name": name, "start_time_ns": start, "end_time_ns": end}
        )
    parsed = exported(open_trace(builder.write()), Selection(window_ns=(10, 20)))
    assert [
        (item.name, item.start_ns - ORIGIN_NS, (item.end_ns or 0) - ORIGIN_NS)
        for item in parsed.slices["stages"]
    ] == [("over", 10, 20), ("in", 12, 13), ("killed", 14, 20)]
