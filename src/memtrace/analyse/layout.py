"""How a CUDA device's memory lay at an instant: its segments, the blocks in them, what was free.

Memory goes back to the device in *units*: a segment of cudaMalloc as a whole, an expandable
segment page by page (2 MiB of the small pool, 20 MiB of the large one). A unit with a live block in
it cannot go back. Free memory can be given to a block only within one *area*: a segment, or pages
of an expandable one that are mapped side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from memtrace.analyse.allocator_settings import page_bytes
from memtrace.analyse.counters import Flags, Int64s, Moment, equals, integers, may_hold
from memtrace.analyse.live_set import BYTES, live_allocations
from memtrace.trace import Process, Trace

DEFAULT_POOL = "default"
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Kind:
    """Memory that is interchangeable: a request is served from one kind only."""

    pool: str
    small: bool
    expandable: bool
    stream: int


@dataclass(frozen=True)
class Spans:
    """Stretches of addresses, sorted, that do not overlap; `home`: the number of its area."""

    start: Int64s
    size: Int64s
    home: Int64s

    @property
    def end(self) -> Int64s:
        return self.start + self.size


@dataclass(frozen=True)
class Layout:
    """A device's memory at an instant.

    Attributes:
        kinds: the kinds of memory; `area_kind`: the place there of each area's.
        areas: where blocks can lie (`home`: their own number).
        units: what can go back to the device.
        blocks: the blocks that were allocated, or waiting for another stream, in the order of their
            addresses; `home` -1: in no known area.
        rows: the rows of `allocations` of the blocks, in the same order.
        waiting: which blocks are freed, but in use by another stream.
        segments: how many segments or mapped ranges the areas are made of.
    """

    process: Process
    device: str
    moment: Moment
    kinds: tuple[Kind, ...]
    area_kind: Int64s
    areas: Spans
    units: Spans
    blocks: Spans
    waiting: Flags
    segments: int
    rows: pa.Table = field(repr=False, compare=False)

    @property
    def reserved_bytes(self) -> int:
        return int(self.areas.size.sum())

    @property
    def waiting_bytes(self) -> int:
        return int(self.blocks.size[self.waiting].sum())

    @property
    def allocated_bytes(self) -> int:
        return int(self.blocks.size[~self.waiting].sum())

    @property
    def free_bytes(self) -> int:
        """In areas, held by no block."""
        return self.reserved_bytes - int(held_in(self.areas, self.blocks).sum())

    @property
    def mismatch_bytes(self) -> int:
        """By how much segments and blocks differ from the device's totals; 0 in a whole trace."""
        totals = self.moment
        reserved = abs(self.reserved_bytes - (totals.reserved_bytes or 0))
        return reserved + abs(int(self.blocks.size.sum()) - (totals.active_bytes or 0))

    def unit_kind(self) -> Int64s:
        """The kind of each unit's area."""
        return self.area_kind[self.units.home]

    def without(self, gone: Flags) -> Spans:
        """The blocks but for some."""
        stay = ~gone
        blocks = self.blocks
        return Spans(blocks.start[stay], blocks.size[stay], blocks.home[stay])


def layout_at(
    trace: Trace, moment: Moment, process: Process, *, columns: list[str] | None = None
) -> Layout:
    """The layout after an event.

    Args:
        columns: of `allocations`, kept in the layout's rows.
    """
    kinds, area_kind, areas, segments = _areas(trace, moment)
    wanted = dict.fromkeys(["address", "free_seq", "alloc_time_ns", *(columns or [])])
    rows = live_allocations(trace, moment, of="active", columns=list(wanted))
    address = integers(rows, "address")
    order = np.argsort(address, kind="stable")
    rows = rows.take(pa.array(order))
    address = address[order]
    home = _home_of(address, areas)
    blocks = Spans(address, integers(rows, BYTES), home)
    pages = np.array([_page_bytes(kind, process) for kind in kinds], np.int64)
    return Layout(
        process=process,
        device=moment.device,
        moment=moment,
        kinds=kinds,
        area_kind=area_kind,
        areas=areas,
        units=_units(areas, pages[area_kind] if len(areas.start) else areas.size),
        blocks=blocks,
        waiting=integers(rows, "free_seq", missing=_NEVER) <= moment.seq,
        segments=segments,
        rows=rows,
    )


