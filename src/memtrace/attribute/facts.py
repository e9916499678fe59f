"""What the rules must know of a whole process before they look at one allocation.

Memory goes with what is named, with steps and with backward passes, never with allocations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memtrace.attribute.calls import Calls
from memtrace.attribute.columns import NEVER, NONE, Columns, Flags, Int64s, places_of
from memtrace.attribute.intervals import Intervals, read_intervals
from memtrace.attribute.names import Names, read_names
from memtrace.attribute.steps import Steps, read_steps
from memtrace.attribute.threads import in_order
from memtrace.attribute.workspaces import Candidates
from memtrace.dataset import Part, RowGroup, parts_in, row_groups_of

PHASES = ("forward", "backward", "optimizer")
FORWARD, BACKWARD, OPTIMIZER = range(3)

#: The folder that holds the process's files of a dataset.
FolderOf = Callable[[str], Path]


@dataclass(frozen=True)
class Births:
    """When weights and buffers of torch's own were allocated, int64[n] in order."""

    seq: Int64s
    time_ns: Int64s


@dataclass(frozen=True)
class Facts:
    """Everything that a process's other datasets say of its allocations.

    Attributes:
        backward_failed: of each backward, whether an allocation failed in it, or the process died.
        workspaces: int64[n], sorted: ids of the workspaces that torch keeps for cuBLAS.
        loaded: weights and buffers.
        graph_pools: those into which CUDA graphs were captured.
    """

    names: Names
    steps: Steps
    backward: Intervals
    optimizer: Intervals
    recompute: Intervals
    backward_failed: Flags
    workspaces: Int64s
    loaded: Births
    calls: Calls
    graph_pools: frozenset[str]


def read_facts(folder: FolderOf) -> Facts:
    """Reads all of it; `allocations` in part, and not at all where nothing asks for it."""
    parts = {
        name: parts_in(folder(name), name, mapped=False)
        for name in ("names", "steps", "marks", "operators", "allocations", "events")
    }
    names = read_names(parts["names"])
    steps = read_steps(parts["steps"])
    intervals = read_intervals(parts["marks"])
    backward = intervals["backward"]
    calls = Calls(parts["operators"])
    candidates = Candidates()
    loaded = _survey(parts["allocations"], names, steps, candidates)
    return Facts(
        names=names,
        steps=steps,
        backward=backward,
        optimizer=intervals["optimizer"],
        recompute=intervals["recompute"],
        backward_failed=_failed(parts["events"], backward),
        workspaces=candidates.workspaces(parts["allocations"], calls),
        loaded=loaded,
        calls=calls,
        graph_pools=_graph_pools(parts["marks"]),
    )


def _graph_pools(marks: list[Part]) -> frozenset[str]:
    pools: set[str] = set()
    for group in row_groups_of(marks):
        columns = Columns.read(group, ["kind", "pool"])
        codes, words = columns.words("pool")
        captures = columns.codes("kind", ["capture_begin", "capture_end"]) != NONE
        pools |= {words[code] for code in np.unique(codes[captures & (codes != NONE)]).tolist()}
    return frozenset(pools)


def _survey(parts: list[Part], names: Names, steps: Steps, candidates: Candidates) -> Births:
    weights = np.union1d(names.of("weight"), names.of("buffer"))
    births = [np.empty((2, 0), np.int64)]

    def read(group: RowGroup) -> Columns:
        wanted = ["allocation_id", "alloc_seq", "free_seq", "phase", "step"]
        return Columns.read(group, [*wanted, "alloc_time_ns", "origin", *candidates.columns])

    for columns in in_order(read, row_groups_of(parts)):
        ids = columns.numbers("allocation_id")
        if len(steps):
            _survey_steps(columns, ids, names, steps)
        if len(weights):
            found = places_of(weights, ids) != NONE
            # When a scan found memory that torch was handed says nothing of when it was loaded.
            found &= columns.codes("origin", ["external"]) == NONE
            births.append(
                np.stack([columns.numbers(c)[found] for c in ("alloc_seq", "alloc_time_ns")])
            )
        candidates.look_at(columns)
    seq, time_ns = np.concatenate(births, axis=1)
    order = np.argsort(seq, kind="stable")
    return Births(seq[order], time_ns[order])


def _survey_steps(columns: Columns, ids: Int64s, names: Names, steps: Steps) -> None:
    step = steps.places(columns.numbers("step"))
    phase = columns.codes("phase", PHASES)
    born = columns.numbers("alloc_seq")
    steps.trained[step[(step != NONE) & (phase == BACKWARD)]] = True
    inside = (step != NONE) & (phase != BACKWARD)
    inside &= (born >= steps.begin[step]) & (born < steps.end[step])
    steps.births += np.bincount(step[inside], minlength=len(steps))
    outputs = np.flatnonzero(inside & (places_of(names.outputs, ids) != NONE))
    freed = columns.numbers("free_seq")[outputs]
    np.minimum.at(steps.outputs_freed_first, step[outputs], freed)
    np.maximum.at(steps.outputs_freed_last, step[outputs], freed)
    steps.has_outputs[step[outputs]] = True


def _failed(events: list[Part], backward: Intervals) -> Flags:
    failed: Flags = backward.end == NEVER
    if not len(backward):
        return failed
    for group in row_groups_of(events):
        bounds = group.bounds("seq")
        if bounds is not None and bounds.low is not None:
            place = backward.next_after(np.array([bounds.high])) - 1
            if place[0] < 0 or backward.latest_end[place[0]] <= bounds.low:
                continue  # no backward here
        columns = Columns.read(group, ["action", "seq"])
        out_of_memory = columns.codes("action", ["oom"]) != NONE
        if out_of_memory.any():
            place = backward.covering(columns.numbers("seq")[out_of_memory])
            failed[place[place != NONE]] = True
    return failed
