"""The stages of a process as a ledger shows them: one for each name, and the steps in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from memtrace.analyse.counters import Int64s, integers
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
    """Calls of models, as columns: a server may have answered millions.

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
    return sorted(stages, key=lambda stage: (stage.start_time_ns, stage.start_seq))


def steps_of(trace: Trace, process: Process) -> Steps:
    """All steps that ended or not, in the order of their beginning."""
    missing = {
        "step": 0, "start_seq": 0, "end_seq": END, "batch_size": -1, "start_time_ns": 0,
        "end_time_ns": 0,
    }  # fmt: skip
    table = trace.datasets["steps"].read(list(missing), key=process.key)
    columns = [integers(table, name, missing=value) for name, value in missing.items()]
    order = np.argsort(integers(table, "start_seq"), kind="stable")
    return Steps(*(column[order] for column in columns))


def step_at(trace: Trace, process: Process, seq: int) -> dict[str, Any] | None:
    """The row of the innermost step that was under way at an event."""
    best: dict[str, Any] | None = None
    for group in trace.datasets["steps"].row_groups(process.key):
        keys = group.read(["start_seq", "end_seq"])
        inside = integers(keys, "start_seq", missing=END) <= seq
        inside &= integers(keys, "end_seq", missing=END) > seq
        for place in np.flatnonzero(inside)[-1:]:
            names = ["step", "kind", "root_module", "batch_size", "input_shapes", "start_seq"]
            row = group.read(names).slice(int(place), 1).to_pylist()[0]
            if best is None or row["start_seq"] >= best["start_seq"]:
                best = row
    return best
