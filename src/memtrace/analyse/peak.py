"""The exact peak of a device: its instant, its owners, and the allocation that reached it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from memtrace.analyse.breakdown import Breakdown
from memtrace.analyse.counters import (
    Highest,
    Moment,
    integers,
    may_hold,
    moment_at_seq,
    settled,
)
from memtrace.analyse.fragmentation import Fragmentation, fragmentation_at
from memtrace.analyse.owners import AskedBy
from memtrace.analyse.snapshot import Snapshot, snapshot_at
from memtrace.analyse.stack import stacks_by_id
from memtrace.analyse.step_names import StepNames
from memtrace.analyse.target import choose_target
from memtrace.shown import Shown
from memtrace.trace import Process, Trace

if TYPE_CHECKING:
    from memtrace.report.page import Block

_REACHED_COLUMNS = (
    "allocation_id", "alloc_seq", "size_bytes", "block_bytes", "operator", "top_operator",
    "forward_operator", "module", "module_class", "source", "category", "label", "phase", "stage",
    "thread_id", "stack_id", "origin", "step",
)  # fmt: skip


@dataclass(frozen=True)
class Reached(AskedBy):
    """The allocation that took a device to its peak; `step`: what its outermost step is called.

    For reserved bytes, it is the one for which the allocator had to ask the device for more.
    """

    allocation_id: int | None
    size_bytes: int
    block_bytes: int | None
    category: str | None
    label: str | None
    phase: str | None
    stage: str | None
    origin: str | None
    thread_id: int | None
    step: str | None


@dataclass(frozen=True)
class Peak(Shown):
    """The first instant at which a device held most of a measure.

    Attributes:
        moment: the event that reached the peak.
        snapshot: who held it; for reserved bytes, just after the allocation that the new segment
            was for, where it is known how much of it is used.
        peaks: every process that used the device, with its own peak, largest first.
        fragmentation: of reserved bytes: what of them was not used, and who pinned it.
    """

    total_bytes: int
    moment: Moment
    snapshot: Snapshot
    reached: Reached | None
    peaks: tuple[tuple[Process, Highest], ...]
    fragmentation: Fragmentation | None = field(default=None, repr=False)

    @property
    def device(self) -> str:
        return self.snapshot.device

    @property
    def of(self) -> str:
        return self.snapshot.of

    @property
    def process(self) -> Process:
        return self.snapshot.process

    @property
    def time_ns(self) -> int:
        return self.moment.time_ns

    @property
    def breakdown(self) -> Breakdown:
        return self.snapshot.breakdown

    @property
    def live(self) -> pa.Table:
        """Every allocation that was live at the peak, with its `bytes`."""
        return self.snapshot.live

    def _page(self) -> list[Block]:
        from memtrace.report.snapshot import peak_page

        return peak_page(self, top=len(self.breakdown.rows))


def find_peak(
    trace: Trace,
    *,
    device: str | None = None,
    of: str = "allocated",
    by: str = "operator",
    top: int | None = None,
    process: str | int | None = None,
) -> Peak:
    """The exact peak of a device, as the process that used most of it (or the one given) saw it."""
    target = choose_target(trace, device=device, process=process, of=of)
    moment = moment_at_seq(
        trace, process=target.process.key, device=target.device, seq=target.highest.seq
    )
    after = settled(trace, moment)
    return Peak(
        total_bytes=target.highest.total_bytes,
        moment=moment,
        snapshot=snapshot_at(trace, after, target.process, of=of, by=by, top=top),
        reached=reached_by(trace, after),
        peaks=target.peaks,
        fragmentation=fragmentation_at(trace, after, target.process, why="peak", by="source")
        if of == "reserved" and target.device != "cpu"
        else None,
    )


def reached_by(trace: Trace, event: Moment) -> Reached | None:
    """The allocation that this event is; None where it is none."""
    for group in trace.datasets["allocations"].row_groups(event.process):
        if not may_hold(group, "alloc_seq", event.seq):
            continue
        starts = integers(group.read(["alloc_seq"]), "alloc_seq", missing=-1)
        places = np.flatnonzero(starts == event.seq)
        if len(places):
            row = group.read(_REACHED_COLUMNS).slice(int(places[0]), 1).to_pylist()[0]
            stack_id = row.pop("stack_id")
            del row["alloc_seq"]
            (row["step"],) = StepNames(trace, event.process).of([row["step"]])
            frames = stacks_by_id(trace, event.process, () if stack_id is None else (stack_id,))
            return Reached(**row, stack=frames.get(stack_id, ()))
    return None
