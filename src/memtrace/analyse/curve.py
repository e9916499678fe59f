"""A device's totals over time, in a bounded number of bins that lose no extreme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Int64s, equals, integers, last_moment, may_hold
from memtrace.trace import Trace

EVERYTHING = (0, 2**63 - 1)

# The rows of a matrix of bins: what is least, most and last of a total in each.
_BEGIN, _LEAST, _MOST, _MOST_SEQ, _MOST_NS, _LAST, _LAST_SEQ, _LAST_NS = range(8)
_RESERVED_LEAST, _RESERVED_MOST, _RESERVED_LAST, _PLACE = range(8, 12)
_ROWS = 12


@dataclass(frozen=True)
class Curve:
    """One value a bin, int64. A bin is a run of `events_per_bin` events, or fewer.

    No long silence lies within a bin. It begins at the time of its first event and lasts to the
    next bin: the totals took no other value meanwhile than those after its events.

    Attributes:
        first_seq: the first event of all.
        most_seq, most_ns: the first event in the bin after which `most_bytes` were allocated.
        last_seq, last_ns: the last event in it.
    """

    events_per_bin: int
    first_seq: int
    begin_ns: Int64s
    least_bytes: Int64s
    most_bytes: Int64s
    most_seq: Int64s
    most_ns: Int64s
    last_bytes: Int64s
    last_seq: Int64s
    last_ns: Int64s
    reserved_least_bytes: Int64s
    reserved_most_bytes: Int64s
    reserved_last_bytes: Int64s

    def __len__(self) -> int:
        return len(self.begin_ns)

    @property
    def peak(self) -> int:
        """The place of the bin that first reached the most that was allocated."""
        return int(self.most_bytes.argmax())


def read_curves(
    trace: Trace,
    process: str,
    devices: Sequence[str],
    *,
    most_bins: int,
    window_ns: tuple[int, int] | None = None,
) -> dict[str, Curve]:
    """The curves of a process's devices, read once; a device without events has none.

    Args:
        window_ns: only the events from and to these times, and before them the last one before,
            as if it were at the beginning of the window: what stood then counts.
    """
    start_ns, end_ns = window_ns or EVERYTHING
    bins = {device: _Bins(most_bins) for device in devices}
    if start_ns > 0:
        for device in devices:
            before = last_moment(trace, process=process, device=device, until_ns=start_ns - 1)
            if before is not None:
                bins[device].stand(
                    before.seq, start_ns, before.allocated_bytes or 0, before.reserved_bytes or 0
                )
    for group in trace.datasets["events"].row_groups(process):
        held = [device for device in devices if may_hold(group, "device", device)]
        times = group.bounds("time_ns")
        known = times is not None and times.low is not None
        if not held or (known and (times.low > end_ns or times.high < start_ns)):  # type: ignore[union-attr]
            continue
        table = group.read(["seq", "time_ns", "device", "allocated_bytes", "reserved_bytes"])
        names = ("seq", "time_ns", "allocated_bytes", "reserved_bytes")
        columns = [integers(table, name) for name in names]
        inside = (columns[1] >= start_ns) & (columns[1] <= end_ns)
        for device in held:
            chosen = equals(table, "device", device) & inside
            if chosen.any():
                bins[device].add(*(column[chosen] for column in columns))
    return {device: found.curve() for device, found in bins.items() if found.has_events}


class _Bins:
    """Bins of one device; when there are too many, every two become one."""

    def __init__(self, most_bins: int) -> None:
        self._most_bins = most_bins
        self._shift = 0
        self._first_seq = self._first_ns = self._last_ns = 0
        self.events = 0
        self.has_events = False
        self._rows = np.empty((_ROWS, 0), np.int64)

    def stand(self, seq: int, time_ns: int, allocated: int, reserved: int) -> None:
        """What stood as the window began."""
        numbers = (np.array([value], np.int64) for value in (seq, time_ns, allocated, reserved))
        self.add(*numbers)
        self.has_events = False

    def add(self, seq: Int64s, time_ns: Int64s, allocated: Int64s, reserved: Int64s) -> None:
        """More events, in order."""
        place = (self.events + np.arange(len(seq), dtype=np.int64)) >> self._shift
        if not self.events:
            self._first_seq, self._first_ns = int(seq[0]), int(time_ns[0])
        self.events += len(seq)
        self.has_events = True
        rows = np.stack(
            [
                time_ns, allocated, allocated, seq, time_ns, allocated, seq, time_ns,
                reserved, reserved, reserved, place,
            ]
        )  # fmt: skip
        self._last_ns = max(self._last_ns, int(time_ns.max()))
        self._rows = np.concatenate([self._rows, self._joined(rows)], axis=1)
        if self._rows.shape[1] > 4 * self._most_bins:
            self._shrink()

    def _joined(self, rows: Int64s) -> Int64s:
        # Longer silences than this part of all the time are fewer than a quarter of the bins.
        silence_ns = (self._last_ns - self._first_ns) // max(self._most_bins // 4, 1)
        return _joined(rows, silence_ns)

    def _shrink(self) -> None:
        rows = self._joined(self._rows)
        while rows.shape[1] > self._most_bins:
            self._shift += 1
            rows[_PLACE] >>= 1
            rows = self._joined(rows)
        self._rows = rows

    def curve(self) -> Curve:
        self._shrink()
        return Curve(1 << self._shift, self._first_seq, *self._rows[:_PLACE])


def _joined(rows: Int64s, silence_ns: int) -> Int64s:
    """Neighbours at the same place as one, but for those with a longer silence between them."""
    new = np.diff(rows[_PLACE], prepend=-1) != 0
    new[1:] |= rows[_BEGIN, 1:] - rows[_LAST_NS, :-1] > silence_ns
    first = np.flatnonzero(new)
    which = np.cumsum(new) - 1
    last = np.append(first[1:], rows.shape[1]) - 1
    joined = rows[:, first]
    for row in (_LEAST, _RESERVED_LEAST):
        joined[row] = np.minimum.reduceat(rows[row], first)
    for row in (_MOST, _RESERVED_MOST):
        joined[row] = np.maximum.reduceat(rows[row], first)
    for row in (_LAST, _LAST_SEQ, _LAST_NS, _RESERVED_LAST):
        joined[row] = rows[row, last]
    # Of those as high as the highest, the first.
    hits = np.flatnonzero(rows[_MOST] == np.repeat(joined[_MOST], last - first + 1))
    _, earliest = np.unique(which[hits], return_index=True)
    for row in (_MOST_SEQ, _MOST_NS):
        joined[row] = rows[row, hits[earliest]]
    return joined