def held_in(places: Spans, blocks: Spans) -> Int64s:
    """How many bytes of each place lie in blocks."""
    ends = np.concatenate([[0], np.cumsum(blocks.size)])

    def below(address: Int64s) -> Int64s:
        number = np.searchsorted(blocks.start, address, side="right")
        last = np.maximum(number - 1, 0)
        beyond = np.maximum(blocks.end[last] - address, 0) if len(blocks.start) else 0
        held: Int64s = ends[number] - np.where(number > 0, beyond, 0)
        return held

    return below(places.end) - below(places.start)


def free_runs(areas: Spans, blocks: Spans) -> Spans:
    """What no block holds, each run as large as it can be within its area."""
    placed = blocks.home >= 0
    start, end, home = blocks.start[placed], blocks.end[placed], blocks.home[placed]
    # The beginning of each area ends a block of no size: runs go from one end to the next start.
    ends = np.concatenate([areas.start, end])
    homes = np.concatenate([areas.home, home])
    order = np.lexsort((ends, homes))
    ends, homes = ends[order], homes[order]
    starts = np.concatenate([start, areas.end])
    starts = starts[np.lexsort((starts, np.concatenate([home, areas.home])))]
    size = np.maximum(starts - ends, 0)
    some = size > 0
    return Spans(ends[some], size[some], homes[some])


def _page_bytes(kind: Kind, process: Process) -> int:
    """0: the area is one unit."""
    return page_bytes(kind.small, process) if kind.expandable else 0


_SEGMENT_COLUMNS = (
    "device", "address", "size_bytes", "alloc_seq", "free_seq", "stream", "pool", "small",
    "expandable",
)  # fmt: skip


def _areas(trace: Trace, moment: Moment) -> tuple[tuple[Kind, ...], Int64s, Spans, int]:
    found: dict[Kind, list[tuple[int, int]]] = {}
    segments = 0
    for group in trace.datasets["segments"].row_groups(moment.process):
        if not may_hold(group, "device", moment.device):
            continue
        table = group.read(_SEGMENT_COLUMNS)
        live = integers(table, "alloc_seq", missing=_NEVER) <= moment.seq
        live &= integers(table, "free_seq", missing=_NEVER) > moment.seq
        live &= equals(table, "device", moment.device)
        for row in table.filter(pa.array(live)).to_pylist():
            segments += 1
            kind = Kind(
                row["pool"] or DEFAULT_POOL, bool(row["small"]), bool(row["expandable"]),
                row["stream"] or 0,
            )  # fmt: skip
            found.setdefault(kind, []).append((row["address"] or 0, row["size_bytes"] or 0))
    kinds = tuple(sorted(found, key=lambda k: (k.pool != DEFAULT_POOL, k.pool, k.small, k.stream)))
    places = []
    for number, kind in enumerate(kinds):
        ranges = sorted(found[kind])
        if kind.expandable:
            ranges = _joined(ranges)
        places += [(start, size, number) for start, size in ranges]
    columns = np.array(sorted(places), np.int64).reshape(-1, 3)
    numbers = np.arange(len(columns), dtype=np.int64)
    spans = Spans(columns[:, 0].copy(), columns[:, 1].copy(), numbers)
    return kinds, columns[:, 2].copy(), spans, segments


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pages that lie side by side, as one: a block may reach over several of them."""
    joined: list[tuple[int, int]] = []
    for start, size in ranges:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + size)
        else:
            joined.append((start, size))
    return joined


def _home_of(address: Int64s, areas: Spans) -> Int64s:
    if not len(areas.start):
        return np.full(len(address), -1, np.int64)
    place = np.searchsorted(areas.start, address, side="right") - 1
    inside = (place >= 0) & (address < areas.end[np.maximum(place, 0)])
    return np.where(inside, place, -1)


def _units(areas: Spans, page: Int64s) -> Spans:
    size = np.where(page > 0, page, np.maximum(areas.size, 1))
    number = -(-areas.size // size)
    home = np.repeat(areas.home, number)
    within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    start = areas.start[home] + within * size[home]
    return Spans(start, np.minimum(size[home], areas.end[home] - start), home)
