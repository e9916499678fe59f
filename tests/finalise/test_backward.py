"""Which forward call backward memory is said to belong to, in written spools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memtrace.finalise import finalise
from spool_writer import RECORDS_GRAPH, LogWriter, SpoolWriter, rows

FUNCTION, BACKWARD = 0, 1
FORWARD_THREAD, AUTOGRAD_THREAD = 21, 22  # RecordFunction's numbers
ENGINE = ("_engine_run_backward", "/v/site-packages/torch/autograd/graph.py", 900, 0)
CHECKPOINT = ("recompute_fn", "/v/site-packages/torch/utils/checkpoint.py", 5, 0)


class Program:
    """A forward thread and one of autograd's engine; calls are numbered as they come."""

    def __init__(self, trace_dir: Path) -> None:
        self.spool = SpoolWriter(trace_dir)
        self.forward, self.engine = self.spool.log(1), self.spool.log(2)
        self.spool.thread(1, FORWARD_THREAD)
        self.spool.thread(2, AUTOGRAD_THREAD)
        model = self.spool.module("Net", path="")
        self.modules = {
            path: self.spool.module(path.title(), path=path, root=model) for path in ("a", "b")
        }
        self.ticks = 0
        self.address = 0x1000
        self.call = 0

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def next_call(self) -> int:
        self.call += 1
        return self.call

    def stack(self, *frames: tuple[str, int, str | None] | tuple[str, str, int, int]) -> int:
        """Frames innermost first: (function, line, module) of the program, or whole ones."""
        whole = []
        for frame in frames:
            if len(frame) == 3:
                function, line, module = frame
                frame = (function, "/home/me/net.py", line, self.modules.get(module or "", 0))
            whole.append(frame)
        return self.spool.stack(whole)

    def alloc(self, log: LogWriter, call: int = 0, context: int = 0, stack: int = 0) -> None:
        self.address += 0x1000
        log.alloc(self.tick(), self.address, 8, call=call, reserved=context, stack=stack, op="op")

    def made_nodes(self, name: str, sequence: int, stack: int, **more: Any) -> None:
        """A forward call in which no memory changed."""
        start = self.tick()
        self.forward.span(
            start, self.tick(), self.next_call(), name, stack=stack, sequence=sequence,
            **{"nodes": 1, **more},
        )  # fmt: skip

    def node(
        self, sequence: int, stack: int = 0, thread: int = FORWARD_THREAD, kind: str = "node"
    ) -> int:
        """One that allocates, in the engine's thread; its call."""
        call, start = self.next_call(), self.tick()
        self.engine.context(self.tick(), call, kind, sequence=sequence, forward_thread=thread)
        self.alloc(self.engine, call, call, stack)
        self.engine.span(
            start, self.tick(), call, "Node", sequence=sequence, forward_thread=thread,
            scope=BACKWARD if kind == "node" else FUNCTION, context=call,
        )  # fmt: skip
        return call

    def allocations(self, trace_dir: Path) -> list[tuple[Any, ...]]:
        self.spool.finish()
        finalise(trace_dir)
        self.operators = rows(trace_dir, "operators")
        columns = ("phase", "forward_operator", "module", "source")
        return [tuple(row[column] for column in columns) for row in rows(trace_dir, "allocations")]


def test_the_innermost_call_whose_numbers_include_the_nodes(trace_dir: Path) -> None:
    program = Program(trace_dir)
    a, b = program.stack(("forward", 10, "a")), program.stack(("forward", 20, "b"))
    program.made_nodes("aten::t", 5, a)
    program.made_nodes("aten::mul_", 6, b, nodes=2)  # two: its own, and that of its view's base
    program.made_nodes("aten::composite", 5, b, nodes=4)
    for sequence in (6, 7, 5, 8, 9, 4):
        program.node(sequence)
    assert program.allocations(trace_dir) == [
        ("backward", "aten::mul_", "b", "net.py:20 forward"),
        ("backward", "aten::mul_", "b", "net.py:20 forward"),
        ("backward", "aten::t", "a", "net.py:10 forward"),
        ("backward", "aten::composite", "b", "net.py:20 forward"),
        ("backward", None, None, None),
        ("backward", None, None, None),
    ]
    forward_ids = {row["name"]: row["call_id"] for row in program.operators}
    found = [row["forward_call_id"] for row in program.operators if row["name"] == "Node"]
    assert found[:4] == [
        forward_ids[name] for name in ("aten::mul_", "aten::mul_", "aten::t", "aten::composite")
    ]
    assert found[4:] == [None, None]


def test_a_number_of_another_thread_is_another_number(trace_dir: Path) -> None:
    program = Program(trace_dir)
    program.made_nodes("aten::t", 5, program.stack(("forward", 10, "a")))
    program.node(5, thread=AUTOGRAD_THREAD)
    program.node(5, thread=99)
    program.node(-1)
    assert [row[1] for row in program.allocations(trace_dir)] == [None] * 3


def test_what_the_engine_adds_up_is_the_last_nodes(trace_dir: Path) -> None:
    program = Program(trace_dir)
    program.made_nodes("aten::t", 5, program.stack(("forward", 10, "a")))
    program.node(5, kind="engine")
    assert program.allocations(trace_dir) == [("backward", "aten::t", "a", "net.py:10 forward")]
    (row,) = (row for row in program.operators if row["name"] == "Node")
    assert row["forward_call_id"] is not None


