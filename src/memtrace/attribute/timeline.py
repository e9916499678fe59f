"""Each category's bytes over time, in a bounded number of bins: what a chart draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace.attribute.columns import NEVER, NONE, Columns, Flags, Int64s, places_of
from memtrace.attribute.threads import in_order
from memtrace.categories import CATEGORIES
from memtrace.dataset import Part, RowGroup, row_groups_of
from memtrace.schema import SCHEMAS

METRIC = "category"
#: Of all categories of a device together.
MOST_BINS = 16_384
# A chart does not need more bins than this share of the changes, and a short trace should not be
# mostly timeline.
_CHANGES_PER_BIN = 32
_FEWEST_BINS = 512
_NARROWEST = 10  # bins of 2^10 ns
_UNCOUNTED = 255

#: Columns of `allocations`, and of `events`, that are read.
COLUMNS = ("allocation_id", "free_seq", "origin")
COLUMNS_OF_EVENTS = ("seq", "time_ns", "device", "action", "allocation_id", "block_bytes")
_ACTIONS = ("alloc", "preexisting", "free_requested", "free_completed")
_FIRST_FREE = _ACTIONS.index("free_requested")


class CategoryOf:
    """The category of each allocation by its id: two bytes each."""

    def __init__(self, most: int) -> None:
        self._codes = np.full(most + 1, _UNCOUNTED, np.uint8)
        self._ends = np.zeros(most + 1, np.bool_)

    def note(self, columns: Columns, codes: npt.NDArray[np.int8]) -> None:
        """Rows of `allocations` (with COLUMNS). Memory beside torch's own has no category here."""
        counted = columns.codes("origin", ["external"]) == NONE
        ids = columns.numbers("allocation_id")[counted]
        self._codes[ids] = codes[counted].astype(np.uint8)
        self._ends[ids] = columns.numbers("free_seq")[counted] != NEVER

    def __call__(self, ids: Int64s) -> npt.NDArray[np.uint8]:
        return self._codes[np.where(ids < len(self._codes), ids, 0)]

    def without_free(self, freed: Flags) -> Int64s:
        """Ids of allocations that ended, though no event of theirs says so."""
        return np.flatnonzero(self._ends & ~freed[: len(self._ends)])

    def nobody_freed(self) -> Flags:
        return np.zeros(len(self._ends), np.bool_)


