"""Fragmentation: what a CUDA device's allocator holds beyond its blocks, and which blocks pin it.

What a unit (a segment, or a page of an expandable one) has free is pinned by the owners of the
blocks in it: it can go back to the device only when all of them are gone. Each owner is charged
with an equal part of it, so that what owners keep sums to what is pinned; what it would free if it
alone were gone is told beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from memtrace.analyse.counters import (
    BEFORE_FIRST,
    Flags,
    Int64s,
    Moment,
    highest,
    integers,
    moment_at_seq,
    settled,
)
from memtrace.analyse.layout import Kind, Layout, Spans, free_runs, held_in, layout_at
from memtrace.analyse.owners import Owner, group_codes, owner_columns, owners, stacks_of_groups
from memtrace.analyse.snapshot import moment_at_time
from memtrace.analyse.stack import Frame
from memtrace.analyse.step_names import StepNames
from memtrace.analyse.target import choose_target
from memtrace.errors import MemtraceError
from memtrace.trace import Process, Trace


@dataclass(frozen=True)
class Part:
    """The memory of one kind.

    Attributes:
        units: segments, or pages of expandable ones.
        free_bytes: held by no block: `empty_bytes` of it in units without a block, which can go
            back to the device, `pinned_bytes` in the others.
        largest_free_bytes: the largest block that could still be cut from it.
    """

    kind: Kind
    units: int
    reserved_bytes: int
    allocated_bytes: int
    waiting_bytes: int
    free_bytes: int
    empty_bytes: int
    pinned_bytes: int
    largest_free_bytes: int


@dataclass(frozen=True)
class Pin:
    """An owner whose blocks keep memory that nobody uses from going back.

    Attributes:
        blocks, block_bytes: its blocks in units that are not full.
        waiting_bytes: of it freed, but in use by another stream.
        units: in how many they lie; `pinned_bytes`: what those have free altogether.
        keeps_bytes: its part of that: those of all owners sum to the pinned bytes.
        alone_bytes: what would be free to go back if its blocks alone were gone, without their own
            bytes.
        oldest_ns: how long ago the oldest of the blocks was allocated.
    """

    owner: Owner
    blocks: int
    block_bytes: int
    waiting_bytes: int
    units: int
    pinned_bytes: int
    keeps_bytes: int
    alone_bytes: int
    oldest_ns: int


@dataclass(frozen=True)
class Fragmentation:
    """A device's memory at an instant, told by what is not used of it.

    reserved_bytes - allocated_bytes == waiting_bytes + free_bytes, and
    free_bytes == empty_bytes + pinned_bytes == empty_bytes + sum(pin.keeps_bytes).

    Attributes:
        why: what the instant is: "peak", "oom" or "time".
        mismatch_bytes: by how much the trace's blocks and segments differ from the device's totals.
        stacks: frames by the keys of the pins, where grouped by stack.
    """

    process: Process
    device: str
    moment: Moment
    why: str
    by: str
    reserved_bytes: int
    allocated_bytes: int
    waiting_bytes: int
    free_bytes: int
    empty_bytes: int
    pinned_bytes: int
    largest_free_bytes: int
    segments: int
    parts: tuple[Part, ...]
    pins: tuple[Pin, ...]
    mismatch_bytes: int
    layout: Layout = field(repr=False, compare=False)
    stacks: dict[str, tuple[Frame, ...]] = field(default_factory=dict)


def find_fragmentation(
    trace: Trace,
    *,
    device: str | None = None,
    process: str | int | None = None,
    by: str = "source",
    time_ns: int | None = None,
) -> Fragmentation:
    """At the peak of reserved bytes, or at a time.

    Raises:
        MemtraceError: the device has no segments (the CPU), or the time is not in the recording.
    """
    owner_columns(by)
    target = choose_target(trace, device=device, process=process, of="reserved")
    key = target.process.key
    if target.device == "cpu":
        raise MemtraceError(
            "cpu has no segments: torch takes each tensor's memory from the C library"
        )
    if time_ns is None:
        moment = moment_at_seq(trace, process=key, device=target.device, seq=target.highest.seq)
        return fragmentation_at(trace, settled(trace, moment), target.process, why="peak", by=by)
    at = moment_at_time(trace, target, time_ns)
    if at.seq == BEFORE_FIRST:
        raise MemtraceError(
            f"at {time_ns / 1e9:.9g} s {target.process} had nothing recorded of {target.device}"
        )
    return fragmentation_at(trace, at, target.process, why="time", by=by)


def at_peak(trace: Trace, process: Process, device: str) -> Fragmentation | None:
    """At the peak of reserved bytes; None for a device without segments."""
    peak = highest(trace, process=process.key, device=device, of="reserved")
    if device == "cpu" or peak is None:
        return None
    moment = moment_at_seq(trace, process=process.key, device=device, seq=peak.seq)
    return fragmentation_at(trace, settled(trace, moment), process, why="peak", by="source")


def fragmentation_at(
    trace: Trace, moment: Moment, process: Process, *, why: str, by: str
) -> Fragmentation:
    """After an event of a CUDA device."""
    layout = layout_at(trace, moment, process, columns=owner_columns(by))
    layout = replace(layout, rows=StepNames(trace, process.key).tell(layout.rows, [by]))
    found = fragmentation_of(layout, why=why, by=by)
    keys = [pin.owner.key for pin in found.pins]
    return replace(found, stacks=stacks_of_groups(trace, process.key, by, keys))


def fragmentation_of(layout: Layout, *, why: str, by: str) -> Fragmentation:
    """What the layout has free and who pins it."""
    free = layout.units.size - held_in(layout.units, layout.blocks)
    # No longer than its units: a block that is only partly known must not make free memory of less.
    free = np.maximum(free, 0)
    empty = free == layout.units.size
    runs = free_runs(layout.areas, layout.blocks)
    parts = tuple(
        _part(layout, number, kind, free, empty, runs) for number, kind in enumerate(layout.kinds)
    )
    return Fragmentation(
        process=layout.process,
        device=layout.device,
        moment=layout.moment,
        why=why,
        by=by,
        reserved_bytes=layout.reserved_bytes,
        allocated_bytes=layout.allocated_bytes,
        waiting_bytes=layout.waiting_bytes,
        free_bytes=int(free.sum()),
        empty_bytes=int(free[empty].sum()),
        pinned_bytes=int(free[~empty].sum()),
        largest_free_bytes=int(runs.size.max(initial=0)),
        segments=layout.segments,
        parts=parts,
        pins=_pins(layout, np.where(empty, 0, free), by),
        mismatch_bytes=layout.mismatch_bytes,
        layout=layout,
    )


def _part(layout: Layout, number: int, kind: Kind, free: Int64s, empty: Flags, runs: Spans) -> Part:
    units = layout.unit_kind() == number
    placed = layout.blocks.home >= 0
    blocks = np.zeros(len(placed), np.bool_)
    blocks[placed] = layout.area_kind[layout.blocks.home[placed]] == number
    inside = layout.area_kind[runs.home] == number
    size = layout.blocks.size
    return Part(
        kind=kind,
        units=int(units.sum()),
        reserved_bytes=int(layout.units.size[units].sum()),
        allocated_bytes=int(size[blocks & ~layout.waiting].sum()),
        waiting_bytes=int(size[blocks & layout.waiting].sum()),
        free_bytes=int(free[units].sum()),
        empty_bytes=int(free[units & empty].sum()),
        pinned_bytes=int(free[units & ~empty].sum()),
        largest_free_bytes=int(runs.size[inside].max(initial=0)),
    )


def _pins(layout: Layout, pinned: Int64s, by: str) -> tuple[Pin, ...]:
    block, unit = _touched(layout)
    matters = pinned[unit] > 0
    block, unit = block[matters], unit[matters]
    if not len(block):
        return ()
    group_of, keys = group_codes(layout.rows, by)
    # Owners of each unit, each once.
    pairs = np.unique(unit * len(keys) + group_of[block])
    pair_unit, pair_group = pairs // len(keys), pairs % len(keys)
    sharers = np.bincount(pair_unit, minlength=len(pinned))[pair_unit]
    free = pinned[pair_unit]
    # Equal parts to the byte: the first ones take the remainder.
    first = np.flatnonzero(np.r_[True, pair_unit[1:] != pair_unit[:-1]])
    rank = np.arange(len(pairs)) - np.repeat(first, np.diff(np.r_[first, len(pairs)]))
    share = free // sharers + (rank < free % sharers)

    def total(values: Int64s, groups: Int64s = pair_group) -> Int64s:
        sums = np.zeros(len(keys), np.int64)
        np.add.at(sums, groups, values)
        return sums

    chosen = np.unique(block)
    groups, size = group_of[chosen], layout.blocks.size[chosen]
    oldest = np.full(len(keys), np.iinfo(np.int64).max)
    np.minimum.at(oldest, groups, integers(layout.rows, "alloc_time_ns")[chosen])
    blocks, held = total(np.ones_like(size), groups), total(size, groups)
    waiting = total(np.where(layout.waiting[chosen], size, 0), groups)
    units, all_free, keeps = total(np.ones_like(free)), total(free), total(share)
    alone = total(np.where(sharers == 1, free, 0))
    # Named by the blocks that pin, not by others of the owner.
    mask = np.zeros(layout.rows.num_rows, np.int64)
    mask[chosen] = size
    named = owners(layout.rows, by, group_of, keys, mask)
    pins = [
        Pin(
            owner=named[group],
            blocks=int(blocks[group]),
            block_bytes=int(held[group]),
            waiting_bytes=int(waiting[group]),
            units=int(units[group]),
            pinned_bytes=int(all_free[group]),
            keeps_bytes=int(keeps[group]),
            alone_bytes=int(alone[group]),
            oldest_ns=layout.moment.time_ns - int(oldest[group]),
        )
        for group in np.unique(pair_group).tolist()
    ]
    return tuple(sorted(pins, key=lambda pin: (-pin.keeps_bytes, pin.owner.name)))


def _touched(layout: Layout) -> tuple[Int64s, Int64s]:
    """Pairs of a block and a unit that it lies in, also in part."""
    blocks, units = layout.blocks, layout.units
    placed = np.flatnonzero((blocks.home >= 0) & (blocks.size > 0))
    low = np.searchsorted(units.start, blocks.start[placed], side="right") - 1
    high = np.searchsorted(units.start, blocks.end[placed], side="left")
    number = np.maximum(high - low, 0)
    block = np.repeat(placed, number)
    within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    return block, np.repeat(low, number) + within