def test_forward_code_computed_again_is_where_it_is(trace_dir: Path) -> None:
    program = Program(trace_dir)
    program.made_nodes("Checkpoint", 5, program.stack(("forward", 10, "a")))
    block = ("forward", 30, "b")
    plain = ("function", 40, None)
    for stack in (
        program.stack(block, CHECKPOINT),  # on a thread of the engine's own
        program.stack(block, CHECKPOINT, ENGINE, ("train", 1, None)),
        program.stack(plain, CHECKPOINT, ENGINE),
        program.stack(("backward", 50, None), ENGINE),  # of a torch.autograd.Function
        program.stack(ENGINE, block),  # the model calls backward() itself
        program.stack(CHECKPOINT, ENGINE),
    ):
        program.node(5, stack)
    assert program.allocations(trace_dir) == [
        ("forward", None, "b", "net.py:30 forward"),
        ("forward", None, "b", "net.py:30 forward"),
        ("forward", None, "a", "net.py:40 function"),
        *[("backward", "Checkpoint", "a", "net.py:10 forward")] * 3,
    ]


def test_the_backward_of_a_backward_is_the_forwards(trace_dir: Path) -> None:
    program = Program(trace_dir)
    program.made_nodes("aten::pow", 5, program.stack(("forward", 10, "a")))
    node = program.next_call()
    inner = program.next_call()
    program.engine.context(program.tick(), node, "node", sequence=5, forward_thread=FORWARD_THREAD)
    program.alloc(program.engine, inner, node | RECORDS_GRAPH)
    program.engine.span(
        2, program.tick(), inner, "aten::mul", parent=node, sequence=70, nodes=1, context=node,
        stack=program.stack(("train", 99, None)),
    )  # fmt: skip
    program.engine.span(1, program.tick(), node, "Pow", sequence=5, scope=BACKWARD, context=node)
    program.node(70, thread=AUTOGRAD_THREAD)
    assert program.allocations(trace_dir) == [
        ("backward", "aten::pow", "a", "net.py:10 forward"),
        ("backward", "aten::mul", "a", "net.py:10 forward"),
    ]


def test_phases(trace_dir: Path) -> None:
    program = Program(trace_dir)
    forward = program.forward
    program.alloc(forward)
    program.alloc(forward, stack=program.stack(("forward", 10, "a")))
    program.alloc(forward, 1, RECORDS_GRAPH)
    forward.note("step_begin", program.tick(), "Net", value=1)
    program.alloc(forward)
    program.alloc(program.engine)  # another thread is in that step
    forward.note("step_end", program.tick(), "", value=1)
    forward.context(program.tick(), 2, "optimizer")
    program.alloc(forward, 2, 2)
    program.alloc(forward, 3, 2 | RECORDS_GRAPH)  # what its closure computes
    forward.context(program.tick(), 4, "node", sequence=-1)
    program.alloc(forward, 4, 4)
    program.alloc(forward, 2, 2)
    assert [row[0] for row in program.allocations(trace_dir)] == [
        "other", "forward", "forward", "forward", "other", "optimizer", "forward", "backward",
        "optimizer",
    ]  # fmt: skip


def test_backward_memory_is_of_the_step_of_its_forward(trace_dir: Path) -> None:
    program = Program(trace_dir)
    for step in (1, 2):
        program.forward.note("step_begin", program.tick(), "Net", value=step)
        program.made_nodes("aten::t", step, 0)
        program.forward.note("step_end", program.tick(), "", value=step)
    for sequence in (1, 2, 3):
        program.node(sequence)
    program.allocations(trace_dir)
    assert [row["step"] for row in rows(trace_dir, "allocations")] == [1, 2, None]


def test_a_call_without_memory_is_a_row_of_its_own(trace_dir: Path) -> None:
    program = Program(trace_dir)
    program.made_nodes("aten::t", 5, 0, parent=99)  # which no memory changed in either
    outer, inner = program.next_call(), program.next_call()
    program.alloc(program.forward, outer)
    program.forward.span(1, program.tick(), inner, "aten::view", parent=outer, nodes=1, sequence=6)
    program.forward.span(1, program.tick(), outer, "aten::outer")
    program.allocations(trace_dir)
    found = {row["name"]: row for row in program.operators}
    assert set(found) == {"aten::t", "aten::view", "aten::outer"}
    assert found["aten::t"]["parent_call_id"] is None
    assert found["aten::view"]["parent_call_id"] == found["aten::outer"]["call_id"]
    assert found["aten::view"]["allocated_bytes"] == 0


@pytest.mark.parametrize("kind", ["backward_begin", "backward_end"])
def test_marks_of_a_backward_name_its_task(trace_dir: Path, kind: str) -> None:
    program = Program(trace_dir)
    program.forward.mark(program.tick(), kind, value=7)
    program.allocations(trace_dir)
    (mark,) = rows(trace_dir, "marks")
    assert (mark["kind"], mark["text"], mark["pool"], mark["thread_id"]) == (kind, "7", None, 1)
