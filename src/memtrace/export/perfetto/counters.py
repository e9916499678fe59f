"""Counters: what each device has allocated, active and reserved, and what was sampled.

While a device's totals go by, its peaks and failed allocations are noted: they are instants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import BEFORE_FIRST, equals, integers, may_hold
from memtrace.dataset import RowGroup
from memtrace.export.perfetto import fields as f
from memtrace.export.perfetto.packets import (
    PacketFile,
    Recorded,
    Sequence,
    groups_inside,
    slices_of_rows,
)
from memtrace.export.perfetto.survey import Survey
from memtrace.export.wire import (
    Int64s,
    constant_column,
    integer,
    integer_column,
    message,
    text,
)
from memtrace.trace import Trace

MEASURES = ("allocated", "active", "reserved")
#: Sources of `samples` that count whole memory.
_SOURCES = ("rss", "pss", "uss", "cgroup", "nvml", "mem_get_info")
_NAMES = {"rss": "host resident (RSS)", "pss": "host proportional (PSS)", "uss": "host own (USS)"}


class Counter:
    """One counter of a process; its track is written with its first value."""

    def __init__(
        self, file: PacketFile, recorded: Recorded, name: str, *, axis: str = "", parent: int = 0
    ) -> None:
        self._file = file
        self._recorded = recorded
        self._name = name
        self._axis = axis
        self._parent = parent
        self._sequence: Sequence | None = None
        #: What it has stood at since before the window.
        self._standing: int | None = None
        self._last_value = -1
        self._last_ns = 0

    def add(self, times_ns: Int64s, values: Int64s) -> None:
        """Values in order; one is written where it changes, at a time that never goes back."""
        start, end = self._file.window_ns
        first, last = 0, len(times_ns)
        if self._file.starts_late:
            # Order is the device's own; clocks of two threads may disagree with it by some ns.
            times_ns = np.maximum.accumulate(times_ns)
            first, last = np.searchsorted(times_ns, [start, end + 1]).tolist()
            if first:
                self.stands_at(int(values[first - 1]))
        if last > first:
            self._write_standing()
        times_ns, values = times_ns[first:last], values[first:last]
        changed = np.diff(values, prepend=self._last_value) != 0
        self._write(times_ns[changed], values[changed])

    def stands_at(self, value: int) -> None:
        """What it is before the values that follow; written when the window begins."""
        self._standing = value

    def close(self) -> None:
        """There are no more values: it stands at what it stood at all through the window."""
        self._write_standing()

    def _write_standing(self) -> None:
        if self._standing is not None and self._sequence is None:
            start = np.array([self._file.window_ns[0]], np.int64)
            self._write(start, np.array([self._standing], np.int64))

    def _write(self, times_ns: Int64s, values: Int64s) -> None:
        if not len(times_ns):
            return
        if self._sequence is None:
            shared = text(f.COUNTER_SHARED_AXIS, self._axis) if self._axis else b""
            unit = integer(f.COUNTER_UNIT, f.UNIT_SIZE_BYTES)
            counter = message(f.TRACK_COUNTER, unit, shared)
            track = self._file.track(self._recorded, self._name, counter, parent=self._parent)
            self._sequence = self._file.sequence(self._recorded, track)
        times_ns = np.maximum.accumulate(np.maximum(times_ns, self._last_ns))
        self._last_ns, self._last_value = int(times_ns[-1]), int(values[-1])
        kind = integer(f.EVENT_TYPE, f.TYPE_COUNTER)
        for rows in slices_of_rows(len(times_ns)):
            part = values[rows]
            self._sequence.events(
                times_ns[rows],
                constant_column(len(part), kind),
                integer_column(f.EVENT_COUNTER_VALUE, part),
            )


@dataclass(frozen=True)
class Reached:
    """The first instant in the window at which a total of a device was highest."""

    total_bytes: int
    seq: int
    time_ns: int


@dataclass(frozen=True)
class Failure:
    """An allocation that failed; `free_bytes` is what the device had."""

    time_ns: int
    size_bytes: int
    free_bytes: int | None


class DeviceCounters:
    """The running totals of one device of a process, and its categories' shares of *allocated*."""

    def __init__(self, file: PacketFile, recorded: Recorded, device: str, survey: Survey) -> None:
        self.device = device
        self.failures: list[Failure] = []
        #: By measure.
        self.peaks: dict[str, Reached] = {}
        measures = MEASURES if device != "cpu" else MEASURES[:1]
        self._counters = {
            of: Counter(file, recorded, f"{device} {of}", axis=device) for of in measures
        }
        self._survey = survey
        self._categories = _Categories(file, recorded, device, survey)
        before = survey.devices[device].before
        for of, counter in self._counters.items():
            value = None if before is None else before.total_bytes(of)
            if before is not None and value is not None:
                counter.stands_at(value)
                self.peaks[of] = Reached(value, before.seq, file.window_ns[0])

    def add(self, group: _Events) -> None:
        """More events of the process."""
        of_device = group.inside & equals(group.table, "device", self.device)
        for of, counter in self._counters.items():
            totals = integers(group.table, f"{of}_bytes", missing=-1)
            rows = np.flatnonzero(of_device & (totals >= 0))
            if not len(rows):
                continue
            times_ns, totals = group.times_ns[rows], totals[rows]
            counter.add(times_ns, totals)
            if of == "allocated":
                self._categories.add(times_ns, totals, group.allocation_ids[rows])
            at = int(totals.argmax())
            if of not in self.peaks or totals[at] > self.peaks[of].total_bytes:
                seq, time_ns = int(group.seqs[rows[at]]), int(times_ns[at])
                self.peaks[of] = Reached(int(totals[at]), seq, time_ns)
        failed = np.flatnonzero(of_device & equals(group.table, "action", "oom"))
        names = ["time_ns", "size_bytes", "device_free_bytes"]
        for row in group.table.select(names).take(failed).to_pylist() if len(failed) else ():
            self.failures.append(Failure(row["time_ns"], row["size_bytes"] or 0, row[names[2]]))

    def close(self) -> None:
        """There are no more events."""
        for counter in self._counters.values():
            counter.close()
        self._categories.close()