class Bins:
    """One device's categories; bins are joined when there are too many."""

    def __init__(self) -> None:
        self._shift = _NARROWEST
        self._held = np.zeros(len(CATEGORIES), np.int64)
        self._changes = 0
        # place, category, min, max, last: by category, then by place.
        self._rows = np.empty((5, 0), np.int64)

    def add(self, time_ns: Int64s, category: Int64s, delta: Int64s) -> None:
        """Changes in order; times must not fall from call to call."""
        if not len(delta):
            return
        self._changes += len(delta)
        order = np.argsort(category, kind="stable")
        time_ns, category, delta = time_ns[order], category[order], delta[order]
        first = np.flatnonzero(np.diff(category, prepend=NONE))
        sums = np.cumsum(delta)
        start = self._held[category[first]] - (sums[first] - delta[first])
        after = sums + np.repeat(start, np.diff(np.append(first, len(delta))))
        self._held[category[first]] = after[np.append(first[1:], len(delta)) - 1]
        before = after - delta  # what stood as a bin begins still counts in it
        rows = np.stack(
            [
                time_ns >> self._shift, category, np.minimum(before, after),
                np.maximum(before, after), after,
            ]
        )  # fmt: skip
        self._rows = np.concatenate([self._rows, _joined(rows)], axis=1)
        if self._rows.shape[1] > 4 * MOST_BINS:
            self._join_to(MOST_BINS)

    def _join_to(self, most: int) -> None:
        rows = self._rows
        rows = _joined(rows[:, np.lexsort((rows[0], rows[1]))])
        while rows.shape[1] > most and self._shift < 62:
            self._shift += 1
            rows[0] >>= 1
            rows = _joined(rows)
        self._rows = rows

    def rows(self) -> Iterator[tuple[int, Int64s]]:
        """Of each category: its place in CATEGORIES, and int64[4, n]: begins, min, max, last."""
        most = min(max(self._changes // _CHANGES_PER_BIN, _FEWEST_BINS), MOST_BINS)
        self._join_to(most)
        for category in np.unique(self._rows[1]).tolist():
            its = self._rows[:, self._rows[1] == category]
            yield category, np.stack([its[0] << self._shift, *its[2:]])


def _joined(rows: Int64s) -> Int64s:
    """Neighbours of the same place and category as one; rows are in the order of time in each."""
    if not rows.shape[1]:
        return rows
    new = (np.diff(rows[0], prepend=NONE) != 0) | (np.diff(rows[1], prepend=NONE) != 0)
    first = np.flatnonzero(new)
    last = np.append(first[1:], rows.shape[1]) - 1
    return np.stack(
        [
            rows[0][first], rows[1][first], np.minimum.reduceat(rows[2], first),
            np.maximum.reduceat(rows[3], first), rows[4][last],
        ]
    )  # fmt: skip


def category_rows(
    events: Sequence[Part], allocations: Sequence[Part], category_of: CategoryOf
) -> pa.Table:
    """Rows of `timeline` for every device, from the events in their order.

    Where the free of an allocation was lost, it ends at an event of another's: then the events are
    read once more with those ends.
    """
    devices, freed = _bins(events, category_of, _Ends.none())
    missed = category_of.without_free(freed)
    if len(missed):
        devices, _ = _bins(events, category_of, _Ends.of(missed, allocations))
    return _table(devices)


@dataclass(frozen=True)
class _Ends:
    """Ends that no free tells of, by the seq of the event at which they came."""

    seq: Int64s
    id: Int64s
    block_bytes: Int64s
    device: list[str]

    @classmethod
    def none(cls) -> _Ends:
        nothing = np.empty(0, np.int64)
        return cls(nothing, nothing, nothing, [])

    @classmethod
    def of(cls, ids: Int64s, allocations: Sequence[Part]) -> _Ends:
        found, devices = [np.empty((3, 0), np.int64)], []
        for group in row_groups_of(allocations):
            names = ("free_seq", "allocation_id", "block_bytes")
            columns = Columns.read(group, [*names, "device"])
            rows = np.flatnonzero(places_of(ids, columns.numbers("allocation_id")) != NONE)
            found.append(np.stack([columns.numbers(name)[rows] for name in names]))
            codes, words = columns.words("device")
            devices += [words[code] if code != NONE else "" for code in codes[rows].tolist()]
        seq, its_ids, block_bytes = np.concatenate(found, axis=1)
        order = np.argsort(seq, kind="stable")
        block_bytes = np.where(block_bytes == NEVER, 0, block_bytes)
        return cls(
            seq[order], its_ids[order], block_bytes[order], [devices[i] for i in order.tolist()]
        )


def _bins(
    events: Sequence[Part], category_of: CategoryOf, ends: _Ends
) -> tuple[dict[str, Bins], Flags]:
    """The bins of every device, and which allocations events said to be freed."""
    devices: dict[str, Bins] = {}
    freed = category_of.nobody_freed()

    def read(group: RowGroup) -> tuple[Columns, _Changes]:
        columns = Columns.read(group, COLUMNS_OF_EVENTS)
        return columns, _Changes.of(columns, category_of)

    for columns, all_changes in in_order(read, row_groups_of(events)):
        changes = all_changes.without_ended(freed)
        if len(ends.seq):
            changes = changes.with_ends(ends, columns, category_of)
        for device, rows in changes.by_device():
            bins = devices.setdefault(device, Bins())
            bins.add(changes.time_ns[rows], changes.category[rows], changes.delta[rows])
    return devices, freed


@dataclass(frozen=True)
class _Changes:
    """Changes of *allocated*, in the order of events."""

    seq: Int64s
    id: Int64s
    is_end: Flags
    time_ns: Int64s
    category: Int64s
    delta: Int64s
    device: Int64s
    words: list[str]

    @classmethod
    def of(cls, columns: Columns, category_of: CategoryOf) -> _Changes:
        """Of the first of its events here that end an allocation: a request, or a completion."""
        action = columns.codes("action", _ACTIONS)
        ids = columns.numbers("allocation_id")
        chosen = np.flatnonzero((action != NONE) & (ids != NEVER))
        category = category_of(ids[chosen])
        counted = category != _UNCOUNTED
        chosen, category = chosen[counted], category[counted]
        is_end = action[chosen] >= _FIRST_FREE
        keeps = ~is_end
        keeps[is_end] = _are_first(ids[chosen[is_end]])
        chosen, category, is_end = chosen[keeps], category[keeps], is_end[keeps]
        block_bytes = columns.numbers("block_bytes")[chosen]
        block_bytes = np.where(block_bytes == NEVER, 0, block_bytes)
        devices, words = columns.words("device")
        return cls(
            columns.numbers("seq")[chosen],
            ids[chosen],
            is_end,
            columns.numbers("time_ns")[chosen],
            category.astype(np.int64),
            np.where(is_end, -block_bytes, block_bytes),
            devices[chosen].astype(np.int64),
            words,
        )

    def without_ended(self, freed: Flags) -> _Changes:
        """Without ends of what is `freed` already, which then has these, too."""
        keeps = ~(self.is_end & freed[self.id])
        freed[self.id[self.is_end]] = True
        if keeps.all():
            return self
        return _Changes(
            self.seq[keeps],
            self.id[keeps],
            self.is_end[keeps],
            self.time_ns[keeps],
            self.category[keeps],
            self.delta[keeps],
            self.device[keeps],
            self.words,
        )

    def with_ends(self, ends: _Ends, columns: Columns, category_of: CategoryOf) -> _Changes:
        """With those ends that come at events of this row group: before what began there."""
        seqs = columns.numbers("seq")
        first, last = np.searchsorted(ends.seq, [seqs[0], seqs[-1] + 1], side="left").tolist()
        seq, ids = ends.seq[first:last], ends.id[first:last]
        words = list(dict.fromkeys([*self.words, *ends.device[first:last]]))
        at = np.searchsorted(self.seq, seq, side="left")
        time_ns = columns.numbers("time_ns")[np.searchsorted(seqs, seq)]
        return _Changes(
            np.insert(self.seq, at, seq),
            np.insert(self.id, at, ids),
            np.insert(self.is_end, at, True),
            np.insert(self.time_ns, at, time_ns),
            np.insert(self.category, at, category_of(ids)),
            np.insert(self.delta, at, -ends.block_bytes[first:last]),
            np.insert(self.device, at, [words.index(d) for d in ends.device[first:last]]),
            words,
        )

    def by_device(self) -> Iterator[tuple[str, slice | Flags]]:
        found = np.unique(self.device).tolist()
        for code in found:
            rows: slice | Flags = slice(None) if len(found) == 1 else self.device == code
            yield self.words[code] if code != NONE else "", rows


def _are_first(ids: Int64s) -> Flags:
    """Which of them did not come before."""
    first = np.zeros(len(ids), np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    return first


def _table(devices: dict[str, Bins]) -> pa.Table:
    schema = SCHEMAS["timeline"]
    tables = [schema.empty_table()]
    for device, bins in devices.items():
        for category, (begin, least, most, last) in bins.rows():
            n = len(begin)
            columns: dict[str, Any] = {
                "device": [device] * n,
                "metric": [METRIC] * n,
                "key": [CATEGORIES[category]] * n,
                "bin_start_ns": begin,
                "min_bytes": least,
                "max_bytes": most,
                "last_bytes": last,
            }
            tables.append(pa.table(columns, schema=schema))
    return pa.concat_tables(tables)
