"""Keeps a long recording within so much disk: the newest and the largest stay.

Rows go in rounds. In a part of `allocations`, the oldest parts first, the smaller half of what may
go; with them their events, their names, and the operator calls of which then nobody speaks. What is
older has been through more rounds, so it is known by ever larger allocations only. Always kept: who
was live at a peak of a device, whatever is no plain allocation (segments, failures, what was there
before), the weight with which a stage of loading ended, and the events that show what was held at
most and at the end, of a stage and of every few hundred events. Each event that is left has the
device's sums, which count all: totals and peaks stay exact. (Of a block that is open while rows go,
it is not known yet where it began.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace.attribute.columns import NEVER, NONE, Columns
from memtrace.dataset import Part, RowGroup, row_groups_of
from memtrace.dataset_writer import PartWriter
from memtrace.finalise.landmarks import METRICS, ClosedParts, bounds_of_stages, landmarks
from memtrace.schema import SCHEMAS

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: The datasets that lose rows.
THINNED = ("allocations", "events", "operators", "names")
_OF_ALLOCATIONS = ("alloc", "free_requested", "free_completed")
_OLD = 3 / 4  # of the parts: the newest are not thinned


class Peaks:
    """Where each device held most, of the events that were looked at."""

    def __init__(self) -> None:
        self._best: dict[tuple[str, str], tuple[int, int]] = {}

    def look(self, events: pa.Table) -> None:
        """The next rows of `events`."""
        columns = Columns(events)
        codes, words = columns.words("device")
        seqs = columns.numbers("seq")
        for code, device in enumerate(words):
            rows = np.flatnonzero(codes == code)
            for metric in METRICS if len(rows) else ():
                values = columns.numbers(metric)[rows]
                if values[0] == NEVER:  # the device has no such total
                    continue
                at = int(values.argmax())
                if int(values[at]) > self._best.get((device, metric), (-1, 0))[0]:
                    self._best[device, metric] = int(values[at]), int(seqs[rows[at]])

    @property
    def seqs(self) -> Int64s:
        """The places of the peaks in the order of events."""
        return np.unique(np.array([seq for _, seq in self._best.values()], np.int64))


@dataclass
class Dropped:
    """What is not in the trace any more: rows by dataset, and the largest allocation of them."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(THINNED, 0))
    largest_bytes: int = 0


