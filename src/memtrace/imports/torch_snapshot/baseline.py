"""What a device held before the first event of a snapshot: its end, and the events taken back.

torch keeps a number of events and forgets the oldest, or began to record when memory was in use
already. The segments of the snapshot are the state after the last event. Going back from it, event
by event, an allocation takes its block away, and a completed free puts one there, so that the
state before the first event remains:

    end: segments        <- free_completed a <- alloc b <- segment_alloc s        baseline
    [b live, s reserved]    [a is live again]   [no b]     [no s]                 [a live]

How large the block of such an `a` was, torch does not say: only what was requested. `_block_bytes`
works it out where it can be known.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from memtrace.imports.torch_snapshot.forms import (
    ALLOC,
    DEFAULT_POOL,
    FREE_COMPLETED,
    FREE_REQUESTED,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    Device,
    Pool,
)
from memtrace.imports.torch_snapshot.rounding import Rounding

_SMALL_PAGE_BYTES, _LARGE_PAGE_BYTES = 2 << 20, 20 << 20


@dataclass
class Range:
    """Memory from the driver. An expandable segment's may be cut by a later map or unmap."""

    start: int
    end: int
    stream: int
    pool: Pool
    small: bool
    expandable: bool


@dataclass
class LiveBlock:
    """An allocation from before the first event. `block_bytes` is 0 where it is not known."""

    address: int
    requested_bytes: int
    block_bytes: int
    stream: int
    pool: Pool
    stack: int
    freed: bool = False  # waits for a stream


@dataclass(frozen=True)
class Baseline:
    """The state before the first event, in the order of addresses.

    `unsure`: how many of the blocks may be larger than said, each by less than 1 MiB.
    """

    ranges: list[Range]
    blocks: list[LiveBlock]
    unsure: int = 0


class Ranges:
    """Disjoint ranges by address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[Range] = []

    def list(self) -> list[Range]:
        return self._ranges

    def add(self, new: Range) -> None:
        self.remove(new.start, new.end)
        at = bisect.bisect_left(self._starts, new.start)
        self._starts.insert(at, new.start)
        self._ranges.insert(at, new)

    def remove(self, start: int, end: int) -> None:
        """Cuts [start, end) out of whatever is there."""
        first = max(bisect.bisect_right(self._starts, start) - 1, 0)
        last = bisect.bisect_left(self._starts, end)
        kept: list[Range] = []
        for old in self._ranges[first:last]:
            if old.start < start:
                kept.append(_part(old, old.start, min(old.end, start)))
            if old.end > end:
                kept.append(_part(old, max(old.start, end), old.end))
        self._ranges[first:last] = kept
        self._starts[first:last] = [piece.start for piece in kept]

    def find(self, address: int) -> Range | None:
        at = bisect.bisect_right(self._starts, address) - 1
        if at >= 0 and address < self._ranges[at].end:
            return self._ranges[at]
        return None


def _part(whole: Range, start: int, end: int) -> Range:
    return Range(start, end, whole.stream, whole.pool, whole.small, whole.expandable)


def ranges_at_end(device: Device) -> Ranges:
    """The segments of the snapshot."""
    ranges = Ranges()
    for segment in device.segments:
        end = segment.address + segment.size_bytes
        ranges.add(
            Range(
                segment.address, end, segment.stream, segment.pool, segment.small,
                segment.expandable,
            )
        )  # fmt: skip
    return ranges


def work_out_baseline(device: Device, rounding: Rounding) -> Baseline:
    """What the device held before its first event."""
    ranges, live = ranges_at_end(device), _live_at_end(device)
    pools, sizes = device.pools, device.block_bytes
    reserves = device.name != "cpu"
    events = zip(device.actions, device.addresses, device.sizes, device.streams, strict=True)
    for place, (action, address, size, stream) in reversed(list(enumerate(events))):
        if action == ALLOC:
            live.pop(address, None)
        elif action == FREE_COMPLETED:
            live[address] = LiveBlock(
                address, size, sizes.get(place, 0), stream, pools.get(place, DEFAULT_POOL), 0, True
            )
        elif action == FREE_REQUESTED:
            block = live.get(address)
            if block is not None:
                block.freed = False
        elif not reserves:
            continue
        elif action in (SEGMENT_ALLOC, SEGMENT_MAP):
            ranges.remove(address, address + size)
        elif action in (SEGMENT_FREE, SEGMENT_UNMAP) and size > 0 and address > 0:
            expandable = action == SEGMENT_UNMAP
            small = size % _LARGE_PAGE_BYTES != 0 if expandable else size == _SMALL_PAGE_BYTES
            pool = pools.get(place, DEFAULT_POOL)
            ranges.add(Range(address, address + size, stream, pool, small, expandable))
    blocks = sorted(live.values(), key=lambda block: block.address)
    for block in blocks:
        home = ranges.find(block.address)
        if home is not None:
            block.pool = home.pool
            home.small = rounding.is_small(block.requested_bytes)
    unsure = _find_block_bytes(device, ranges, blocks, rounding)
    return Baseline(ranges.list(), blocks, unsure)


def _live_at_end(device: Device) -> dict[int, LiveBlock]:
    return {
        block.address: LiveBlock(
            block.address, block.requested_bytes, block.size_bytes, segment.stream, segment.pool,
            block.stack, not block.allocated,
        )
        for segment in device.segments
        for block in segment.blocks
        if block.active
    }  # fmt: skip


def _find_block_bytes(
    device: Device, ranges: Ranges, blocks: list[LiveBlock], rounding: Rounding
) -> int:
    """The sizes of blocks that were freed meanwhile: torch tells only what was requested.

    Up to the next block or the end of the segment there is one free block at most. Where the rules
    of splitting would not have left so little, the block reaches up to there. Else the first
    allocation beside it begins where it ends. Where none comes, the rounded size stands: these
    are counted.
    """
    open_ends: dict[int, tuple[LiveBlock, int]] = {}
    for place, block in enumerate(blocks):
        if block.block_bytes:
            continue
        home = ranges.find(block.address)
        rounded = block.block_bytes = rounding.round(block.requested_bytes)
        if home is None:
            continue
        end = home.end
        if place + 1 < len(blocks):
            end = min(end, blocks[place + 1].address)
        room = end - block.address
        if home.expandable or rounded >= room:
            continue
        if not rounding.splits(room, rounded):
            block.block_bytes = room
        elif not rounding.splits_exactly(rounded):
            open_ends[block.address] = (block, end)
    starts, unsure = sorted(open_ends), len(open_ends)
    for action, address in zip(device.actions, device.addresses, strict=True):
        if not open_ends:
            break
        if action == FREE_COMPLETED:
            open_ends.pop(address, None)
        elif action == ALLOC:
            at = bisect.bisect_left(starts, address) - 1
            found = open_ends.get(starts[at]) if at >= 0 else None
            if found is not None and address < found[1]:
                block, _ = found
                block.block_bytes = max(block.block_bytes, address - block.address)
                del open_ends[block.address]
                unsure -= 1
    return unsure
