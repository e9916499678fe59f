"""What was allocated in total, in stages, and for how short a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memtrace.analyse.chosen_rows import Within, parse_within
from memtrace.analyse.memory_tree import ALLOCATED, TEMPORARY, make_tree
from memtrace.errors import MemtraceError
from memtrace.trace import open_trace
from trace_builder import TraceBuilder


def test_stages_of_one_name_count_once(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    with process.stage("outer"):
        process.alloc("cpu", 1)
        with process.stage("work"):
            process.alloc("cpu", 10)
            with process.stage("work"):
                process.alloc("cpu", 100)
        process.alloc("cpu", 1000)
        with process.stage("work"):
            process.alloc("cpu", 10_000)
    trace = open_trace(builder.write())
    assert make_tree(trace, what=ALLOCATED, stage="work").total_bytes == 10_110
    assert make_tree(trace, what=ALLOCATED, stage="outer").total_bytes == 11_111


def test_what_was_there_before_was_not_allocated(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cuda:0", 512, action="preexisting")
    process.alloc("cuda:0", 1024, action="external")
    process.alloc("cuda:0", 2000)
    trace = open_trace(builder.write())
    assert make_tree(trace, what=ALLOCATED).total_bytes == 2048
    assert make_tree(trace, what=ALLOCATED, of="requested").total_bytes == 2000
    assert make_tree(trace).total_bytes == 2560


def test_freed_within_the_call(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()

    def block(size: int, call: int) -> dict[str, Any]:
        return process.alloc("cpu", size, operator_call_id=call)

    with process.call("user", scope="user_scope"):
        with process.call("outer", parent_call_id=1) as outer:
            with process.call("inner", parent_call_id=outer) as inner:
                first, second, third = block(1, inner), block(10, inner), block(100, inner)
                process.free(first)
            process.free(second)  # the outermost call lasts
        process.free(third)  # only the user's scope lasts
        in_scope = block(1000, 1)
        process.free(in_scope)  # in no operator
    process.free(process.alloc("cpu", 10_000))
    with process.call("kept") as kept:
        block(100_000, kept)
    tree = make_tree(open_trace(builder.write()), what=TEMPORARY, by=("operator",))
    assert (tree.total_bytes, tree.root.blocks) == (11, 2)
    assert tree.within == Within("call")


def test_freed_within_the_step(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    with process.step() as step:
        inside = process.alloc("cpu", 1, step=step["step"])
        late = process.alloc("cpu", 10, step=step["step"])
        process.free(inside)
    process.free(late)
    process.free(process.alloc("cpu", 100))
    trace = open_trace(builder.write())
    assert make_tree(trace, what=TEMPORARY, within=Within("step")).total_bytes == 1


def test_what_is_temporary_is_said_in_words() -> None:
    for text, told in (
        ("call", "freed within the operator call that allocated it"),
        ("step", "freed within the step that allocated it"),
        ("0", "freed before the next allocation"),
        ("1", "freed before more than 1 other was allocated"),
        ("1000", "freed before more than 1,000 others were allocated"),
    ):
        assert str(parse_within(text)) == told
    for text in ("", "-1", "1.5", "steps", "²", "9" * 10):
        with pytest.raises(MemtraceError, match="write call, step, or a number of allocations"):
            parse_within(text)


def test_a_call_that_never_ended_frees_nothing_in_time(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    call = process.operator(1, "aten::mm", end_time_ns=None)
    process.free(process.alloc("cpu", 10, operator_call_id=call))
    process.free(process.alloc("cpu", 100, operator_call_id=77))  # a call that was lost
    assert make_tree(open_trace(builder.write()), what=TEMPORARY).total_bytes == 0
