"""Which stage an allocation is in, and the rows of `stages` and `steps`, from written spools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memtrace.finalise import finalise
from spool_writer import SpoolWriter, rows


def test_stages_and_steps(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    main, worker, autograd = spool.log(1), spool.log(2), spool.log(3)
    main.note("stage_begin", 1, "load", value=1, text="user", thread=0)
    main.alloc(2, 0x1000, 8)
    main.note("stage_end", 3, "load", value=1, text="user")
    main.note("stage_begin", 4, "train", value=2, text="scope")
    facts = {"kind": "request", "batch_size": 4, "input_shapes": {'a"': [4, 2], "é": []}}
    main.note("step_begin", 5, "Net", value=9, text=json.dumps({**facts, "grad_enabled": True}))
    main.alloc(6, 0x2000, 8)
    autograd.context(7, 1, "node", forward_thread=77)
    autograd.alloc(7, 0x3000, 8, call=1, reserved=1)
    worker.note("stage_begin", 8, "fetch", value=3, value2=2, text="scope")
    worker.alloc(9, 0x4000, 8)
    main.note("step_end", 10, "", value=9, text="ValueError")
    main.alloc(11, 0x5000, 8)
    spool.finish()
    finalise(trace_dir)
    found = [(row["stage"], row["step"]) for row in rows(trace_dir, "allocations")]
    assert found == [("load", None), ("train", 9), ("train", 9), ("fetch", None), ("train", None)]
    stages = {row["name"]: row for row in rows(trace_dir, "stages")}
    assert (stages["load"]["start_seq"], stages["load"]["end_seq"]) == (0, 1)
    assert (stages["load"]["thread_id"], stages["train"]["thread_id"]) == (None, 1)
    assert stages["train"]["end_seq"] is None
    assert stages["fetch"]["parent_id"] == 2
    (step,) = rows(trace_dir, "steps")
    assert (step["step"], step["kind"], step["batch_size"], step["stage_id"]) == (
        9, "request", 4, 2,
    )  # fmt: skip
    assert json.loads(step["input_shapes"]) == facts["input_shapes"]
    assert (step["grad_enabled"], step["error"]) == (True, "ValueError")
    assert (step["start_seq"], step["end_seq"]) == (1, 4)


def test_what_plain_stages_end_and_lie_in_follows_from_the_order_of_the_notes(
    trace_dir: Path,
) -> None:
    spool = SpoolWriter(trace_dir)
    notes, worker = spool.log(1), spool.log(2)

    def begin(ticks: int, name: str, number: int, *, block: int = 0, **more: Any) -> None:
        notes.note("stage_begin", ticks, name, value=number, value2=block, **more)

    begin(10, "a", 1, text="user", thread=0)
    begin(20, "called, then entered", 2, text="user", thread=0)
    worker.alloc(25, 0x1000, 8)  # a is not over: what was called here will be a block
    begin(30, "called, then entered", 2, text="scope", thread=1)
    worker.alloc(35, 0x2000, 8)
    begin(40, "b", 3, block=2, text="user", thread=1)
    begin(50, "c", 4, block=2, text="user", thread=1)
    worker.alloc(55, 0x3000, 8)
    notes.note("stage_end", 60, "called, then entered", value=2)
    worker.alloc(65, 0x4000, 8)
    begin(70, "of a third thread", 5, text="scope", thread=3)
    worker.alloc(75, 0x5000, 8)
    begin(80, "d", 6, text="user", thread=0)
    spool.finish()
    finalise(trace_dir)
    stages = {row["name"]: row for row in rows(trace_dir, "stages")}
    of = {name: (row["parent_id"], row["start_time_ns"], row["end_time_ns"], row["thread_id"])
          for name, row in stages.items()}  # fmt: skip
    assert of == {
        "a": (None, 10, 80, None), "called, then entered": (1, 30, 60, 1), "b": (2, 40, 50, 1),
        "c": (2, 50, 60, 1), "of a third thread": (1, 70, None, 3), "d": (None, 80, None, None),
    }  # fmt: skip
    found = [row["stage"] for row in rows(trace_dir, "allocations")]
    assert found == ["a", "called, then entered", "c", "a", "a"]


def test_backward_memory_is_in_the_stage_of_the_thread_of_the_forward(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    main, worker, autograd = spool.log(1), spool.log(2), spool.log(3)
    spool.thread(2, 0)  # numbered before a hook knew what torch calls it
    for number, record_function_thread in ((1, 12), (2, 11), (3, 13)):
        spool.thread(number, record_function_thread)
    main.note("stage_begin", 1, "main", value=1, text="scope")
    worker.note("stage_begin", 2, "training", value=2, text="scope")
    for ticks, call, forward_thread in (
        (3, 1, 11), (4, 0, 0), (5, 2, 12), (6, 3, 11), (8, 4, 11), (11, 5, 11), (12, 6, 77)
    ):  # fmt: skip
        if ticks == 8:
            autograd.note("stage_begin", 7, "own", value=3, text="scope")
        if ticks == 11:
            autograd.note("stage_end", 9, "own", value=3)
            worker.note("stage_end", 10, "training", value=2)
        if call:
            autograd.context(ticks, call, "node", forward_thread=forward_thread)
        autograd.alloc(ticks, 0x1000 * ticks, 8, call=call, reserved=call)
    spool.finish()
    finalise(trace_dir)
    found = [row["stage"] for row in rows(trace_dir, "allocations")]
    assert found == ["training", "main", "main", "training", "own", "main", "main"]
