"""The requests that a program made of one device's allocator: its allocations, with their lives.

A *place* says when: the seq of an event in the order of its process, as a float, so that what a
what-if adds can stand between two events (`before`, `after`). Marks stand half before the event
whose seq they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.analyse.counters import Flags, Int64s, counted, equals, integers, may_hold
from memtrace.analyse.live_set import BYTES
from memtrace.analyse.target import choose_target
from memtrace.errors import MemtraceError
from memtrace.schema import SCHEMAS
from memtrace.trace import Process, Trace
from memtrace.trace_json import parsed_object

Places = npt.NDArray[np.float64]

NEVER = np.inf

#: What is known of each allocation, as in `allocations` (docs/format.md); `step`: a model's call.
ROW_COLUMNS = (
    "allocation_id", "memory", "origin", "address", "block_bytes", "alloc_seq", "thread_id",
    "stream", "pool", "operator", "top_operator", "forward_operator", "operator_call_id",
    "forward_call_id", "module", "module_class", "source", "stack_id", "phase", "stage", "step",
    "category", "category_by", "label",
)  # fmt: skip
_LIFE_COLUMNS = ("device", "size_bytes", "free_seq", "release_seq")


@dataclass(frozen=True)
class Mark:
    """Something between requests that the allocator acted on (FORMAT.md, `marks`)."""

    place: float
    kind: str
    pool: str | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A request that failed, as recorded.

    Attributes:
        asked_bytes: as the allocator rounded it.
        device_free_bytes: what the driver had left; None: not known.
    """

    place: float
    asked_bytes: int
    stream: int
    pool: str
    device_free_bytes: int | None


@dataclass(frozen=True)
class Requests:
    """The requests of one device, as one process made them: one row per allocation.

    What a what-if makes of them is another such value: sizes, lives and rows may be changed, rows
    be left out or added, and nothing else is said about it.

    Attributes:
        rows: ROW_COLUMNS; ascending by `start` unless a what-if has added some at the end.
        size_bytes: what was asked for.
        start: the place of the allocation.
        free: the place at which its free was requested; NEVER.
        release: the place at which the free was completed (later than `free` only where another
            stream had still to use it); NEVER.
        failures: requests that failed, in order.
        marks: in order.
        changed: whether these are other requests than those recorded.
        dimensions: what a what-if has set of every call's inputs: {"batch": 8}.
    """

    trace: Trace
    process: Process
    device: str
    rows: pa.Table
    size_bytes: Int64s
    start: Places
    free: Places
    release: Places
    failures: tuple[Failure, ...] = ()
    marks: tuple[Mark, ...] = ()
    changed: bool = False
    dimensions: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def on_cpu(self) -> bool:
        """The CPU has no caching allocator: what is allocated is what was asked for."""
        return self.device == "cpu"

    def resized(self, size_bytes: Int64s) -> Requests:
        """The same requests with other sizes, in bytes."""
        return replace(self, size_bytes=size_bytes, changed=True)

    def chosen(self, kept: Flags) -> Requests:
        """Only these rows."""
        return replace(
            self,
            rows=self.rows.filter(pa.array(kept)),
            size_bytes=self.size_bytes[kept],
            start=self.start[kept],
            free=self.free[kept],
            release=self.release[kept],
            changed=True,
        )

    def moved(
        self, *, start: Places | None = None, free: Places | None = None,
        release: Places | None = None,
    ) -> Requests:  # fmt: skip
        """The same requests with other lives; where `free` alone is given, releases follow it."""
        if free is not None and release is None:
            release = np.where(free == self.free, self.release, free)
        return replace(
            self,
            start=self.start if start is None else start,
            free=self.free if free is None else free,
            release=self.release if release is None else release,
            changed=True,
        )

    def added(
        self, like: Int64s, *, size_bytes: Int64s, start: Places, free: Places,
        category: str | None = None,
    ) -> Requests:  # fmt: skip
        """With more rows at the end, which are as the rows `like`, but of these sizes and lives.

        Args:
            like: numbers of rows, one per row to add.
            category: of the new rows; by default that of the rows they are like.
        """
        rows = self.rows.take(pa.array(like))
        if category is not None:
            place = rows.schema.get_field_index("category")
            column = pa.array([category] * len(like), pa.string()).dictionary_encode()
            rows = rows.set_column(place, "category", column)
        return replace(
            self,
            rows=pa.concat_tables([self.rows, rows]).unify_dictionaries(),
            size_bytes=np.concatenate([self.size_bytes, size_bytes]),
            start=np.concatenate([self.start, start]),
            free=np.concatenate([self.free, free]),
            release=np.concatenate([self.release, free]),
            changed=True,
        )

    def live_at(self, place: float, *, of: str = "allocated") -> Flags:
        """Which rows count for a measure right after what happened at the place."""
        end = self.free if of == "allocated" else self.release
        return (self.start <= place) & (end > place)

    def held(self, live: Flags, bytes_each: Int64s) -> pa.Table:
        """These rows, with their `bytes`, as `analyse.breakdown` takes them."""
        rows = self.rows.filter(pa.array(live))
        rows = rows.append_column("size_bytes", pa.array(self.size_bytes[live], pa.int64()))
        return rows.append_column(BYTES, pa.array(bytes_each[live], pa.int64()))


