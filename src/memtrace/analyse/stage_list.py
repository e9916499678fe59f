"""The stages of a process as a ledger shows them: one for each name, and the steps in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s, integers, may_hold
from memtrace.analyse.step_names import OuterSteps, is_outermost
from memtrace.analyse.windows import END
from memtrace.trace import Process, Trace


@dataclass(frozen=True)
class Stage:
    """A stage. Of a program that has none, the whole recording (kind "whole").

    Attributes:
        end_seq: the first event after it; windows.END where it was never ended.
    """

    stage_id: int | None
    name: str
    kind: str
    start_seq: int
    end_seq: int
    start_time_ns: int
    end_time_ns: int


@dataclass(frozen=True)
class Steps:
    """The outermost steps, as columns: a server may have answered millions.

    Attributes:
        number: what the trace calls each.
        batch_size: -1 where it is not known.
        end_seq, end_time_ns: of a step that did not end: END, and 0.
    """

    number: Int64s
    start_seq: Int64s
    end_seq: Int64s
    batch_size: Int64s
    start_time_ns: Int64s
    end_time_ns: Int64s

    def __len__(self) -> int:
        return len(self.start_seq)


def stages_of(trace: Trace, process: Process) -> list[Stage]:
    """All stages, in the order of their beginning."""
    end_ns = int(process.row["end_time_ns"] or 0)
    table = trace.datasets["stages"].read(key=process.key)
    stages = [
        Stage(
            row["stage_id"],
            row["name"] or "",
            row["kind"] or "",
            row["start_seq"],
            END if row["end_seq"] is None else row["end_seq"],
            row["start_time_ns"],
            max(end_ns, row["start_time_ns"]) if row["end_time_ns"] is None else row["end_time_ns"],
        )
        for row in table.to_pylist()
        if row["start_seq"] is not None
    ]
    if not stages:
        return [Stage(None, "whole recording", "whole", 0, END, 0, end_ns)]
    # Ids rise as stages begin: where two begin at one moment, the outer one comes first.
    return sorted(stages, key=lambda s: (s.start_time_ns, s.start_seq, s.stage_id or 0))


def steps_of(trace: Trace, process: Process) -> Steps:
    """All steps that ended or not, in the order of their beginning."""
    missing = {
        "step": 0, "start_seq": 0, "end_seq": END, "batch_size": -1, "start_time_ns": 0,
        "end_time_ns": 0,
    }  # fmt: skip
    table = trace.datasets["steps"].read([*missing, "parent_step"], key=process.key)
    table = table.filter(pa.array(is_outermost(table)))
    columns = [integers(table, name, missing=value) for name, value in missing.items()]
    order = np.argsort(integers(table, "start_seq"), kind="stable")
    return Steps(*(column[order] for column in columns))


def step_at(trace: Trace, process: Process, seq: int) -> dict[str, Any] | None:
    """The row of the step that an event belongs to: of the allocation that it is, else the last of
    the outermost that were under way."""
    step = _step_of_allocation(trace, process, seq)
    best: dict[str, Any] | None = None
    for group in trace.datasets["steps"].row_groups(process.key):
        keys = group.read(["step", "parent_step", "start_seq", "end_seq"])
        if step is not None:
            inside = integers(keys, "step", missing=-1) == step
        else:
            inside = integers(keys, "start_seq", missing=END) <= seq
            inside &= integers(keys, "end_seq", missing=END) > seq
            inside &= is_outermost(keys)
        for place in np.flatnonzero(inside)[-1:]:
            names = [
                "step", "name", "kind", "root_module", "batch_size", "input_shapes", "start_seq",
            ]  # fmt: skip
            row = group.read(names).slice(int(place), 1).to_pylist()[0]
            if best is None or row["start_seq"] >= best["start_seq"]:
                best = row
    return best


def _step_of_allocation(trace: Trace, process: Process, seq: int) -> int | None:
    for group in trace.datasets["allocations"].row_groups(process.key):
        if not may_hold(group, "alloc_seq", seq):
            continue
        table = group.read(["alloc_seq", "step"])
        steps = integers(table, "step", missing=-1)
        found = steps[(integers(table, "alloc_seq", missing=-1) == seq) & (steps >= 0)]
        if len(found):
            return int(OuterSteps(trace, process.key).of(found[:1])[0])
    return None
