"""Allocations and frees as instants that carry their callstack, weighted by their bytes.

An area selected on a track of allocations gives the flame graph of what was allocated in it, one on
a track of frees of what was freed. The largest allocations lead to their frees by a flow.
"""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import integers, may_hold
from memtrace.export.perfetto import fields as f
from memtrace.export.perfetto import stacks
from memtrace.export.perfetto.packets import (
    PacketFile,
    Recorded,
    Sequence,
    Words,
    groups_inside,
    slices_of_rows,
)
from memtrace.export.perfetto.stacks import Callstacks
from memtrace.export.perfetto.survey import Allocations, Survey, of_device
from memtrace.export.wire import (
    Column,
    Flags,
    Int64s,
    constant_column,
    double_column,
    fixed64_column,
    integer,
    integer_column,
    message,
    message_column,
    text,
)
from memtrace.trace import Trace

_COLUMNS = (
    "device", "origin", "size_bytes", "block_bytes", "alloc_time_ns", "free_time_ns",
    "allocation_id", "category", "label", *stacks.COLUMNS,
)  # fmt: skip
_INSTANT = integer(f.EVENT_TYPE, f.TYPE_INSTANT)
_ALLOCATED = "Select an area to see the flame graph of what was allocated in it, by bytes (weight)."
_FREED = "Select an area to see the flame graph of what was freed in it: where it was allocated."
_BYTES, _MODULE, _LABEL = 1, 2, 3
_ANNOTATIONS = {_BYTES: "bytes", _MODULE: "module", _LABEL: "label"}


class DeviceEvents:
    """The allocations and frees of one device: one sequence, which knows their callstacks.

    Attributes:
        sequence, callstacks: for what else is said of these stacks.
    """

    def __init__(
        self, trace: Trace, file: PacketFile, recorded: Recorded, device: str, survey: Survey
    ) -> None:
        self._file = file
        self._recorded = recorded
        self._device = device
        self._categories = survey.categories
        self._survey = survey.devices[device]
        self._flows_left = self._survey.flows_of_smallest
        # Ids of flows are of the whole file.
        self._flow_base = zlib.crc32(recorded.key.encode("utf-8", "replace")) << 31
        self._tracks: dict[str, int] = {}
        track = self._track(f"{device} allocations", _ALLOCATED)
        self.sequence: Sequence = file.sequence(recorded, track)
        self.callstacks = Callstacks(trace, recorded.key, self.sequence)
        self.callstacks.teach(self._survey.stacks_used)
        self.sequence.intern(
            message(f.INTERNED_ANNOTATION_NAMES, integer(1, number), text(2, name))
            for number, name in _ANNOTATIONS.items()
        )

    def _track(self, name: str, description: str) -> int:
        if name not in self._tracks:
            described = text(f.TRACK_DESCRIPTION, description)
            self._tracks[name] = self._file.track(self._recorded, name, described)
        return self._tracks[name]

    def add(self, table: pa.Table, names: Words, texts: Words) -> None:
        """Rows of `allocations` of this device; these words are the process's."""
        rows = Allocations(table, self._file)
        seen = np.flatnonzero(rows.begins | rows.ends)
        if len(seen) < len(table):
            rows = Allocations(table.take(seen), self._file)
        table = rows.table
        operator = names.ids(table.column("operator"), missing="(no operator)")
        category = self._categories.ids(table.column("category"), missing="other")
        label, module = (texts.ids(table.column(name)) for name in ("label", "module"))
        for words, ids in (
            (names, operator), (self._categories, category), (texts, label), (texts, module),
        ):  # fmt: skip
            self.sequence.teach(words, ids)
        common = (
            integer_column(f.EVENT_NAME_IID, operator),
            integer_column(f.EVENT_CATEGORY_IIDS, category),
            integer_column(f.EVENT_CALLSTACK_IID, self.callstacks.numbers(table)),
            double_column(f.EVENT_CALLSTACK_WEIGHT, rows.held_bytes),
            _annotation(_BYTES, f.ANNOTATION_UINT, rows.held_bytes),
        )
        told = (
            _annotation(_MODULE, f.ANNOTATION_TEXT_IID, module).where(module > 0),
            _annotation(_LABEL, f.ANNOTATION_TEXT_IID, label).where(label > 0),
        )
        flow = self._flow_base + integers(table, "allocation_id")
        has_flow = self._has_flow(rows)
        begins = (*common, *told, fixed64_column(f.EVENT_FLOW_IDS, flow).where(has_flow))
        ends = (*common, fixed64_column(f.EVENT_TERMINATING_FLOW_IDS, flow).where(has_flow))
        beside = "outside the allocator"
        self._write(rows.alloc_ns, begins, rows.begins & rows.counted, 0)
        for chosen, times, columns, name, description in (
            (rows.ends & rows.counted, rows.free_ns, ends, "frees", _FREED),
            (rows.begins & ~rows.counted, rows.alloc_ns, begins, f"{beside}: begins", _ALLOCATED),
            (rows.ends & ~rows.counted, rows.free_ns, ends, f"{beside}: ends", _FREED),
        ):
            if chosen.any():
                track = self._track(f"{self._device} {name}", description)
                self._write(times, columns, chosen, track)

    def _write(
        self, times_ns: Int64s, columns: tuple[Column, ...], chosen: Flags, track: int
    ) -> None:
        where = integer(f.EVENT_TRACK_UUID, track) if track else b""
        self.sequence.events(
            times_ns[chosen],
            constant_column(int(np.count_nonzero(chosen)), _INSTANT + where),
            *(column.take(chosen) for column in columns),
        )

    def _has_flow(self, rows: Allocations) -> Flags:
        both, smallest = rows.begins & rows.ends, self._survey.smallest_bytes
        chosen: Flags = both & (rows.held_bytes > smallest)
        least = np.flatnonzero(both & (rows.held_bytes == smallest))[: self._flows_left]
        self._flows_left -= len(least)
        chosen[least] = True
        return chosen


def _annotation(name: int, field: int, values: Int64s) -> Column:
    named = constant_column(len(values), integer(f.ANNOTATION_NAME_IID, name))
    return message_column(f.EVENT_ANNOTATIONS, named, integer_column(field, values))


def write_allocations(
    trace: Trace, file: PacketFile, recorded: Recorded, survey: Survey
) -> dict[str, DeviceEvents]:
    """The allocations and frees of all devices, in one pass; what each device's sequence knows."""
    names, texts = Words(f.INTERNED_EVENT_NAMES), Words(f.INTERNED_ANNOTATION_TEXTS)
    devices = {
        device: DeviceEvents(trace, file, recorded, device, survey) for device in survey.devices
    }
    for group in groups_inside(
        trace, file, recorded, "allocations", "alloc_time_ns", "free_time_ns"
    ):
        held = {d: events for d, events in devices.items() if may_hold(group, "device", d)}
        table = group.read(_COLUMNS) if held else None
        for device, events in held.items():
            rows = of_device(table, device)
            for part in slices_of_rows(rows.num_rows):
                events.add(rows.slice(part.start, part.stop - part.start), names, texts)
    return devices