class _Categories:
    """What the allocations of each category add to a device's *allocated*: the sum is that total.

    Each change of the total is put down to the allocation that its event is of; where the record of
    a free was lost, that is the allocation at whose event the end of the other one shows.
    """

    def __init__(self, file: PacketFile, recorded: Recorded, device: str, survey: Survey) -> None:
        self._file = file
        self._recorded = recorded
        self._device = device
        self._survey = survey
        self._held = survey.devices[device].standing.copy()
        self._total = int(self._held.sum())
        self._counters: dict[int, Counter] = {}
        self._group = 0

    def add(self, times_ns: Int64s, totals: Int64s, allocation_ids: Int64s) -> None:
        deltas = np.diff(totals, prepend=self._total)
        self._total = int(totals[-1])
        changed = np.flatnonzero(deltas)
        times_ns, deltas = times_ns[changed], deltas[changed]
        category = self._survey.category_of(allocation_ids[changed])
        for number in np.unique(category).tolist():
            rows = category == number
            values = self._held[number] + np.cumsum(deltas[rows])
            self._counter(number).add(times_ns[rows], values)
            self._held[number] = values[-1]

    def close(self) -> None:
        for number in np.flatnonzero(self._held).tolist():
            self._counter(number).close()

    def _counter(self, number: int) -> Counter:
        if number not in self._counters:
            if not self._group:
                self._group = self._file.track(self._recorded, f"{self._device} by category")
            word = self._survey.categories.words[number - 1]
            name = f"{self._device} {word}"
            counter = Counter(
                self._file, self._recorded, name, axis=self._device, parent=self._group
            )
            if self._survey.devices[self._device].before is not None:
                counter.stands_at(int(self._held[number]))
            self._counters[number] = counter
        return self._counters[number]


class _Events:
    """A row group of `events`, with those of its rows that are in the window."""

    def __init__(self, group: RowGroup, file: PacketFile) -> None:
        sums = [f"{of}_bytes" for of in MEASURES]
        names = ["seq", "time_ns", "device", "action", "allocation_id", "size_bytes"]
        self.table = group.read([*names, "device_free_bytes", *sums])
        self.allocation_ids = integers(self.table, "allocation_id", missing=-1)
        self.seqs = integers(self.table, "seq", missing=BEFORE_FIRST)
        self.times_ns = integers(self.table, "time_ns")
        self.inside = file.inside(self.times_ns)


def write_device_counters(
    trace: Trace, file: PacketFile, recorded: Recorded, survey: Survey
) -> list[DeviceCounters]:
    """The totals of these devices, in one pass over the events."""
    found = [DeviceCounters(file, recorded, device, survey) for device in survey.devices]
    for group in groups_inside(trace, file, recorded, "events", "time_ns"):
        held = [item for item in found if may_hold(group, "device", item.device)]
        if held:
            events = _Events(group, file)
            for item in held:
                item.add(events)
    for item in found:
        item.close()
    return found


def write_samples(trace: Trace, file: PacketFile, recorded: Recorded) -> None:
    """What was counted from outside: of the process, of its container, of the GPUs."""
    columns = ["time_ns", "target", "source", "metric", "value_bytes"]
    series: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for group in trace.datasets["samples"].row_groups(recorded.key):
        for time_ns, target, source, metric, value in zip(
            *(column.to_pylist() for column in group.read(columns).columns), strict=True
        ):
            chosen = file.device in (None, target if ":" in (target or "") else "cpu")
            if source in _SOURCES and value is not None and chosen:
                key = (target or "", source, metric or "")
                series.setdefault(key, []).append((time_ns or 0, value))
    for (target, source, metric), readings in series.items():
        name = f"{target} {metric} ({source})"
        if target == "host":
            name = _NAMES.get(source, name)
        counter = Counter(file, recorded, name)
        times_ns, values = np.array(sorted(readings), np.int64).T
        counter.add(times_ns, values)
        counter.close()
