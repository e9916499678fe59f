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


def test_a_stage_without_a_name_is_called_so(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    main = spool.log(1)
    main.note("stage_begin", 1, "", value=1, text="user", thread=0)
    main.alloc(2, 0x1000, 8)
    main.note("stage_begin", 3, "", value=2, text="scope")
    main.alloc(4, 0x2000, 8)
    spool.finish()
    finalise(trace_dir)
    assert [row["name"] for row in rows(trace_dir, "stages")] == ["(no name)", "(no name)"]
    assert [row["stage"] for row in rows(trace_dir, "allocations")] == ["(no name)", "(no name)"]


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


def marked(name: str, kind: str | None = None) -> str:
    return json.dumps({"name": name, "kind": kind})


def called(batch: int, *sizes: int) -> str:
    return json.dumps({"batch_size": batch, "input_shapes": {"x": [batch, *sizes]}})


def test_marked_steps_follow_what_threads_say_they_are_in(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    notes, one, two, autograd = spool.log(1), spool.log(2), spool.log(3), spool.log(4)
    notes.note("step_begin", 1, "", value=1, text=marked("a", "request"), thread=2)
    notes.note("step_begin", 2, "", value=2, text=marked("b"), thread=2)
    one.note("in_step", 3, "", value=1)
    one.alloc(4, 0x1000, 1)
    two.note("in_step", 5, "", value=2)
    two.alloc(6, 0x2000, 2)
    one.note("in_step", 7, "", value=2)  # another task's turn
    one.note("step_begin", 8, "Net", value=3, value2=2, text=called(2, 8))
    one.alloc(9, 0x3000, 3)
    one.note("step_end", 10, "", value=3)
    one.note("step_begin", 11, "Net", value=4, value2=2, text=called(4, 1))  # given less
    one.note("step_end", 12, "", value=4)
    autograd.context(13, 1, "node", forward_thread=0)
    autograd.alloc(14, 0x4000, 4, call=1)
    one.alloc(15, 0x5000, 5)
    notes.note("step_end", 16, "POST /b", value=2, text="KeyError")
    one.alloc(17, 0x6000, 6)  # in a context that has outlived its step
    one.note("in_step", 18, "", value=99)  # damage: there is no such step
    one.alloc(19, 0x7000, 7)
    two.note("in_step", 20, "", value=3)  # nor is a model's call one that was marked
    two.alloc(21, 0x8000, 8)
    spool.finish()
    finalise(trace_dir)
    found = [row["step"] for row in rows(trace_dir, "allocations")]
    assert found == [1, 2, 3, None, 2, None, None, None]
    steps = {row["step"]: row for row in rows(trace_dir, "steps")}
    told = ("name", "kind", "root_module", "parent_step", "batch_size", "error", "end_seq")
    assert {number: tuple(row[name] for name in told) for number, row in steps.items()} == {
        1: ("a", "request", None, None, None, None, None),
        2: ("POST /b", "inference", None, None, 2, "KeyError", 5),
        3: (None, "inference", "Net", 2, 2, None, 3),
        4: (None, "inference", "Net", 2, 4, None, 3),
    }
    assert json.loads(steps[2]["input_shapes"]) == {"x": [2, 8]}


def test_marked_steps_in_each_other_have_the_shapes_of_all_calls_in_them(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log(1)
    log.note("step_begin", 1, "", value=1, text=marked("outer"))
    log.note("step_begin", 2, "", value=2, value2=1, text=marked("inner"))
    log.note("step_begin", 3, "Net", value=3, value2=2, text=called(3, 2**40, 2**40))  # too many
    log.note("step_end", 4, "", value=3)
    log.note("step_begin", 5, "Net", value=4, value2=7, text=called(9))  # damage: no such step
    log.note("step_end", 6, "", value=4)
    log.note("step_begin", 7, "", value=5, value2=5, text=marked("its own parent"))
    log.alloc(8, 0x1000, 1)
    spool.finish()
    finalise(trace_dir)
    steps = {row["step"]: row for row in rows(trace_dir, "steps")}
    assert [steps[number]["parent_step"] for number in range(1, 6)] == [None, 1, 2, None, None]
    assert [steps[number]["batch_size"] for number in (1, 2, 5)] == [3, 3, None]
