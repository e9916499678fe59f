"""What a device held at one instant, and for whom."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from memtrace.analyse.breakdown import GROUP, Breakdown, break_down, columns_for, not_recorded
from memtrace.analyse.counters import (
    Moment,
    equals,
    integers,
    last_moment,
    moment_before_first,
    next_allocation,
)
from memtrace.analyse.live_set import BYTES, live_allocations
from memtrace.analyse.owners import stacks_of_groups
from memtrace.analyse.stack import Frame
from memtrace.analyse.step_names import StepNames
from memtrace.analyse.target import Target, choose_target, find_process
from memtrace.errors import MemtraceError
from memtrace.shown import Shown
from memtrace.trace import Process, Trace

if TYPE_CHECKING:
    from memtrace.report.page import Block

#: Columns of every live set, whatever it is grouped by.
LIVE_COLUMNS = (
    "allocation_id", "alloc_seq", "size_bytes", "block_bytes", "operator", "module", "source",
    "stack_id", "category", "label", "memory",
)  # fmt: skip


@dataclass(frozen=True)
class External:
    """Memory of tensors that torch was handed: what it is, and how much of it is in RAM.

    Attributes:
        resident_bytes: of those whose residency is known; `unknown_bytes` lie in the others.
        memory: "mapped", "shared", "host" (another allocator's: numpy's), those that there are.
    """

    total_bytes: int = 0
    resident_bytes: int = 0
    unknown_bytes: int = 0
    memory: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot(Shown):
    """A device's memory at an instant.

    Attributes:
        of: the measure that the bytes are of.
        pinned_bytes: how much of the total is pinned host memory.
        external: memory beside the allocator's (mapped, shared, numpy's), in no total.
        others: the other processes that used the device (of a snapshot by `at`).
        categories: the same bytes by category.
        stacks: frames of the stacks that the breakdown's rows are named by, by key.
        live: the rows of `allocations` behind the breakdown, with `bytes`.
    """

    process: Process
    device: str
    of: str
    moment: Moment
    breakdown: Breakdown
    categories: Breakdown
    pinned_bytes: int
    external: External
    stacks: dict[str, tuple[Frame, ...]]
    live: pa.Table = field(repr=False, compare=False)
    others: tuple[Process, ...] = ()

    def _page(self) -> list[Block]:
        from memtrace.report.snapshot import snapshot_page

        return snapshot_page(self, self.moment.time_ns, top=len(self.breakdown.rows))


def take_snapshot(
    trace: Trace,
    time_ns: int,
    *,
    device: str | None = None,
    of: str = "allocated",
    by: str = "operator",
    top: int | None = None,
    process: str | int | None = None,
) -> Snapshot:
    """What was live after the last event of the device that is not later than `time_ns`.

    Before the device's first event it held nothing.

    Raises:
        MemtraceError: the time is not within the recording, or before the memory was listed that
            the device held when it began.
    """
    if process is not None:
        find_process(trace, process)
    target = choose_target(trace, device=device, process=process, of=of)
    key = target.process.key
    moment = moment_at_time(trace, target, time_ns)
    snapshot = snapshot_at(trace, moment, target.process, of=of, by=by, top=top)
    return replace(snapshot, others=tuple(p for p, _ in target.peaks if p.key != key))


def moment_at_time(trace: Trace, target: Target, time_ns: int) -> Moment:
    """The last event of the device that is not later than a time, in ns since recording began.

    Raises:
        MemtraceError: as take_snapshot.
    """
    key = target.process.key
    last = last_moment(trace, process=key, device=target.device)
    end_ns = max(target.process.row["end_time_ns"] or 0, last.time_ns if last else 0)
    if not 0 <= time_ns <= end_ns:
        raise MemtraceError(
            f"{time_ns / 1e9:.9g} s is not within the recording of {target.process}, "
            f"which lasted {end_ns / 1e9:.9g} s"
        )
    moment = last_moment(trace, process=key, device=target.device, until_ns=time_ns)
    return _beginning(trace, key, target.device) if moment is None else moment


def _beginning(trace: Trace, process: str, device: str) -> Moment:
    moment = moment_before_first(process, device)
    first = next_allocation(trace, moment)
    if first is not None and first.action == "preexisting":
        raise MemtraceError(
            f"{device} held memory from before the recording, "
            f"which is known from {first.time_ns / 1e9:.9g} s on"
        )
    return moment


def snapshot_at(
    trace: Trace, moment: Moment, process: Process, *, of: str, by: str, top: int | None
) -> Snapshot:
    """The snapshot at a known place in the order of events."""
    columns = [*LIVE_COLUMNS, *columns_for(by)]
    live = live_allocations(trace, moment, of=of, columns=columns)
    unused = 0
    if of == "reserved":
        unused = max((moment.reserved_bytes or 0) - (pc.sum(live.column(BYTES)).as_py() or 0), 0)
    breakdown = break_down(
        StepNames(trace, process.key).tell(live, [by]),
        by=by,
        total_bytes=moment.total_bytes(of),
        top=top,
        unused_bytes=unused,
        nameless=not_recorded(by, process.row),
    )
    external = live_allocations(
        trace, moment, of=of, columns=["memory", "resident_bytes"], external=True
    )
    return Snapshot(
        process=process,
        device=moment.device,
        of=of,
        moment=moment,
        breakdown=breakdown,
        categories=break_down(live, by="category"),
        pinned_bytes=int(integers(live, BYTES)[equals(live, "memory", "pinned")].sum()),
        external=external_of(external),
        stacks=stacks_of_groups(
            trace, process.key, by, [row.key for row in breakdown.rows if row.kind == GROUP]
        ),
        live=live,
    )


def external_of(live: pa.Table) -> External:
    """Of the rows of live_allocations(external=True), with `memory` and `resident_bytes`."""
    resident = live.column("resident_bytes")
    unknown = live.filter(resident.is_null())
    return External(
        total_bytes=pc.sum(live.column(BYTES)).as_py() or 0,
        resident_bytes=pc.sum(resident).as_py() or 0,
        unknown_bytes=pc.sum(unknown.column(BYTES)).as_py() or 0,
        memory=tuple(sorted({str(word) for word in live.column("memory").unique().to_pylist()})),
    )