class Thinner:
    """Thins the closed parts of one process's datasets, a round at a time."""

    def __init__(self, closed_parts: ClosedParts) -> None:
        self._closed_parts = closed_parts
        self._next = 0
        self.peaks = Peaks()
        self.dropped = Dropped()

    def thin(self, bytes_to_free: int) -> None:
        """About so much of the disk, as far as there are rows that may go.

        Raises:
            OSError, pyarrow.ArrowException: the files cannot be read or written.
        """
        parts = self._closed_parts("allocations")
        old = parts[: max(int(len(parts) * _OLD), 1)]
        bytes_of_row = self._bytes_of_allocation(parts)
        bounds = bounds_of_stages(self._closed_parts)
        ids: list[Int64s] = []
        freed = 0.0
        barren = 0  # parts in a row in which nothing may go
        while old and freed < bytes_to_free and barren < len(old):
            part = old[self._next % len(old)]
            self._next += 1
            ids.append(self._thin_allocations(part, bounds.loaded))
            freed += len(ids[-1]) * bytes_of_row
            barren = 0 if len(ids[-1]) else barren + 1
        gone = np.sort(np.concatenate(ids)) if ids else np.empty(0, np.int64)
        if len(gone):
            self._thin_others(gone, bounds.places)

    def _bytes_of_allocation(self, parts: Sequence[Path]) -> float:
        """That a row of `allocations` takes together with all that hangs on it."""
        sizes = [path.stat().st_size for name in THINNED for path in self._closed_parts(name)]
        rows = [Part("allocations", path, mapped=False).metadata.num_rows for path in parts]
        return float(sum(sizes) / max(sum(rows), 1))

    def _thin_allocations(self, path: Path, loaded: Int64s) -> Int64s:
        """The ids of the rows that went."""
        ids: list[Int64s] = []

        def keeps(columns: Columns) -> Flags:
            size = columns.numbers("block_bytes")
            may_go = columns.codes("origin", ["recorded"]) != NONE
            begun, released = columns.numbers("alloc_seq"), columns.numbers("release_seq")
            ended = np.where(released == NEVER, columns.numbers("free_seq"), released)
            may_go &= ~np.isin(begun, loaded)
            for peak in self.peaks.seqs.tolist():
                may_go &= ~((begun <= peak) & (peak < ended))
            rows = np.flatnonzero(may_go)
            order = rows[np.argsort(size[rows], kind="stable")]
            goes = order[: (len(order) + 1) // 2]
            if len(goes):
                ids.append(columns.numbers("allocation_id")[goes])
                largest = max(self.dropped.largest_bytes, int(size[goes].max()))
                self.dropped.largest_bytes = largest
            kept = np.ones(len(size), np.bool_)
            kept[goes] = False
            return kept

        self._rewrite(path, "allocations", keeps)
        return np.concatenate(ids) if ids else np.empty(0, np.int64)

    def _thin_others(self, gone: Int64s, bounds: Int64s) -> None:
        calls_gone: list[Int64s] = []
        calls_kept: list[Int64s] = []

        def speaks_of(group: RowGroup) -> bool:
            return _may_hold(group, "allocation_id", gone)

        def keeps_event(columns: Columns) -> Flags:
            plain = columns.codes("action", _OF_ALLOCATIONS) != NONE
            kept: Flags = ~(plain & _is_in(columns.numbers("allocation_id"), gone))
            kept |= np.isin(columns.numbers("seq"), self.peaks.seqs)
            kept |= landmarks(columns, bounds)
            calls = columns.numbers("operator_call_id")
            calls_gone.append(np.unique(calls[~kept]))
            calls_kept.append(np.unique(calls[kept]))
            return kept

        as_they_were = [
            path
            for path in self._closed_parts("events")
            if not self._rewrite(path, "events", keeps_event, speaks_of)
        ]
        for path in self._closed_parts("names"):
            self._rewrite(
                path, "names", lambda c: ~_is_in(c.numbers("allocation_id"), gone), speaks_of
            )
        if calls_gone:
            calls = np.setdiff1d(np.concatenate(calls_gone), np.concatenate(calls_kept))
            self._thin_operators(_without_those_of(as_they_were, calls))

    def _thin_operators(self, calls: Int64s) -> None:
        largest = self.dropped.largest_bytes

        def keeps(columns: Columns) -> Flags:
            # A call around one that stays has its bytes as well, and stays.
            size = columns.numbers("allocated_bytes") + columns.numbers("freed_bytes")
            return (size > largest) | ~_is_in(columns.numbers("call_id"), calls)

        for path in self._closed_parts("operators"):
            self._rewrite(path, "operators", keeps, lambda g: _may_hold(g, "call_id", calls))

    def _rewrite(
        self,
        path: Path,
        dataset: str,
        keeps: Callable[[Columns], Flags],
        may_change: Callable[[RowGroup], bool] | None = None,
    ) -> bool:
        """The file without the rows that are not kept; False: it was not looked into."""
        groups = list(row_groups_of([Part(dataset, path, mapped=False)]))
        if may_change is not None and not any(map(may_change, groups)):
            return False
        thinned = path.with_suffix(".thinned")
        thinned.unlink(missing_ok=True)
        with PartWriter(thinned, dataset, SCHEMAS[dataset]) as writer:
            for group in groups:
                table = group.read(SCHEMAS[dataset].names)
                kept = keeps(Columns(table))
                self.dropped.rows[dataset] += int(len(kept) - kept.sum())
                if kept.any():
                    writer.write(table.filter(pa.array(kept)).cast(SCHEMAS[dataset]))
        thinned.replace(path)
        return True


def _may_hold(group: RowGroup, column: str, ids: Int64s) -> bool:
    """Whether some of `ids`, which rise, can be in the column there."""
    if not len(ids):
        return False
    bounds = group.bounds(column)
    if bounds is None:
        return True
    low, high = bounds.low, bounds.high
    return low is not None and high is not None and bool(low <= ids[-1] and high >= ids[0])


def _without_those_of(events: Sequence[Path], calls: Int64s) -> Int64s:
    """The calls, which rise, that have no event in these files."""
    for group in row_groups_of([Part("events", path, mapped=False) for path in events]):
        if _may_hold(group, "operator_call_id", calls):
            found = Columns(group.read(["operator_call_id"])).numbers("operator_call_id")
            calls = np.setdiff1d(calls, found)
    return calls


def _is_in(ids: Int64s, chosen: Int64s) -> Flags:
    """Which of `ids` are in `chosen`, which rises."""
    if not len(chosen):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(chosen, ids), len(chosen) - 1)
    found: Flags = chosen[places] == ids
    return found
