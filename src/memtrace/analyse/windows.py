"""The running totals of devices in any number of stretches of events, found in one pass.

Cuts divide the order of events: cut `c` lies before the event of that `seq`. A window is what lies
between two cuts; it may hold any number of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Int64s, equals, integers, may_hold
from memtrace.trace import Trace

#: A cut behind every event.
END = np.iinfo(np.int64).max

_MEASURES = ("allocated_bytes", "active_bytes", "reserved_bytes")
_NOTHING = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Totals:
    """What a device held after the event of this `seq`: at `time_ns`, None where no event was."""

    seq: int
    time_ns: int | None
    allocated_bytes: int
    active_bytes: int
    reserved_bytes: int


class Windows:
    """One device's totals at the cuts, and their peaks between them."""

    def __init__(self, cuts: Int64s) -> None:
        self._cuts = cuts
        places = len(cuts) + 1
        # Place i: the events between cut i - 1 and cut i. First what stood after the last of them.
        self._last = np.full((3, places), _NOTHING, np.int64)
        # Then the first of those at which most was allocated: its three totals, seq and time.
        self._most = np.full((5, places), _NOTHING, np.int64)

    def add(self, seq: Int64s, time_ns: Int64s, totals: Sequence[Int64s]) -> None:
        """More events of the device, in order: all that belong to one row group."""
        places = np.searchsorted(self._cuts, seq, side="right")
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        ends = np.append(starts[1:], len(seq)) - 1
        runs = places[starts]
        for row, values in zip(self._last, totals, strict=True):
            row[runs] = values[ends]
        most = np.maximum.reduceat(totals[0], starts)
        hits = np.flatnonzero(totals[0] == np.repeat(most, ends - starts + 1))
        _, first = np.unique(places[hits], return_index=True)
        higher = most > self._most[0, runs]  # at the first instant, on ties
        at, chosen = hits[first][higher], runs[higher]
        for row, values in zip(self._most, (*totals, seq, time_ns), strict=True):
            row[chosen] = values[at]

    def close(self) -> None:
        """There are no more events: what stood last stands on where none was."""
        known = np.where(self._last[0] != _NOTHING, np.arange(self._last.shape[1]), -1)
        np.maximum.accumulate(known, out=known)
        self._last = np.where(known >= 0, self._last[:, known], 0)

    def before(self, cut: int) -> Totals:
        """What the device held at a cut."""
        allocated, active, reserved = map(int, self._last[:, self._place(cut)])
        return Totals(cut - 1, None, allocated, active, reserved)

    def peak(self, start: int, end: int) -> Totals:
        """The first instant in a window at which most was allocated; what it begins with counts."""
        begin = self.before(start)
        first, last = self._place(start) + 1, self._place(end) + 1
        most = self._most[:, first:last]
        if not most.shape[1] or most[0].max() <= begin.allocated_bytes:
            return begin
        allocated, active, reserved, seq, time_ns = map(int, most[:, most[0].argmax()])
        return Totals(seq, time_ns, allocated, active, reserved)

    def peaks(self, starts: Int64s, ends: Int64s) -> Int64s:
        """The peak of allocated in each of many windows, in bytes."""
        if not len(starts):
            return np.zeros(0, np.int64)
        first, last = self._places(starts), self._places(ends)
        # reduceat takes what is between each index and the next: every second one is a window.
        pairs = np.stack([first + 1, np.maximum(last + 1, first + 2)], axis=1).ravel()
        padded = np.append(self._most[0], [_NOTHING, _NOTHING])
        inside = np.maximum.reduceat(padded, pairs)[::2]
        inside[last <= first] = _NOTHING
        peaks: Int64s = np.maximum(inside, self._last[0, first])
        return peaks

    def _place(self, cut: int) -> int:
        return int(self._places(np.array([cut], np.int64))[0])

    def _places(self, cuts: Int64s) -> Int64s:
        # Of the events that end at the cut.
        places: Int64s = np.searchsorted(self._cuts, cuts, side="left").astype(np.int64)
        return places


def read_windows(
    trace: Trace, process: str, devices: Sequence[str], cuts: Iterable[int]
) -> dict[str, Windows]:
    """Reads the totals of all events of a process once.

    Args:
        cuts: all that will be asked for, in any order, repeated or not; END is one of them.
    """
    ordered = np.unique(np.fromiter(cuts, np.int64))
    windows = {device: Windows(np.union1d(ordered, [END])) for device in devices}
    for group in trace.datasets["events"].row_groups(process):
        held = [device for device in devices if may_hold(group, "device", device)]
        if not held:
            continue
        table = group.read(["seq", "time_ns", "device", *_MEASURES])
        seq, time_ns = integers(table, "seq"), integers(table, "time_ns")
        totals = [integers(table, name) for name in _MEASURES]
        for device in held:
            chosen = equals(table, "device", device)
            if chosen.any():
                windows[device].add(
                    seq[chosen], time_ns[chosen], [values[chosen] for values in totals]
                )
    for found in windows.values():
        found.close()
    return windows
