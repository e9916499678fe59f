"""What has to be known of all allocations before events are written: one pass over them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Moment, counted, equals, integers, may_hold
from memtrace.export.perfetto import fields as f
from memtrace.export.perfetto.packets import PacketFile, Recorded, Words, groups_inside
from memtrace.export.wire import Flags, Int64s
from memtrace.trace import Trace

_NEVER = 2**63 - 1
_COLUMNS = (
    "device", "origin", "size_bytes", "block_bytes", "allocation_id", "alloc_seq", "free_seq",
    "alloc_time_ns", "free_time_ns", "category", "stack_id",
)  # fmt: skip
_NO_CATEGORY = "other"
_MOST_CATEGORIES = 255


class Allocations:
    """Rows of `allocations` of one device.

    Attributes:
        begins, ends: whether they are allocated, freed in the window.
        counted: whether the allocator's totals count them.
        held_bytes: what each one adds to those; as much as was asked for where that is not known.
    """

    def __init__(self, table: pa.Table, file: PacketFile) -> None:
        self.table = table
        self.alloc_ns = integers(table, "alloc_time_ns", missing=_NEVER)
        self.free_ns = integers(table, "free_time_ns", missing=_NEVER)
        self.begins = file.inside(self.alloc_ns) & (self.alloc_ns != _NEVER)
        self.ends = file.inside(self.free_ns) & (self.free_ns != _NEVER)
        self.counted: Flags = counted(table)
        blocks = integers(table, "block_bytes", missing=-1)
        unknown = (blocks < 0) | ~self.counted
        self.held_bytes: Int64s = np.where(unknown, integers(table, "size_bytes"), blocks)


def of_device(table: pa.Table, device: str) -> pa.Table:
    """The rows of one device."""
    flags = equals(table, "device", device)
    return table if flags.all() else table.filter(pa.array(flags))


class DeviceSurvey:
    """What is to be written of one device.

    Attributes:
        before: the device's last event before the window; None when there is none, or no window.
        written: allocations that are allocated or freed in the window.
        pairs: those that are both.
        stacks_used: bool[stack_id], which stacks they have.
        standing: bytes by number of category when the window begins.
    """

    def __init__(self, before: Moment | None, most_flows: int) -> None:
        self.before = before
        self.written = 0
        self.pairs = 0
        self.stacks_used = np.zeros(0, np.bool_)
        self.standing = np.zeros(_MOST_CATEGORIES + 1, np.int64)
        self._most_flows = most_flows
        self._largest = np.empty(0, np.int64)

    def add(self, rows: Allocations, category: Int64s) -> None:
        """More allocations of the device."""
        seen, both = rows.begins | rows.ends, rows.begins & rows.ends
        self.written += int(seen.sum())
        self.pairs += int(both.sum())
        self._largest = np.concatenate([self._largest, rows.held_bytes[both]])
        if len(self._largest) > self._most_flows:
            self._largest = np.partition(self._largest, -self._most_flows)[-self._most_flows :]
        ids = integers(rows.table, "stack_id", missing=-1)[seen]
        more = int(ids.max(initial=-1)) + 1 - len(self.stacks_used)
        self.stacks_used = np.pad(self.stacks_used, (0, max(0, more)))
        self.stacks_used[ids[ids >= 0]] = True
        if self.before is not None:
            begun = integers(rows.table, "alloc_seq", missing=_NEVER) <= self.before.seq
            ended = integers(rows.table, "free_seq", missing=_NEVER) <= self.before.seq
            live = begun & ~ended & rows.counted
            np.add.at(self.standing, category[live], rows.held_bytes[live])

    @property
    def flows(self) -> int:
        """How many allocations have a flow: the largest."""
        return len(self._largest)

    @property
    def smallest_bytes(self) -> int:
        """The size of the smallest of them."""
        return int(self._largest.min(initial=_NEVER)) if self.flows else 0

    @property
    def flows_of_smallest(self) -> int:
        """How many of that size there are among them: the first ones of their size."""
        return int((self._largest == self.smallest_bytes).sum())


class Survey:
    """The devices of a process, and the category of each of its allocations: a byte each."""

    def __init__(
        self,
        trace: Trace,
        file: PacketFile,
        recorded: Recorded,
        before: Mapping[str, Moment | None],
        most_flows: int,
    ) -> None:
        self.categories = Words(f.INTERNED_CATEGORIES)
        self.categories.id_of(_NO_CATEGORY)
        self.devices = {of: DeviceSurvey(moment, most_flows) for of, moment in before.items()}
        self._category_of = np.ones(1, np.uint8)
        for group in groups_inside(
            trace, file, recorded, "allocations", "alloc_time_ns", "free_time_ns"
        ):
            held = [device for device in before if may_hold(group, "device", device)]
            table = group.read(_COLUMNS) if held else None
            for device in held:
                rows = Allocations(of_device(table, device), file)
                self.devices[device].add(rows, self._note(rows.table))

    def _note(self, table: pa.Table) -> Int64s:
        category = self.categories.ids(table.column("category"), missing=_NO_CATEGORY)
        category = np.minimum(category, _MOST_CATEGORIES)
        ids = integers(table, "allocation_id")
        more = max(0, int(ids.max(initial=0)) + 1 - len(self._category_of))
        grown = max(more, len(self._category_of) // 2) if more else 0
        self._category_of = np.pad(self._category_of, (0, grown), constant_values=1)
        self._category_of[ids] = category
        return category

    def category_of(self, allocation_ids: Int64s) -> Int64s:
        """Numbers of categories; `other` for what is not in `allocations`."""
        known = (allocation_ids >= 0) & (allocation_ids < len(self._category_of))
        codes: Int64s = self._category_of[np.where(known, allocation_ids, 0)].astype(np.int64)
        return codes