def before(place: Places) -> Places:
    """Right before the events at these places, after their marks."""
    return place - 0.25


def after(place: Places) -> Places:
    """Right after the events at these places."""
    return place + 0.25


def read_requests(
    trace: Trace, *, device: str | None = None, process: str | int | None = None
) -> Requests:
    """What was asked of a device; by default of the one that `memtrace peak` tells of.

    Memory that never went through the allocator (mapped weights) is no part of it.

    Raises:
        MemtraceError: there is no such device or process in the trace, or not all of its requests.
    """
    target = choose_target(trace, device=device, process=process, of="allocated")
    found, device = target.process, target.device
    if found.dropped is not None:
        raise MemtraceError(
            f"{trace.path}: {found.dropped.allocations:,} small allocations were left out (run "
            "--max-disk): its requests cannot be replayed; record again without --max-disk"
        )
    names = list(dict.fromkeys([*ROW_COLUMNS, *_LIFE_COLUMNS]))
    empty = pa.schema([SCHEMAS["allocations"].field(name) for name in names]).empty_table()
    tables = [empty]
    for group in trace.datasets["allocations"].row_groups(found.key):
        if not may_hold(group, "device", device):
            continue
        table = group.read(names)
        chosen = equals(table, "device", device) & counted(table)
        tables.append(table.filter(pa.array(chosen)))
    # Strings stay dictionaries: a column is a few codes, whatever its words.
    table = pa.concat_tables([_encoded(table) for table in tables]).unify_dictionaries()
    order = np.argsort(integers(table, "alloc_seq"), kind="stable")
    table = table.take(pa.array(order))
    on_cpu = device == "cpu"
    free = _places(table, "free_seq")
    return Requests(
        trace=trace,
        process=found,
        device=device,
        rows=_in_calls(trace, found.key, table.select(list(ROW_COLUMNS))),
        size_bytes=integers(table, "size_bytes"),
        start=_places(table, "alloc_seq"),
        free=free,
        release=free if on_cpu else _places(table, "release_seq"),
        failures=tuple(_failures(trace, found.key, device)),
        marks=() if on_cpu else tuple(_marks(trace, found.key, device)),
    )


def _in_calls(trace: Trace, key: str, rows: pa.Table) -> pa.Table:
    """Without the numbers of steps that were marked: what happens in them, calls do."""
    steps = trace.datasets["steps"].read(["step", "name"], key=key)
    marked: Any = steps.filter(pa.array(~np.asarray(steps.column("name").is_null())))
    if not marked.num_rows:
        return rows
    column: Any = rows.column("step")
    inside = pc.is_in(column, value_set=marked.column("step").combine_chunks())
    column = pc.if_else(inside, pa.scalar(None, pa.int64()), column)
    return rows.set_column(rows.column_names.index("step"), "step", column)


def _encoded(table: pa.Table) -> pa.Table:
    for place, of in enumerate(table.schema):
        if of.type == pa.string():
            column = table.column(place).dictionary_encode()
            table = table.set_column(place, of.name, column)
    return table


def _places(table: pa.Table, column: str) -> Places:
    found = integers(table, column, missing=-1).astype(np.float64)
    found[found < 0] = NEVER
    return found


def _failures(trace: Trace, key: str, device: str) -> list[Failure]:
    columns = ["seq", "device", "action", "size_bytes", "stream", "pool", "device_free_bytes"]
    found = []
    for group in trace.datasets["events"].row_groups(key):
        if not may_hold(group, "device", device) or not may_hold(group, "action", "oom"):
            continue
        table = group.read(columns)
        chosen = equals(table, "device", device) & equals(table, "action", "oom")
        for row in table.filter(pa.array(chosen)).to_pylist():
            found.append(
                Failure(
                    place=float(row["seq"]),
                    asked_bytes=row["size_bytes"] or 0,
                    stream=row["stream"] or 0,
                    pool=row["pool"] or "default",
                    device_free_bytes=row["device_free_bytes"],
                )
            )
    return found


def _marks(trace: Trace, key: str, device: str) -> list[Mark]:
    found = []
    for group in trace.datasets["marks"].row_groups(key):
        for row in group.read(["seq", "device", "kind", "pool", "text"]).to_pylist():
            if row["device"] in (None, device):
                found.append(
                    Mark(row["seq"] - 0.5, row["kind"], row["pool"], parsed_object(row["text"]))
                )
    return found
