"""Events that stay when a recording is thinned: they tell what a device held at most, and at ends.

Of every few hundred events, and of each stage. The stages of the program are known, and so are the
places where attribution will find others: where steps begin after a rest, where they end, and where
the last weight or buffer was allocated before, which stays as well: `load` ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace.attribute.columns import NEVER, NONE, Columns, places_of
from memtrace.dataset import Part, row_groups_of
from memtrace.schema import SCHEMAS

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
#: The complete files of a dataset.
ClosedParts = Callable[[str], Sequence[Path]]

METRICS = ("allocated_bytes", "active_bytes", "reserved_bytes")
_EVENTS_PER_PEAK = 512
_REST_NS = 1_000_000_000  # a shorter one between two steps makes no stage (attribute/stages.py)
_WORK_ENDS = ("backward_end", "optimizer_end")
_LOADED = ("weight", "buffer")


@dataclass(frozen=True)
class StageBounds:
    """Places in the order of events that decide stages; rising.

    Attributes:
        places: where stages begin and end.
        loaded: of the allocations that end a `load`.
    """

    places: Int64s
    loaded: Int64s


def landmarks(events: Columns, bounds: Int64s) -> Flags:
    """Which of these events stay.

    Args:
        events: in their order, with `seq`, `device` and METRICS.
        bounds: places in that order, rising: what is held just before one is to be known.
    """
    codes, words = events.words("device")
    seqs = events.numbers("seq")
    chosen = np.zeros(len(codes), np.bool_)
    for code in range(len(words)):
        rows = np.flatnonzero(codes == code)
        if not len(rows):
            continue
        # The last one stays as well: what comes next may be of another file.
        ends = np.unique(np.append(np.searchsorted(seqs[rows], bounds), len(rows)))
        chosen[rows[ends[ends > 0] - 1]] = True
        starts = np.union1d(np.arange(0, len(rows), _EVENTS_PER_PEAK), ends[:-1])
        stretches = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(rows))))
        for metric in METRICS:
            values = events.numbers(metric)[rows]
            if values[0] == NEVER:  # the device has no such total
                continue
            highest = np.flatnonzero(values == np.maximum.reduceat(values, starts)[stretches])
            first = np.unique(stretches[highest], return_index=True)[1]
            chosen[rows[highest[first]]] = True
    return chosen


def bounds_of_stages(closed_parts: ClosedParts) -> StageBounds:
    """Where stages begin and end, as far as that is known by now."""
    stages = _columns(closed_parts, "stages", ("start_seq", "end_seq"))
    found = [stages.numbers("start_seq"), stages.numbers("end_seq")]
    steps = _columns(
        closed_parts, "steps", ("start_seq", "end_seq", "start_time_ns", "end_time_ns")
    )
    work = np.empty(0, np.int64)  # where it begins after a rest
    if steps.rows:
        order = np.argsort(steps.numbers("start_seq"), kind="stable")
        begins = steps.numbers("start_seq")[order]
        ends = np.maximum.accumulate(steps.numbers("end_seq")[order])
        ends_ns = np.maximum.accumulate(steps.numbers("end_time_ns")[order])
        rests = np.flatnonzero(steps.numbers("start_time_ns")[order][1:] - ends_ns[:-1] >= _REST_NS)
        work = np.append(begins[:1], begins[rests + 1])
        found += [work, ends[rests], ends[-1:]]
        marks = _columns(closed_parts, "marks", ("seq", "kind"))
        work_ends = np.sort(marks.numbers("seq")[marks.codes("kind", _WORK_ENDS) != NONE])
        if len(work_ends):
            last = np.searchsorted(work_ends, np.append(work[1:], NEVER)) - 1
            found.append(work_ends[np.maximum(last, 0)])
    births = _births_of_loaded(closed_parts)
    last = np.searchsorted(births, np.append(work, NEVER)) - 1
    loaded = np.unique(births[last[last >= 0]])
    return StageBounds(np.unique(np.concatenate([*found, loaded + 1])), loaded)


def _births_of_loaded(closed_parts: ClosedParts) -> Int64s:
    """Where weights and buffers were allocated, of those that are left; rising."""
    names = _columns(closed_parts, "names", ("allocation_id", "kind"))
    ids = np.unique(names.numbers("allocation_id")[names.codes("kind", _LOADED) != NONE])
    births = [np.empty(0, np.int64)]
    parts = [Part("allocations", path, mapped=False) for path in closed_parts("allocations")]
    for group in row_groups_of(parts) if len(ids) else ():
        columns = Columns.read(group, ["allocation_id", "alloc_seq", "origin"])
        counts = places_of(ids, columns.numbers("allocation_id")) != NONE
        counts &= columns.codes("origin", ["external"]) == NONE  # found later than it was loaded
        births.append(columns.numbers("alloc_seq")[counts])
    return np.sort(np.concatenate(births))


def _columns(closed_parts: ClosedParts, dataset: str, names: Sequence[str]) -> Columns:
    parts = [Part(dataset, path, mapped=False) for path in closed_parts(dataset)]
    schema = pa.schema([SCHEMAS[dataset].field(name) for name in names])
    tables = [group.read(names).cast(schema) for group in row_groups_of(parts)]
    return Columns(pa.concat_tables([schema.empty_table(), *tables]))
