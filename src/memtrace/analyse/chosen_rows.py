"""Rows of `allocations` by when they were allocated, and how soon they were freed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.breakdown import not_recorded
from memtrace.analyse.counters import Flags, Int64s, counted, equals, integers, may_hold
from memtrace.analyse.live_set import BYTES, weights
from memtrace.analyse.stage_list import stages_of
from memtrace.dataset import RowGroup
from memtrace.errors import MemtraceError
from memtrace.trace import Process, Trace

_NEVER = np.iinfo(np.int64).max
_KEYS = ("device", "origin", "alloc_seq", "free_seq")
CALL, STEP = "call", "step"


@dataclass(frozen=True)
class Within:
    """How soon memory must have been freed again to be temporary.

    Attributes:
        scope: "call": before the outermost operator call that allocated it had ended; "step":
            before the step (a model's call) that it was allocated in had ended; "allocations":
            before more than so many others were allocated on its device.
        allocations: how many others; 0: it was freed before the next.
    """

    scope: str = CALL
    allocations: int = 0

    def __str__(self) -> str:
        if self.scope == CALL:
            return "freed within the operator call that allocated it"
        if self.scope == STEP:
            return "freed within the step that allocated it"
        if self.allocations == 0:
            return "freed before the next allocation"
        others = "other was" if self.allocations == 1 else "others were"
        return f"freed before more than {self.allocations:,} {others} allocated"


def parse_within(text: str) -> Within:
    """ "call", "step", or a number of allocations.

    Raises:
        MemtraceError: it is none of them.
    """
    if text in (CALL, STEP):
        return Within(text)
    if text.isascii() and text.isdigit() and len(text) < 10:
        return Within("allocations", int(text))
    raise MemtraceError(f"within {text!r}: write call, step, or a number of allocations")


def allocated_rows(
    trace: Trace,
    process: Process,
    device: str,
    *,
    of: str,
    columns: Sequence[str],
    stage: str | None = None,
    within: Within | None = None,
) -> Iterator[pa.Table]:
    """What was allocated in the recording, a row group at a time, with its `bytes`.

    Memory that was there before, or never went through the allocator, is no part of it.

    Args:
        of: "allocated" counts blocks, "requested" what was asked for.
        stage: only what was allocated in stages of this name.
        within: only what was freed so soon.

    Raises:
        MemtraceError: no other measure is allocated; there is no such stage; or nothing is known
            to tell temporary memory by.
    """
    if of not in ("allocated", "requested"):
        raise MemtraceError(
            f"what is allocated in total is told in allocated or requested bytes, not in {of} ones"
        )
    inside = None if stage is None else _stretches(trace, process, stage)
    soon = None if within is None else _soon(trace, process, device, within)
    weight = "size_bytes" if of == "requested" else "block_bytes"
    names = list(dict.fromkeys([*columns, "size_bytes", weight]))
    needed = list(dict.fromkeys([*_KEYS, *(() if soon is None else soon.columns)]))
    for group in trace.datasets["allocations"].row_groups(process.key):
        if not may_hold(group, "device", device):
            continue
        keys = group.read(needed)
        chosen = _recorded(keys, device)
        if inside is not None:
            # An odd place is one between a beginning and its end.
            chosen &= np.searchsorted(inside, integers(keys, "alloc_seq"), side="right") % 2 == 1
        if soon is not None:
            chosen &= soon.are_freed(keys)
        if chosen.any():
            rows = group.read(names).filter(pa.array(chosen))
            yield rows.append_column(BYTES, pa.array(weights(rows, of=of), pa.int64()))


def _recorded(keys: pa.Table, device: str) -> Flags:
    chosen = equals(keys, "device", device) & counted(keys) & ~equals(keys, "origin", "preexisting")
    return chosen & (integers(keys, "alloc_seq", missing=-1) >= 0)


def _stretches(trace: Trace, process: Process, name: str) -> Int64s:
    """Begin, end, begin, end, ...: the stages of a name, those that overlap made one."""
    stages = [stage for stage in stages_of(trace, process) if stage.name == name]
    if not stages:
        raise no_stage(trace, process, name)
    merged: list[list[int]] = []
    for start, end in sorted((stage.start_seq, stage.end_seq) for stage in stages):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged, np.int64).ravel()


def no_stage(trace: Trace, process: Process, name: str) -> MemtraceError:
    """The error that says which stages there are."""
    stages = [stage for stage in stages_of(trace, process) if stage.kind != "whole"]
    known = ", ".join(dict.fromkeys(stage.name for stage in stages)) or "none"
    return MemtraceError(f"{process} has no stage {name!r}; it has {known}")


class _Soon:
    """Ends by key: a row is temporary if its key is known and it was freed before that end."""

    def __init__(self, key: str, freed: str, keys: Int64s, ends: Int64s) -> None:
        self.columns = (key, freed)
        self._keys, self._ends = keys, ends

    def are_freed(self, rows: pa.Table) -> Flags:
        if not len(self._keys):
            return np.zeros(rows.num_rows, np.bool_)
        key, freed = self.columns
        wanted = integers(rows, key, missing=-1)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        known = self._keys[places] == wanted
        flags: Flags = known & (integers(rows, freed, missing=_NEVER) <= self._ends[places])
        return flags


class _BeforeOthers:
    """Rows that were freed before more than so many others were allocated."""

    columns = ()

    def __init__(self, starts: Int64s, most: int) -> None:
        self._starts, self._most = starts, most

    def are_freed(self, rows: pa.Table) -> Flags:
        freed = integers(rows, "free_seq", missing=-1)
        others = np.searchsorted(self._starts, freed, side="left") - 1
        others -= np.searchsorted(self._starts, integers(rows, "alloc_seq"), side="left")
        flags: Flags = (freed >= 0) & (others <= self._most)
        return flags


def _soon(trace: Trace, process: Process, device: str, within: Within) -> _Soon | _BeforeOthers:
    if within.scope == CALL:
        why = not_recorded("operator", process.row)
        if why is not None:
            raise MemtraceError(f"{why}: tell temporary memory by steps, or by a number")
        return _Soon("operator_call_id", "free_time_ns", *_call_ends(trace, process))
    if within.scope == STEP:
        return _Soon("step", "free_seq", *_step_ends(trace, process))
    starts = [
        integers(keys, "alloc_seq")[_recorded(keys, device)]
        for keys in _keys(trace.datasets["allocations"].row_groups(process.key), device)
    ]
    return _BeforeOthers(
        np.sort(np.concatenate([np.empty(0, np.int64), *starts])), within.allocations
    )


def _keys(groups: Iterator[RowGroup], device: str) -> Iterator[pa.Table]:
    return (group.read(_KEYS) for group in groups if may_hold(group, "device", device))


def _step_ends(trace: Trace, process: Process) -> tuple[Int64s, Int64s]:
    table = trace.datasets["steps"].read(["step", "end_seq"], key=process.key)
    ids, places = np.unique(integers(table, "step", missing=-1), return_index=True)
    # A free at the place of the end came after it.
    return ids, integers(table, "end_seq", missing=-1)[places] - 1


def _call_ends(trace: Trace, process: Process) -> tuple[Int64s, Int64s]:
    """Of each operator call, the time at which the outermost one around it ended.

    A scope of the user's own (`record_function`) is no operator: what is outermost lies in it.
    """
    names = ["call_id", "parent_call_id", "scope", "end_time_ns"]
    tables = [group.read(names) for group in trace.datasets["operators"].row_groups(process.key)]
    if not tables:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ids, parents, ends = (
        np.concatenate([integers(table, name, missing=-1) for table in tables])
        for name in ("call_id", "parent_call_id", "end_time_ns")
    )
    is_user = np.concatenate([equals(table, "scope", "user_scope") for table in tables])
    order = np.argsort(ids)
    ids, parents, ends, is_user = ids[order], parents[order], ends[order], is_user[order]
    up = np.minimum(np.searchsorted(ids, parents), len(ids) - 1)
    up = np.where((ids[up] == parents) & ~is_user[up], up, np.arange(len(ids)))
    while not np.array_equal(up, further := up[up]):
        up = further
    return ids, np.where(is_user, -1, ends[up])
