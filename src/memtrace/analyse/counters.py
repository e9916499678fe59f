"""The running totals in `events`: their exact peak, their value at an instant and at the end.

The footers bound every total by row group, so a peak is found by decoding one or two row groups,
whatever the length of the trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.dataset import RowGroup
from memtrace.errors import MemtraceError
from memtrace.trace import Trace

MEASURES = ("allocated", "active", "reserved", "requested")

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


BEFORE_FIRST = -1


@dataclass(frozen=True)
class Moment:
    """A place in one process's order of events, with the device's totals after the event there.

    A total that the device does not have (the CPU reserves nothing) is None. Before the first event
    of the device, `seq` is BEFORE_FIRST and every total 0.
    """

    process: str
    device: str
    seq: int
    time_ns: int
    action: str
    allocation_id: int | None
    stack_id: int | None
    thread_id: int | None
    allocated_bytes: int | None
    active_bytes: int | None
    reserved_bytes: int | None

    def total_bytes(self, of: str) -> int | None:
        """The running total of this measure; `requested` has none in the events."""
        return {
            "allocated": self.allocated_bytes,
            "active": self.active_bytes,
            "reserved": self.reserved_bytes,
        }.get(of)


@dataclass(frozen=True)
class Highest:
    """The largest value of a total and the first event that reached it."""

    process: str
    device: str
    of: str
    seq: int
    total_bytes: int


#: The columns of `events` that a Moment is made of, in the order of its fields.
MOMENT_COLUMNS = (
    "seq", "time_ns", "device", "action", "allocation_id", "stack_id", "thread_id",
    "allocated_bytes", "active_bytes", "reserved_bytes",
)  # fmt: skip


def highest(trace: Trace, *, process: str, device: str, of: str) -> Highest | None:
    """The exact peak, at its first instant; None when the device has no such total."""
    if of not in MEASURES:
        raise MemtraceError(f"no such measure: {of} (there are {', '.join(MEASURES)})")
    if of == "requested":
        return _highest_requested(trace, process, device)
    column = f"{of}_bytes"
    best: Highest | None = None
    for upper, group in _by_upper_bound(trace, process, device, column):
        if best is not None and upper < best.total_bytes:
            break
        if best is not None and upper == best.total_bytes and _all_after(group, best.seq):
            continue
        table = group.read(["seq", "device", column])
        totals = integers(table, column, missing=-1)
        totals[~equals(table, "device", device)] = -1
        place = int(totals.argmax()) if len(totals) else -1
        if place < 0 or totals[place] < 0:
            continue
        seq, total = int(integers(table, "seq")[place]), int(totals[place])
        if best is None or (-total, seq) < (-best.total_bytes, best.seq):
            best = Highest(process, device, of, seq, total)
    return best


def _all_after(group: RowGroup, seq: int) -> bool:
    bounds = group.bounds("seq")
    return bounds is not None and bounds.low is not None and bool(bounds.low > seq)


def _by_upper_bound(
    trace: Trace, process: str, device: str, column: str
) -> list[tuple[int, RowGroup]]:
    """Row groups that may hold the device, the one with the highest bound first."""
    found = []
    for group in trace.datasets["events"].row_groups(process):
        if not may_hold(group, "device", device):
            continue
        bounds = group.bounds(column)
        if bounds is not None and bounds.high is None:
            continue  # all null
        found.append((2**63 if bounds is None else int(bounds.high), group))
    return sorted(found, key=lambda item: (-item[0], item[1].place))


def _highest_requested(trace: Trace, process: str, device: str) -> Highest | None:
    """Requested bytes have no running total in the events: they are summed from lifetimes."""
    if any(found.key == process and found.dropped for found in trace.process_list):
        raise MemtraceError(
            f"{trace.path}: small allocations were left out (run --max-disk): the peak of what was "
            "requested is not known, that of allocated, active and reserved bytes is"
        )
    # As torch counts them: a CUDA block's request lasts until its free is completed.
    end = "free_seq" if device == "cpu" else "release_seq"
    starts, ends, sizes = [], [], []
    for group in trace.datasets["allocations"].row_groups(process):
        if not may_hold(group, "device", device):
            continue
        table = group.read(["device", "alloc_seq", end, "size_bytes", "origin"])
        chosen = equals(table, "device", device) & counted(table)
        starts.append(integers(table, "alloc_seq")[chosen])
        ends.append(integers(table, end, missing=-1)[chosen])
        sizes.append(integers(table, "size_bytes", missing=0)[chosen])
    start, stop, size = (
        np.concatenate(a) if a else np.empty(0, np.int64) for a in (starts, ends, sizes)
    )
    if not len(start):
        return None
    # seq numbers the process's events one by one, so a delta per event is as short as the trace.
    base = int(start.min())
    deltas = np.zeros(int(max(start.max(), stop.max())) - base + 1, np.int64)
    deltas[start - base] = size
    freed = stop >= 0
    # Not `-=`: several blocks may have ended, unseen, where another took their place.
    np.subtract.at(deltas, stop[freed] - base, size[freed])
    np.cumsum(deltas, out=deltas)
    place = int(deltas.argmax())
    return Highest(process, device, "requested", base + place, int(deltas[place]))


def moment_at_seq(trace: Trace, *, process: str, device: str, seq: int) -> Moment:
    """The event at this place in the process's order."""
    for group in trace.datasets["events"].row_groups(process):
        if not may_hold(group, "seq", seq):
            continue
        table = group.read(MOMENT_COLUMNS)
        places = np.flatnonzero((integers(table, "seq") == seq) & equals(table, "device", device))
        if len(places):
            return _moment(table, int(places[0]), process)
    raise MemtraceError(f"events has no row {seq} of {device}: the trace is incomplete")


