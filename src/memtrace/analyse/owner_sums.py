"""What each owner holds at many instants, and is allocated in steps: one pass over the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Flags, Int64s, counted, equals, integers, may_hold
from memtrace.analyse.live_set import end_column, weights
from memtrace.analyse.owners import group_codes
from memtrace.analyse.stack import Frame, stacks_by_id, told_frames
from memtrace.analyse.step_names import OuterSteps, is_outermost
from memtrace.trace import Process, Trace

_NEVER = np.iinfo(np.int64).max
_UNKNOWN_STEP = "unknown"


@dataclass
class Sums:
    """Bytes and blocks of each owner, in each grouping; None: the rows without one."""

    by: dict[str, dict[str | None, tuple[int, int]]] = field(default_factory=dict)

    def add(self, column: str, codes: Int64s, names: list[str | None], weight: Int64s) -> None:
        """More rows: each with the number of its owner in `names`, and its bytes."""
        total = np.zeros(len(names), np.int64)
        np.add.at(total, codes, weight)  # not bincount's weights: those are floats
        blocks = np.bincount(codes, minlength=len(names))
        sums = self.by.setdefault(column, {})
        for place in np.flatnonzero(blocks).tolist():
            before = sums.get(names[place], (0, 0))
            sums[names[place]] = (before[0] + int(total[place]), before[1] + int(blocks[place]))


@dataclass(frozen=True)
class OwnerSums:
    """Of one device.

    Attributes:
        at: by instant (the `seq` of the event that it is after), what was live.
        steps: by kind of step, what was allocated in all steps of the kind.
        step_counts: how many steps there are of each kind, also of those that allocated nothing.
    """

    at: dict[int, Sums]
    steps: dict[str, Sums]
    step_counts: dict[str, int]


def read_owner_sums(
    trace: Trace, process: Process, device: str, *, of: str, by: Sequence[str], seqs: Iterable[int]
) -> OwnerSums:
    """Reads the rows of a process once.

    Args:
        of: the measure; in steps, what is asked for when "requested", else blocks.
        by: columns of breakdown.GROUPINGS; stacks are told by their functions, without lines.
        seqs: the instants.
    """
    outer = OuterSteps(trace, process.key)
    ids, kinds, names = _steps(trace, process)
    sums = OwnerSums(
        {seq: Sums() for seq in seqs},
        {name: Sums() for name in names},
        {name: int((kinds == place).sum()) for place, name in enumerate(names)},
    )
    end = end_column(of, device)
    columns = ["stack_id" if column == "stack" else column for column in by]
    needed = ["device", "origin", "alloc_seq", end, "size_bytes", "block_bytes", "step", *columns]
    for group in trace.datasets["allocations"].row_groups(process.key):
        if not may_hold(group, "device", device):
            continue
        rows = group.read(list(dict.fromkeys(needed)))
        held = equals(rows, "device", device) & counted(rows)
        start = integers(rows, "alloc_seq", missing=_NEVER)
        stop = integers(rows, end, missing=_NEVER)
        masks = [(sums.at[seq], held & (start <= seq) & (stop > seq)) for seq in sums.at]
        weight = weights(rows, of=of)
        kind = _kind_of(outer.of(integers(rows, "step", missing=-1)), ids, kinds)
        kind[~held | equals(rows, "origin", "preexisting")] = -1
        masks += [(sums.steps[name], kind == place) for place, name in enumerate(names)]
        _add(rows, masks, by, weight)
    if "stack" in by:
        _tell_stacks(trace, process, [*sums.at.values(), *sums.steps.values()])
    return sums


def _add(
    rows: pa.Table, masks: list[tuple[Sums, Flags]], by: Sequence[str], weight: Int64s
) -> None:
    chosen = [(sums, np.flatnonzero(mask)) for sums, mask in masks]
    for column in by:
        codes, names = group_codes(rows, column)
        for sums, places in chosen:
            if len(places):
                sums.add(column, codes[places], names, weight[places])


def _steps(trace: Trace, process: Process) -> tuple[Int64s, Int64s, list[str]]:
    """Numbers of the outermost steps, sorted; the kind of each; what the kinds are called."""
    table = trace.datasets["steps"].read(["step", "kind", "parent_step"], key=process.key)
    table = table.filter(pa.array(is_outermost(table)))
    ids, places = np.unique(integers(table, "step", missing=-1), return_index=True)
    words = [word or _UNKNOWN_STEP for word in table.column("kind").to_pylist()]
    names = sorted(set(words))
    codes = np.array([names.index(word) for word in words], np.int64)
    return ids, codes[places], names


def _kind_of(steps: Int64s, ids: Int64s, kinds: Int64s) -> Int64s:
    if not len(ids):
        return np.full(len(steps), -1, np.int64)
    places = np.minimum(np.searchsorted(ids, steps), len(ids) - 1)
    return np.where(ids[places] == steps, kinds[places], -1)


def _tell_stacks(trace: Trace, process: Process, all_sums: Iterable[Sums]) -> None:
    """Ids of stacks are of one trace only, and their lines move: their functions stay."""
    all_sums = list(all_sums)
    ids = {int(key) for sums in all_sums for key in sums.by.get("stack", ()) if key is not None}
    texts = {
        str(n): _functions(found) for n, found in stacks_by_id(trace, process.key, ids).items()
    }
    for sums in all_sums:
        told: dict[str | None, tuple[int, int]] = {}
        for key, (total, blocks) in sums.by.get("stack", {}).items():
            name = None if key is None else texts.get(key, f"stack {key}")
            before = told.get(name, (0, 0))
            told[name] = (before[0] + total, before[1] + blocks)
        sums.by["stack"] = told


def _functions(frames: tuple[Frame, ...]) -> str:
    """Innermost first: "mlp.py forward < model.py forward"."""
    return " < ".join(frame.text_without_line for frame in told_frames(frames))
