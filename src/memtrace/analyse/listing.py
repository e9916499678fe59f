"""Which allocations are told one by one, where a trace has too many: those that were live at the
instants that matter most, and all that are large."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Flags, Int64s, counted, equals, integers, may_hold
from memtrace.analyse.live_set import weights
from memtrace.trace import Trace

_NEVER = np.iinfo(np.int64).max
_POWERS = 64
#: Columns of `allocations` that say how large, and when it was live.
COLUMNS = (
    "device", "origin", "alloc_seq", "free_seq", "release_seq", "block_bytes", "size_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """A choice of allocations of one device.

    Attributes:
        instants: int64, ascending: places in the order of events, at which every live allocation
            is chosen that is at least `floor_bytes` large (0: every one).
        large_bytes: allocations of so much are chosen, whenever they lived. 0: all allocations.
        between: places in the order of events: what was not live after the first or later, until
            the second, is not chosen.
    """

    instants: Int64s
    floor_bytes: int
    large_bytes: int
    between: tuple[int, int] = (-1, _NEVER)

    def chosen(self, size_bytes: Int64s, alloc_seq: Int64s, free_seq: Int64s) -> Flags:
        """Which rows are chosen. `free_seq`: until when it is live, or waits for a stream."""
        first = np.searchsorted(self.instants, alloc_seq, side="left")
        live = first < np.searchsorted(self.instants, free_seq, side="left")
        chosen: Flags = (live & (size_bytes >= self.floor_bytes)) | (size_bytes >= self.large_bytes)
        return chosen & (alloc_seq <= self.between[1]) & (free_seq > self.between[0])


@dataclass
class _Counts:
    """How many allocations there are by size (a power of two), and by what they are live at."""

    by_size: Int64s
    by_instant: Int64s  # [instants, sizes]: by the most important instant that they are live at


def choose_listings(
    trace: Trace,
    process: str,
    instants: dict[str, Int64s],
    *,
    needed: dict[str, int],
    between: dict[str, tuple[int, int]],
    most_rows: int,
    large_bytes: int | None = None,
) -> dict[str, Listing]:
    """A choice for each device of one process, of about `most_rows` at most. One pass.

    Args:
        instants: of each device, the most important first.
        needed: how many of those are kept in any case; then, if need be, without allocations that
            are smaller than a floor.
        between: of each device, the stretch of events that matters (Listing).
        large_bytes: instead of what `most_rows` leaves room for.
    """
    counters = {device: _Counter(seqs) for device, seqs in instants.items()}
    for group in trace.datasets["allocations"].row_groups(process):
        held = [device for device in instants if may_hold(group, "device", device)]
        if not held:
            continue
        table = group.read(list(COLUMNS))
        ours = counted(table)
        for device in held:
            born, end = integers(table, "alloc_seq", missing=_NEVER), ends(table, device)
            first, last = between[device]
            rows = equals(table, "device", device) & ours & (born <= last) & (end > first)
            counters[device].add(weights(table, of="allocated")[rows], born[rows], end[rows])
    return {
        device: replace(
            _choose(counter, needed[device], most_rows, large_bytes), between=between[device]
        )
        for device, counter in counters.items()
    }


def ends(table: pa.Table, device: str) -> Int64s:
    """Until when each row matters: its free, or, on a GPU, when no stream uses it any more."""
    end = integers(table, "free_seq", missing=_NEVER)
    if device == "cpu":
        return end
    return np.maximum(end, integers(table, "release_seq", missing=-1))


class _Counter:
    def __init__(self, instants: Int64s) -> None:
        self.instants = instants
        self._order = np.argsort(instants, kind="stable")
        self._seq = instants[self._order]
        self._first_of = _least_in_ranges(self._order)
        self.counts = _Counts(
            np.zeros(_POWERS, np.int64), np.zeros((len(instants), _POWERS), np.int64)
        )

    def add(self, size_bytes: Int64s, alloc_seq: Int64s, end_seq: Int64s) -> None:
        power = power_of(size_bytes)
        self.counts.by_size += np.bincount(power, minlength=_POWERS)
        low = np.searchsorted(self._seq, alloc_seq, side="left")
        high = np.searchsorted(self._seq, end_seq, side="left")
        live = np.flatnonzero(low < high)
        level = np.log2(high[live] - low[live]).astype(np.int64)
        first = np.minimum(
            self._first_of[level, low[live]], self._first_of[level, high[live] - (1 << level)]
        )
        np.add.at(self.counts.by_instant, (first, power[live]), 1)


def _least_in_ranges(values: Int64s) -> Int64s:
    """[level, i]: the least of 2^level values from the i-th on."""
    levels = [values]
    while len(values) >= 2 << (len(levels) - 1):
        before, reach = levels[-1], 1 << (len(levels) - 1)
        shifted = np.append(before[reach:], np.full(reach, _NEVER))
        levels.append(np.minimum(before, shifted))
    table: Int64s = np.stack(levels)
    return table


def power_of(size_bytes: Int64s) -> Int64s:
    """The largest power of two that is not above each size, as its exponent; of 0 it is 0."""
    return np.frexp(np.maximum(size_bytes, 1).astype(np.float64))[1].astype(np.int64) - 1


def _choose(counter: _Counter, needed: int, most_rows: int, large_bytes: int | None) -> Listing:
    by_size, by_instant = counter.counts.by_size, counter.counts.by_instant
    if large_bytes is None:
        if by_size.sum() <= most_rows:
            return Listing(np.sort(counter.instants), 0, 0)
        # Half of the room: the largest power of two that many are not below.
        at_least = np.cumsum(by_size[::-1])[::-1]
        power = int(np.flatnonzero(at_least <= most_rows // 2)[0])
        large_bytes = 1 << power
    small = by_instant.copy()
    small[:, int(power_of(np.array([max(large_bytes, 1)]))[0]) :] = 0
    room = most_rows - most_rows // 2
    rows = np.cumsum(small.sum(axis=1))
    number = max(int(np.searchsorted(rows, room, side="right")), min(needed, len(rows)))
    floor = 0
    if number and rows[number - 1] > room:
        at_least = np.cumsum(small[:number].sum(axis=0)[::-1])[::-1]
        floor = 1 << int(np.flatnonzero(at_least <= room)[0])
    return Listing(np.sort(counter.instants[:number]), floor, large_bytes)