def next_allocation(trace: Trace, moment: Moment) -> Moment | None:
    """The first allocation on the device at or after a place: what a new segment was for."""
    for group in trace.datasets["events"].row_groups(moment.process):
        bounds = group.bounds("seq")
        if bounds is not None and bounds.high is not None and bounds.high < moment.seq:
            continue
        table = group.read(MOMENT_COLUMNS)
        chosen = (integers(table, "seq") >= moment.seq) & equals(table, "device", moment.device)
        chosen &= equals(table, "action", "alloc") | equals(table, "action", "preexisting")
        places = np.flatnonzero(chosen)
        if len(places):
            return _moment(table, int(places[0]), moment.process)
    return None


def settled(trace: Trace, moment: Moment) -> Moment:
    """Where a segment was asked for: the allocation it was for, if that followed at once.

    Torch reports a new segment before the block that is cut from it. Judged at the segment's own
    event, the block would look like reserved memory that nobody uses.
    """
    if not moment.action.startswith("segment"):
        return moment
    event = next_allocation(trace, moment)
    if event is None or event.reserved_bytes != moment.reserved_bytes:
        return moment
    return event


def last_moment(
    trace: Trace, *, process: str, device: str, until_ns: int | None = None
) -> Moment | None:
    """The device's last event, or its last one not after `until_ns`."""
    for group in reversed(list(trace.datasets["events"].row_groups(process))):
        bounds = group.bounds("time_ns")
        early = until_ns is not None and bounds is not None and bounds.low is not None
        if (early and bounds.low > until_ns) or not may_hold(group, "device", device):  # type: ignore[union-attr]
            continue
        table = group.read(MOMENT_COLUMNS)
        chosen = equals(table, "device", device)
        if until_ns is not None:
            chosen &= integers(table, "time_ns") <= until_ns
        places = np.flatnonzero(chosen)
        if len(places):
            return _moment(table, int(places[-1]), process)
    return None


def any_event(trace: Trace, window_ns: tuple[int, int], device: str | None) -> bool:
    """Whether an event lies in a window, of the device or of any."""
    start, end = window_ns
    for process in trace.process_list:
        for name in trace.devices_by_process[process.key]:
            if device in (None, name):
                last = last_moment(trace, process=process.key, device=name, until_ns=end)
                if last is not None and last.time_ns >= start:
                    return True
    return False


def moment_before_first(process: str, device: str) -> Moment:
    """The beginning of a recording: the device holds nothing."""
    return Moment(process, device, BEFORE_FIRST, 0, "", None, None, None, 0, 0, 0)


def _moment(table: pa.Table, place: int, process: str) -> Moment:
    row = table.slice(place, 1).to_pylist()[0]
    return Moment(process=process, **row)


def may_hold(group: RowGroup, column: str, value: str | int) -> bool:
    """False only when the footer proves that no row of the group has this value."""
    bounds = group.bounds(column)
    if bounds is None:
        return True
    return bounds.low is not None and bool(bounds.low <= value <= bounds.high)


def integers(table: pa.Table, column: str, *, missing: int = 0) -> Int64s:
    """An integer column as a writable array, nulls as `missing`."""
    values = table.column(column)
    if values.null_count:
        values = pc.fill_null(values, pa.scalar(missing, values.type))
    return np.array(values.to_numpy(), dtype=np.int64, copy=True)


def equals(table: pa.Table, column: str, value: str) -> Flags:
    """Which rows of a string column (dictionary or plain) have this value."""
    flags: Any = pc.fill_null(pc.equal(table.column(column), pa.scalar(value)), pa.scalar(False))
    return np.asarray(flags.to_numpy(), dtype=np.bool_)


def counted(table: pa.Table) -> Flags:
    """Rows whose bytes the allocator's totals count: all that did pass through it."""
    return ~equals(table, "origin", "external")
