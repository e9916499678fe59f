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
    """Calls of models, as columns: a server may have answered millions."""

    start_seq: Int64s
    end_seq: Int64s
    batch_size: Int64s  # -1: not known
    start_time_ns: Int64s

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
    names = ["start_seq", "end_seq", "batch_size", "start_time_ns"]
    table = trace.datasets["steps"].read(names, key=process.key)
    columns = [
        integers(table, "start_seq"),
        integers(table, "end_seq", missing=END),
        integers(table, "batch_size", missing=-1),
        integers(table, "start_time_ns"),
    ]
    order = np.argsort(columns[0], kind="stable")
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
