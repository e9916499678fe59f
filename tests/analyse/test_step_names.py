"""What steps are called, and which one stands for those that lie in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memtrace.analyse.diff import make_diff
from memtrace.analyse.leaks import find_leaks
from memtrace.analyse.memory_tree import make_tree
from memtrace.analyse.peak import find_peak
from memtrace.analyse.stage_list import step_at, steps_of
from memtrace.analyse.step_names import OuterSteps, StepNames, step_name, told_shapes
from memtrace.analyse.steps import find_steps
from memtrace.trace import Trace, open_trace
from trace_builder import TraceBuilder

REQUEST = {"name": "POST /generate", "root_module": None, "kind": "request"}
SHAPES = '{"input_ids": [4, 512]}'


def a_server(tmp_path: Path) -> Trace:
    """Three requests; in the second, which reaches the peak, two calls; the third overlaps it."""
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    with process.step(**REQUEST, input_shapes=SHAPES, batch_size=4):
        process.alloc("cpu", 1, step=1)
    with process.step(**REQUEST, input_shapes=SHAPES, batch_size=4):
        process.alloc("cpu", 10, step=2)
        with process.step(**REQUEST):
            with process.step(parent_step=2):
                process.alloc("cpu", 100, step=4, operator="aten::cat")
            process.alloc("cpu", 1000, step=3)
            with process.step(parent_step=2):
                last = process.alloc("cpu", 10_000, step=5)
    process.free(last)
    with process.step():
        process.alloc("cpu", 5, step=6)
    process.alloc("cpu", 7)
    return open_trace(builder.write())


SECOND = "POST /generate · input_ids [4, 512] · step 2"


def test_groups_by_step_are_the_outermost_by_name(tmp_path: Path) -> None:
    trace = a_server(tmp_path)
    peak = find_peak(trace, device="cpu", by="step")
    assert {row.key: row.total_bytes for row in peak.breakdown.rows} == {
        SECOND: 10_110, "POST /generate · step 3": 1000,
        "POST /generate · input_ids [4, 512] · step 1": 1,
    }  # fmt: skip
    assert peak.reached is not None
    assert peak.reached.step == SECOND
    assert peak.live.column("step").to_pylist() == [1, 2, 4, 3, 5]  # as they are
    tree = make_tree(trace, device="cpu", by=("step", "operator"), what="allocated")
    assert {node.name: node.total_bytes for node in tree.root.children} == {
        SECOND: 10_110, "POST /generate · step 3": 1000, "Model · step 6": 5,
        "POST /generate · input_ids [4, 512] · step 1": 1, "(outside any step)": 7,
    }  # fmt: skip


def test_the_step_of_an_instant_is_that_of_the_allocation_there(tmp_path: Path) -> None:
    trace = a_server(tmp_path)
    (process,) = trace.process_list
    peak = find_peak(trace, device="cpu")
    row = step_at(trace, process, peak.moment.seq)
    assert row is not None
    assert row["step"] == 2
    assert steps_of(trace, process).number.tolist() == [1, 2, 3, 6]


def test_leaks_are_told_by_the_steps_that_were_marked(tmp_path: Path) -> None:
    trace = a_server(tmp_path)
    (process,) = trace.process_list
    steps = find_steps(trace, process)
    assert (steps.what, len(steps)) == ("POST /generate", 3)
    builder = TraceBuilder(tmp_path / "y.memtrace")
    process_y = builder.process()
    for number in range(12):
        with process_y.step(**REQUEST):
            process_y.alloc("cpu", 512, step=2 * number + 1, source="a.py:1 f")
            with process_y.step(parent_step=2 * number + 1):
                process_y.alloc("cpu", 8, step=2 * number + 2, source="a.py:2 g")
    leaks = find_leaks(open_trace(builder.write()), device="cpu")
    assert (len(leaks.steps), leaks.devices[0].bytes_per_step) == (12, 520)


def test_two_recordings_are_compared_by_whole_requests(tmp_path: Path) -> None:
    traces = []
    for name in ("a", "b"):
        builder = TraceBuilder(tmp_path / f"{name}.memtrace")
        process = builder.process()
        for number in range(2):
            with process.step(**REQUEST):
                process.alloc("cpu", 10, step=2 * number + 1)
                with process.step(parent_step=2 * number + 1, kind="inference"):
                    process.alloc("cpu", 100 if name == "a" else 300, step=2 * number + 2)
        traces.append(open_trace(builder.write()))
    diff = make_diff(*traces, by=["operator"])
    (step,) = diff.devices[0].steps
    assert (step.name, step.a_steps, step.b_steps) == ("request", 2, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, []), ("{}", []), ("[1]", []), ("no JSON", []), ('{"x": 3}', []),
        ('{"x": []}', ["x []"]),
        ('{"a": [1, 2], "b": [3], "c": [4]}', ["a [1, 2], b [3], ..."]),
    ],
)  # fmt: skip
def test_shapes_in_words(text: str | None, told: list[str]) -> None:
    assert told_shapes(text) == told


def test_names_of_steps_that_nothing_is_known_of(tmp_path: Path) -> None:
    row = {"step": 3, "name": None, "root_module": None, "input_shapes": None}
    assert step_name(row) == "step 3"
    trace = a_server(tmp_path)
    (process,) = trace.process_list
    names = StepNames(trace, process.key)
    assert names.of([4, 99, None]) == [SECOND, "step 99", None]
    assert names.of([]) == []


def test_steps_that_lie_in_steps_that_lie_in_steps(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for parent in (None, 1, 2, 3):
        process.short_step(parent_step=parent, step=len(process.rows["steps"]) + 1)
    process.alloc("cpu", 1)
    trace = open_trace(builder.write())
    outer = OuterSteps(trace, trace.process_list[0].key)
    assert outer.of(np.array([4, 3, 1, -1, 77])).tolist() == [1, 1, 1, -1, 77]
